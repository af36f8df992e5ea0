package redisstore

import (
	"context"
	"time"

	"loopmq/store"
)

// outboxView has no outboxes yet: they follow in the next commits.
type outboxView struct{ *Store }

func (outboxView) Take(context.Context, string, string, int, int) ([]store.Taken, error) {
	return nil, store.ErrUnavailable
}

func (outboxView) Resume(context.Context, string, string, store.EventID, int, int) ([]store.Taken, error) {
	return nil, store.ErrUnavailable
}
func (outboxView) Renew(context.Context, string, time.Duration) error { return store.ErrUnavailable }
func (outboxView) Done(context.Context, string, []store.EventID) error {
	return store.ErrUnavailable
}

func (outboxView) Bury(context.Context, string, []store.Dead, int) (int, error) {
	return 0, store.ErrUnavailable
}

func (outboxView) Dead(context.Context, string, store.EventID, int) ([]store.Dead, error) {
	return nil, store.ErrUnavailable
}

func (outboxView) Replay(context.Context, string, []store.EventID) (int, error) {
	return 0, store.ErrUnavailable
}

func (outboxView) Drop(context.Context, string, []store.EventID) (int, error) {
	return 0, store.ErrUnavailable
}

func (outboxView) Disable(context.Context, string, string) error { return store.ErrUnavailable }
func (outboxView) State(context.Context, string) (store.OutboxState, error) {
	return store.OutboxState{}, store.ErrUnavailable
}
func (outboxView) Endpoints(context.Context) ([]string, error) { return nil, store.ErrUnavailable }
func (outboxView) Remove(context.Context, string) error        { return store.ErrUnavailable }
func (outboxView) Notify(string) <-chan struct{}               { return nil }

func (outboxView) Acquire(context.Context, string, string, time.Duration) (uint64, bool, error) {
	return 0, false, store.ErrUnavailable
}
func (outboxView) Release(context.Context, string, string) error { return store.ErrUnavailable }

// Outbox returns the outboxes.
func (s *Store) Outbox() store.Outbox { return outboxView{s} }

// Leases returns the leases.
func (s *Store) Leases() store.Leases { return outboxView{s} }
