package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"loopmq"
	coapbridge "loopmq/bridges/coap"
	httpbridge "loopmq/bridges/http"
	opcuaserver "loopmq/bridges/opcua/server"
	"loopmq/config"
	"loopmq/metrics"
	"loopmq/redisstore"
)

// adminGrace is the time that requests to the admin listener get to finish once
// the broker is down.
const adminGrace = time.Second

// serve runs a broker until ctx ends, then shuts it down within the grace time.
func serve(ctx context.Context, i invocation, c *config.Config, stderr io.Writer) error {
	level := new(slog.LevelVar)
	level.Set(c.Log.Level)
	logger := newLogger(c, level, stderr)
	// Libraries write to the standard logger; it shall look like the rest.
	slog.SetDefault(logger)

	options := optionsOf(c)
	options.Loops = cmp.Or(options.Loops, runtime.GOMAXPROCS(0))
	options.Logger, options.Version, options.Metrics = logger, version, metrics.New(options.Loops)
	who, err := newIdentity(c, options.Metrics, logger)
	if err != nil {
		return err
	}
	defer who.close()
	options.Recorder, options.RefuseAddress = who.bans.Recorder(), who.bans.Banned
	listeners, err := listenersOf(c, who)
	web, wrong := httpOf(c, who)
	datagrams, wrongToo := coapOf(c, who)
	if err = errors.Join(err, wrong, wrongToo); err != nil {
		return err
	}
	events, err := newHooks(c, who)
	servers, wrong := newOPCUA(c, who)
	variables, wrongToo := opcuaServerOf(c, who)
	if err = errors.Join(err, wrong, wrongToo); err != nil {
		return err
	}
	options.Recorder = loopmq.Recorders(options.Recorder, events.matcher.Recorder())
	f := newFront()
	admin, err := f.admin(c, who, options.Metrics, logger)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
		defer cancel()
		_ = admin.Shutdown(ctx) // Who was cut off can tell.
	}()
	adminAt, err := listenAdmin(c, admin)
	if err != nil {
		return err
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	st, err := openStore(ctx, c.Store, logger, func(why error) {
		f.notReady(fmt.Errorf("waiting for Redis: %w", why))
	})
	switch {
	case err != nil && ctx.Err() != nil:
		logger.Info("shutdown") // as asked, before there was anything to shut down
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", named(c, "store", "--store"), err)
	}
	f.notReady(errStarting)
	options.Store, options.Drain = st, drainOf(&c.Drain)
	if address := adminAt[1].(string); address != off {
		options.AdminAddress = address
	}
	if r, ok := st.(*redisstore.Store); ok {
		options.AcknowledgeEarly, options.ServeWithoutStore = r.AcknowledgesEarly(), r.Degraded()
	}
	r := &reloader{invocation: i, started: c, current: c, identity: who, hooks: events, opcua: servers, admin: admin, level: level, log: logger}
	err = serveFrom(ctx, c, options, listeners, web, datagrams, variables, r, f, hangups, adminAt)
	return first(err, st.Close())
}

func newLogger(c *config.Config, level slog.Leveler, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// serveFrom runs a broker on an open store.
func serveFrom(ctx context.Context, c *config.Config, options loopmq.Options, listeners []loopmq.Listener, web *httpbridge.Options, datagrams *coapbridge.Options, variables *opcuaserver.Options, r *reloader, f *front, hangups <-chan os.Signal, adminAt []any) error {
	broker, err := loopmq.New(options)
	if err != nil {
		return err
	}
	r.broker = broker
	f.broker.Store(broker)
	broker.Metrics().Gauge(fmt.Sprintf("loopmq_build_info{version=%q}", version), func() float64 { return 1 })
	bound := []any{"version", version}
	if err := broker.Start(); err != nil {
		return first(err, stop(r, broker, c.Drain.Grace))
	}
	if err := r.identity.enforce(ctx, broker); err != nil {
		return first(err, stop(r, broker, c.Drain.Grace))
	}
	if err := r.hooks.start(broker, &options); err != nil {
		return first(err, stop(r, broker, c.Drain.Grace))
	}
	f.hooks.Store(r.hooks.running)
	defer r.hooks.stop(c.Drain.Grace) // before the store is closed, whatever happens
	for i := range c.Listeners {
		l, address := &c.Listeners[i], off
		if l.Address != off {
			addr, err := broker.Listen(listeners[i])
			key := fmt.Sprintf("listeners[%d].address", i)
			switch {
			case errors.Is(err, syscall.EADDRINUSE) && l.Name != "tcp" && c.Source(key) == (config.Source{}):
				// Nobody asked for it: a second broker on a machine starts without.
				options.Logger.Warn("listener_off", "name", l.Name, "error", err, "advice", "set --"+l.Name+" to another address, or to off")
			case err != nil:
				return first(fmt.Errorf("%s: %w", named(c, key, "--"+l.Name), err), stop(r, broker, c.Drain.Grace))
			default:
				address = addr.String()
			}
		}
		bound = append(bound, l.Name, address)
	}
	httpAddress := off
	if web != nil {
		web.Broker, web.Logger = broker, options.Logger
		r.http = httpbridge.New(*web)
		addr, err := r.http.Start(c.HTTP.Address)
		switch {
		case errors.Is(err, syscall.EADDRINUSE) && c.Source("http.address") == (config.Source{}):
			options.Logger.Warn("listener_off", "name", "http", "error", err, "advice", "set --http to another address, or to off")
			r.http = nil
		case err != nil:
			return first(fmt.Errorf("%s: %w", named(c, "http.address", "--http"), err), stop(r, broker, c.Drain.Grace))
		default:
			httpAddress = addr.String()
		}
	}
	bound = append(bound, "http", httpAddress)
	if datagrams != nil {
		datagrams.Broker, datagrams.Logger = broker, options.Logger
		at, err := r.startCoAP(c, datagrams)
		if err != nil {
			return first(err, stop(r, broker, c.Drain.Grace))
		}
		bound = append(bound, at...)
	} else {
		bound = append(bound, "coap", off)
	}
	if err := r.opcua.start(broker, &options); err != nil {
		return first(err, stop(r, broker, c.Drain.Grace))
	}
	defer r.opcua.stop(c.Drain.Grace)
	if variables != nil {
		at, err := r.startOPCUAServer(c, variables, broker, &options)
		if err != nil {
			return first(err, stop(r, broker, c.Drain.Grace))
		}
		bound = append(bound, at...)
	}
	f.serving()
	options.Logger.Info("listening", append(bound, adminAt...)...)

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
	r.opcua.stop(drain.Grace) // another node goes on with its servers meanwhile
	if err := broker.Drain(context.Background(), drainOf(drain)); err != nil {
		return first(err, stop(r, broker, drain.Grace))
	}
	options.Logger.Info("shutdown", "grace", drain.Grace)
	r.hooks.stop(drain.Grace) // while replies can be published
	return stop(r, broker, drain.Grace)
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

// stop shuts the broker down; /readyz fails from here on. Requests to its bridges are
// answered before.
func stop(r *reloader, broker *loopmq.Broker, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if r.http != nil {
		_ = r.http.Shutdown(ctx) // If time is up, the broker says so.
	}
	if r.coap != nil {
		_ = r.coap.Shutdown(ctx)
	}
	r.stopOPCUAServer(grace)
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
