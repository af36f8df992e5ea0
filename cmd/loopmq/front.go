package main

import (
	"errors"
	"sync/atomic"

	"loopmq"
	"loopmq/webhooks"
)

var errStarting = errors.New("starting")

// front is what the admin listener knows of a broker. It is there before the store is
// open and what it holds is loaded, and until the broker has shut down: each may take
// a while, and that is when it is asked. It is safe for concurrent use.
type front struct {
	broker  atomic.Pointer[loopmq.Broker]     // nil: the store isn't open yet
	hooks   atomic.Pointer[webhooks.Webhooks] // nil: not yet
	waiting atomic.Pointer[error]             // why the broker takes no connections yet; nil: it may
}

func newFront() *front {
	f := new(front)
	f.notReady(errStarting)
	return f
}

func (f *front) notReady(why error) { f.waiting.Store(&why) }

func (f *front) serving() { f.waiting.Store(nil) }

func (f *front) ready() error {
	if why := f.waiting.Load(); why != nil {
		return *why
	}
	return f.broker.Load().Ready()
}

func (f *front) health() any {
	if b := f.broker.Load(); b != nil {
		return b.Health()
	}
	return loopmq.Health{Status: "stopped", Reason: f.ready().Error(), Version: version}
}
