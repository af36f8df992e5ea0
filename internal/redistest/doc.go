// Package redistest starts real redis-servers for tests: one, one behind
// Sentinels, or a Redis Cluster. Each has a free port of 127.0.0.1 and a folder of
// its own, and can be killed, stopped and started again. They end with their test,
// and with the process if that dies first.
//
// There is no way to run without a redis-server: a test that would be skipped
// where it is missing would prove nothing where it matters.
package redistest

// TB is what is needed of a testing.TB; programs that aren't tests, such as chaos
// runs, bring their own.
type TB interface {
	Helper()
	// Fatalf says what went wrong and doesn't return.
	Fatalf(format string, args ...any)
	// Cleanup takes a function to call at the end, the last one first.
	Cleanup(func())
	// TempDir returns a new folder that is removed at the end.
	TempDir() string
}
