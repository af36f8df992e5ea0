// Package signals is what the commands do about SIGTERM and SIGINT.
package signals

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Context returns a context that ends with the first SIGTERM or SIGINT, which asks the process to come to its end. A second one, of
// those who don't want to wait, ends the process at once, with the exit code second. It is for main: it can't be undone.
func Context(second int) context.Context {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(second)
	}()
	return ctx
}
