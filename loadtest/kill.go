package loadtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// outputBytesMax is how much of a failed command's output its error has.
const outputBytesMax = 1 << 10

// RunKills runs each command when its time has come, counted from the call, with sh. It returns when all have ended; when ctx ends, commands
// whose time hasn't come don't run. failed, called from any goroutine, gets what the commands that fail have said. What a command
// starts in the background, such as a broker, lives on.
func RunKills(ctx context.Context, kills []Kill, failed func(Kill, error)) {
	var all sync.WaitGroup
	for _, k := range kills {
		all.Go(func() {
			due := time.NewTimer(k.After)
			defer due.Stop()
			select {
			case <-due.C:
			case <-ctx.Done():
				return
			}
			if err := k.run(ctx); err != nil {
				failed(k, err)
			}
		})
	}
	all.Wait()
}

// run runs the command. ctx ends it.
func (k Kill) run(ctx context.Context) error {
	// A file and not a pipe: what stays in the background would keep a pipe open, or die by writing to it when it is closed.
	output, err := os.CreateTemp("", "loadtest-kill-")
	if err != nil {
		return err
	}
	defer func() { _, _ = output.Close(), os.Remove(output.Name()) }()
	cmd := exec.CommandContext(ctx, "sh", "-c", k.Command)
	cmd.Stdout, cmd.Stderr = output, output
	ownGroup(cmd)
	if err = cmd.Run(); err == nil || ctx.Err() != nil {
		return nil
	}
	said := make([]byte, outputBytesMax)
	n, readErr := output.ReadAt(said, 0)
	if readErr != nil && !errors.Is(readErr, io.EOF) {
		return errors.Join(err, readErr)
	}
	if said = bytes.TrimSpace(said[:n]); len(said) > 0 {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return err
}
