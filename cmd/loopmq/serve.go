package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"loopmq"
	httpbridge "loopmq/bridges/http"
	"loopmq/config"
	"loopmq/redisstore"
	"loopmq/store"
)

// adminGrace is the time that requests to the admin listener get to finish once
// the broker is down.
const adminGrace = time.Second

var errStarting = errors.New("starting")

// serve runs a broker until ctx ends, then shuts it down within the grace time.
func serve(ctx context.Context, i invocation, c *config.Config, stderr io.Writer) error {
	level := new(slog.LevelVar)
	level.Set(c.Log.Level)
	logger := newLogger(c, level, stderr)
	// Libraries write to the standard logger; it shall look like the rest.
	slog.SetDefault(logger)

	st, err := openStore(ctx, c.Store, logger)
	if err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	r := &reloader{invocation: i, started: c, current: c, level: level, log: logger}
	err = serveFrom(ctx, c, r, st, logger)
	return first(err, st.Close())
}

func newLogger(c *config.Config, level slog.Leveler, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func serveFrom(ctx context.Context, c *config.Config, r *reloader, st store.Store, logger *slog.Logger) error {
	options := optionsOf(c)
	options.Logger, options.Store, options.Version = logger, st, version
	if r, ok := st.(*redisstore.Store); ok {
		options.AcknowledgeEarly, options.ServeWithoutStore = r.AcknowledgesEarly(), r.Degraded()
	}
	broker, err := loopmq.New(options)
	if err != nil {
		return err
	}
	r.broker = broker
	broker.Metrics().Gauge(fmt.Sprintf("loopmq_build_info{version=%q}", version), func() float64 { return 1 })

	// The admin listener is there before the broker has loaded what is stored, and
	// until it has shut down: both may take a while, and that is when it is asked.
	var serving atomic.Bool
	admin := httpbridge.NewAdmin(httpbridge.AdminOptions{
		Metrics: broker.Metrics(),
		Health:  func() any { return broker.Health() },
		Ready: func() error {
			if !serving.Load() {
				return errStarting
			}
			return broker.Ready()
		},
		Clients: func(ctx context.Context, after string, limit int) (any, error) {
			return broker.Clients(ctx, after, limit)
		},
		Kick: func(ctx context.Context, clientID string) error {
			err := broker.Kick(ctx, clientID)
			if errors.Is(err, loopmq.ErrNoClient) {
				return httpbridge.ErrNoClient
			}
			return err
		},
		Logger: logger,
	})
	bound := []any{"version", version}
	adminAddress := off
	if c.Admin.Address != off {
		addr, err := admin.Start(c.Admin.Address)
		if err != nil {
			return first(fmt.Errorf("%s: %w", named(c, "admin.address", "--admin"), err), stop(broker, c.Drain.Grace))
		}
		adminAddress = addr.String()
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
			defer cancel()
			_ = admin.Shutdown(ctx) // Who was cut off can tell.
		}()
	}
	if err := broker.Start(); err != nil {
		return first(err, stop(broker, c.Drain.Grace))
	}
	for i := range c.Listeners {
		l, address := &c.Listeners[i], off
		if l.Address != off {
			addr, err := broker.Listen(listenerOf(c, l))
			if err != nil {
				key := fmt.Sprintf("listeners[%d].address", i)
				return first(fmt.Errorf("%s: %w", named(c, key, "--"+l.Name), err), stop(broker, c.Drain.Grace))
			}
			address = addr.String()
		}
		bound = append(bound, l.Name, address)
	}
	serving.Store(true)
	logger.Info("listening", append(bound, "admin", adminAddress)...)

	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for ctx.Err() == nil {
		select {
		case <-hangups:
			r.reload()
		case <-ctx.Done():
		}
	}
	// It ends by itself: nobody connects any more, and who is connected leaves at a
	// known rate. So the grace time is for what comes after it.
	drain := &r.current.Drain
	if err := broker.Drain(context.Background(), drainOf(drain)); err != nil {
		return first(err, stop(broker, drain.Grace))
	}
	logger.Info("shutdown", "grace", drain.Grace)
	return stop(broker, drain.Grace)
}

// named returns how an operator knows a value: by the place where it was set, or by
// the flag that would set it.
func named(c *config.Config, key, flag string) string {
	s := c.Source(key)
	switch {
	case s.Name == "":
		return flag
	case s.Line > 0:
		return s.String() + ": " + key
	}
	return s.String()
}

// stop shuts the broker down; /readyz fails from here on.
func stop(broker *loopmq.Broker, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := broker.Shutdown(ctx); err != nil {
		return fmt.Errorf("shut down within --grace %v: %w", grace, err)
	}
	return nil
}

// first returns the first error, which the later ones follow from.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
