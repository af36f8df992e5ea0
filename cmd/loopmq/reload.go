package main

import (
	"log/slog"
	"strings"

	"loopmq"
	"loopmq/config"
)

// reloader applies a changed configuration to a running broker.
type reloader struct {
	invocation invocation
	started    *config.Config // what the broker was started with
	current    *config.Config // what was read last, and was good
	broker     *loopmq.Broker
	identity   *identity
	level      *slog.LevelVar
	log        *slog.Logger
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
	if err != nil {
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
	apply(r.broker)
	r.current = next
	r.level.Set(min(r.level.Level(), next.Log.Level)) // The next line is to be seen, if either level shows it.
	r.log.Info("reload", "changed", changed, "need_restart", restart)
	r.level.Set(next.Log.Level)
}
