package main

import (
	"errors"
	"log/slog"
	"strings"

	"loopmq"
	coapbridge "loopmq/bridges/coap"
	httpbridge "loopmq/bridges/http"
	opcuaserver "loopmq/bridges/opcua/server"
	"loopmq/config"
)

// reloader applies a changed configuration to a running broker.
type reloader struct {
	invocation  invocation
	started     *config.Config // what the broker was started with
	current     *config.Config // what was read last, and was good
	broker      *loopmq.Broker
	identity    *identity
	admin       *httpbridge.Admin
	http        *httpbridge.Bridge // nil: it is off
	coap        *coapbridge.Bridge // nil: it is off
	hooks       *hooks
	opcua       *opcua
	opcuaServer *opcuaserver.Server // nil: it is off
	level       *slog.LevelVar
	log         *slog.Logger
}

// reload reads file and environment again. All that can change without a restart
// does, or nothing if anything is wrong.
func (r *reloader) reload() {
	next, problems := r.invocation.load()
	if len(problems) > 0 {
		r.log.Error("reload_refused", "problems", problems)
		return
	}
	apply, err := r.identity.prepare()
	access, wrong := accessOf(next)
	if err = errors.Join(err, wrong); err != nil {
		r.log.Error("reload_refused", "problems", strings.Split(err.Error(), "\n"))
		return
	}
	applyHooks, err := r.hooks.prepare(next)
	applyOPCUA, wrong := r.opcua.prepare(next)
	if err = errors.Join(err, wrong); err != nil {
		r.log.Error("reload_refused", "problems", strings.Split(err.Error(), "\n"))
		return
	}
	var changed, restart []string
	for _, change := range config.Changes(r.current, next) {
		if change.Reload {
			changed = append(changed, change.Path)
		}
	}
	for _, change := range config.Changes(r.started, next) {
		if !change.Reload {
			restart = append(restart, change.Path)
		}
	}
	if err := r.limit(next); err != nil {
		r.log.Error("reload_refused", "problems", []string{err.Error()})
		return
	}
	apply(r.broker)
	r.admin.SetAccess(access)
	if r.http != nil {
		r.http.Forget()
	}
	if r.coap != nil {
		r.coap.Forget()
	}
	if err := applyHooks(); err != nil {
		r.log.Error("webhooks_enable", "error", err) // They have the new endpoints, disabled as they were.
	}
	if err := applyOPCUA(); err != nil { // it was checked
		r.log.Error("reload_opcua", "error", err)
	}
	if err := r.broker.SetDrain(drainOf(&next.Drain)); err != nil { // it was checked
		r.log.Error("reload_drain", "error", err)
	}
	r.current = next
	r.level.Set(min(r.level.Level(), next.Log.Level)) // The next line is to be seen, if either level shows it.
	r.log.Info("reload", "changed", changed, "need_restart", restart)
	r.level.Set(next.Log.Level)
	r.broker.LogPackets(next.Log.Level <= slog.LevelDebug)
}

// limit applies the limits of a configuration that a running broker can change, and how
// it is drained.
func (r *reloader) limit(next *config.Config) error {
	limits := limitsOf(&r.started.Limits)
	changed := limitsOf(&next.Limits)
	limits.Connections, limits.ConnectionRate, limits.Connects = changed.Connections, changed.ConnectionRate, changed.Connects
	limits.Client, limits.Address, limits.Node = changed.Client, changed.Address, changed.Node
	limits.RetainedMessages, limits.RetainedBytes, limits.TotalSubscriptions = changed.RetainedMessages, changed.RetainedBytes, changed.TotalSubscriptions
	if err := r.broker.SetLimits(limits); err != nil {
		return err
	}
	for i := range next.Listeners {
		l := &next.Listeners[i]
		if err := r.broker.SetListenerLimits(l.Name, quotaOf(&l.Limits)); err != nil {
			return err
		}
	}
	return r.broker.SetDrain(drainOf(&next.Drain))
}
