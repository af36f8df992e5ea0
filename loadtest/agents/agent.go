package agents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"loopmq/loadtest"
)

// waitingMax bounds connections of coordinators: all but one of them are in a handshake, or are told that the agent is busy.
const waitingMax = 16

// An engine runs a share: loadtest.Run, or in tests what stands for it.
type engine func(context.Context, *loadtest.Scenario, loadtest.Options) (*loadtest.Result, error)

// Serve takes coordinators that know the token from the listener, one at a time, and runs what they ask for, until ctx ends. It closes
// the listener. The token must not be empty. logger may be nil.
func Serve(ctx context.Context, listener net.Listener, token string, logger *slog.Logger) error {
	return serve(ctx, listener, token, logger, loadtest.Run)
}

func serve(ctx context.Context, listener net.Listener, token string, logger *slog.Logger, run engine) error {
	defer func() { _ = listener.Close() }()
	if token == "" {
		return errors.New("an agent needs a token")
	}
	if logger == nil {
		logger = slog.Default()
	}
	var sessions sync.WaitGroup
	defer sessions.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Of this context, so that it has ended when Accept fails: its parent's end may close the listener first.
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	places, busy := make(chan struct{}, waitingMax), make(chan struct{}, 1)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		sessions.Go(func() {
			defer func() { <-places }()
			defer func() { _ = conn.Close() }()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			logger := logger.With("coordinator", conn.RemoteAddr().String())
			l, err := welcome(conn, token)
			if err != nil {
				logger.Warn("handshake", "error", err)
				return
			}
			select {
			case busy <- struct{}{}:
				defer func() { <-busy }()
			default:
				_ = l.send(message{Error: "the agent is busy with another run"})
				_ = conn.SetDeadline(time.Now().Add(helloMax))
				l.drain()
				return
			}
			logger.Info("run")
			if err := session(ctx, l, run, logger); err != nil {
				logger.Warn("run", "error", err)
				return
			}
			logger.Info("done")
		})
	}
}

// ServePipe runs the one share that a coordinator asks for over the pipes of a child process, which it has started.
func ServePipe(ctx context.Context, in io.ReadCloser, out io.Writer, logger *slog.Logger) error {
	return session(ctx, newLink(in, out, in.Close), loadtest.Run, logger)
}

// session runs one share. Its end is the end of the link.
func session(ctx context.Context, l *link, run engine, logger *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var alive sync.WaitGroup
	defer alive.Wait()
	defer cancel(nil)
	alive.Go(func() { sayAlive(ctx, l) })

	heard := make(chan message)
	go func() {
		for {
			var m message
			if err := l.receive(&m, messageBytesMax); err != nil {
				cancel(fmt.Errorf("coordinator %w: %w", ErrLost, err))
				return
			}
			select {
			case heard <- m:
			case <-ctx.Done():
				return
			}
		}
	}()

	// last sends what ends the session, and waits until the coordinator has taken it and hung up: closing before it has could
	// throw away what it hasn't read.
	last := func(m message) error {
		err := l.send(m)
		if err == nil {
			<-ctx.Done()
		}
		return err
	}
	s, err := firstScenario(ctx, heard)
	if err != nil {
		if ctx.Err() == nil {
			alive.Go(func() { obey(ctx, heard, nil, func() {}, cancel) })
			_ = last(message{Error: err.Error()})
		}
		return err
	}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	begin := make(chan struct{})
	alive.Go(func() { obey(ctx, heard, begin, stop, cancel) })
	result, err := run(runCtx, s, loadtest.Options{
		Logger: logger,
		// A coordinator that takes no progress is found out by obey.
		Progress: func(second loadtest.Second) { _ = l.send(message{Second: &second}) },
		Started: func(ctx context.Context) (time.Time, error) {
			if err := l.send(message{Ready: true}); err != nil {
				return time.Time{}, err
			}
			select {
			case <-begin: // which goes to all at once: a time would need clocks that agree
				return time.Now(), nil
			case <-ctx.Done():
				return time.Time{}, context.Cause(ctx)
			}
		},
	})
	if lost := context.Cause(ctx); lost != nil {
		return lost
	}
	if result == nil {
		_ = last(message{Error: fmt.Sprint(err)})
		return err
	}
	var text bytes.Buffer
	if err := result.WriteJSON(&text); err != nil {
		return err
	}
	return last(message{Result: text.Bytes()})
}

// firstScenario waits for what is to be run.
func firstScenario(ctx context.Context, heard <-chan message) (*loadtest.Scenario, error) {
	silence := time.NewTimer(silenceMax)
	defer silence.Stop()
	for {
		select {
		case m := <-heard:
			silence.Reset(silenceMax)
			switch s := m.Scenario; {
			case s == nil:
			case len(s.Kill) > 0:
				// Whoever has the token makes load; that is no leave to run commands here.
				return nil, fmt.Errorf("%w: agents run no commands", ErrProtocol)
			default:
				return s, nil
			}
		case <-silence.C:
			return nil, fmt.Errorf("coordinator %w: nothing heard for %v", ErrLost, silenceMax)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// obey does what the coordinator says during the run, and ends all if it says nothing.
func obey(ctx context.Context, heard <-chan message, begin chan<- struct{}, stop func(), lost context.CancelCauseFunc) {
	silence := time.NewTimer(silenceMax)
	defer silence.Stop()
	for {
		select {
		case m := <-heard:
			silence.Reset(silenceMax)
			if m.Begin && begin != nil {
				close(begin)
				begin = nil
			}
			if m.Stop {
				stop()
			}
		case <-silence.C:
			lost(fmt.Errorf("coordinator %w: nothing heard for %v", ErrLost, silenceMax))
			return
		case <-ctx.Done():
			return
		}
	}
}

// sayAlive sends an empty message each second.
func sayAlive(ctx context.Context, l *link) {
	ticker := time.NewTicker(aliveEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if l.send(message{}) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
