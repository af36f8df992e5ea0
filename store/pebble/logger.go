package pebble

import (
	"fmt"
)

// pebbleLogger is what Pebble logs to.
type pebbleLogger struct{ s *Store }

// Infof gets Pebble's account of what it does.
func (l pebbleLogger) Infof(format string, args ...any) {
	l.s.log.Debug("pebble", "text", fmt.Sprintf(format, args...))
}

// Errorf gets errors in the background, which Pebble tries again.
func (l pebbleLogger) Errorf(format string, args ...any) {
	l.s.log.Error("pebble", "error", fmt.Sprintf(format, args...))
}

// Fatalf gets what Pebble takes for the end of the process. Here it is that of
// the store: the broker lives on, and says that it is degraded. Nothing is given
// to Pebble after that, which would go on as if it had succeeded.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	_ = l.s.fail(fmt.Errorf(format, args...)) // all calls return it from now on
}
