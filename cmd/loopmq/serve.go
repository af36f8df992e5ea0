package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"loopmq"
	httpbridge "loopmq/bridges/http"
	"loopmq/redisstore"
	"loopmq/store"
)

// adminGrace is the time that requests to the admin listener get to finish once
// the broker is down.
const adminGrace = time.Second

var errStarting = errors.New("starting")

// serve runs a broker until ctx ends, then shuts it down within the grace time.
func serve(ctx context.Context, c config, stderr io.Writer) error {
	logger := newLogger(c, stderr)
	// Libraries write to the standard logger; it shall look like the rest.
	slog.SetDefault(logger)

	st, err := openStore(ctx, c.store, logger)
	if err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	err = serveFrom(ctx, c, st, logger)
	return first(err, st.Close())
}

func newLogger(c config, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.logLevel}
	if c.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func serveFrom(ctx context.Context, c config, st store.Store, logger *slog.Logger) error {
	options := loopmq.Options{Loops: c.loops, Logger: logger, Store: st, Version: version}
	if r, ok := st.(*redisstore.Store); ok {
		options.AcknowledgeEarly, options.ServeWithoutStore = r.AcknowledgesEarly(), r.Degraded()
	}
	broker, err := loopmq.New(options)
	if err != nil {
		return err
	}
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
	bound := []any{"version", version, "tcp", off, "admin", off}
	if c.admin != off {
		addr, err := admin.Start(c.admin)
		if err != nil {
			return first(fmt.Errorf("--admin: %w", err), stop(broker, c.grace))
		}
		bound[5] = addr.String()
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
			defer cancel()
			_ = admin.Shutdown(ctx) // Who was cut off can tell.
		}()
	}
	if err := broker.Start(); err != nil {
		return first(err, stop(broker, c.grace))
	}
	if c.tcp != off {
		addr, err := broker.Listen(loopmq.Listener{Address: c.tcp})
		if err != nil {
			return first(fmt.Errorf("--tcp: %w", err), stop(broker, c.grace))
		}
		bound[3] = addr.String()
	}
	serving.Store(true)
	logger.Info("listening", bound...)

	<-ctx.Done()
	// It ends by itself: nobody connects any more, and who is connected leaves at a
	// known rate. So --grace is for what comes after it.
	if err := broker.Drain(context.Background(), c.drain); err != nil {
		return first(err, stop(broker, c.grace))
	}
	logger.Info("shutdown", "grace", c.grace)
	return stop(broker, c.grace)
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
