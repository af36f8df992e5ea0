package loopmq_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// logBuffer is a writer for loggers of several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (w *logBuffer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *logBuffer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// Each packet of a client is a debug message under its name, and so is each message that it gets; with a higher level there are none.
func TestPacketsAreLogged(t *testing.T) {
	t.Parallel()
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo} {
		var log logBuffer
		s := brokertest.Start(t, func(o *loopmq.Options) {
			o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level}))
		})
		c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("c1"))
		c.Subscribe("t", 0)
		c.Publish("t", "x", 1)
		c.ExpectPublish("t", "x")
		c.Ping()
		for _, want := range []string{
			"msg=subscribe client_id=c1 size=", "msg=publish client_id=c1 size=", "msg=pingreq client_id=c1 size=2",
			"msg=deliver client_id=c1 topic=t qos=0",
		} {
			if logged := strings.Contains(log.String(), want); logged != (level == slog.LevelDebug) {
				t.Errorf("level %v: %q was logged: %t, in\n%s", level, want, logged, log.String())
			}
		}
	}
}
