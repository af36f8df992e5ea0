package local

import "sync"

// Bell tells receivers in this process that outboxes have events, see
// store.Outbox.Notify. The zero value is usable. It is safe for concurrent use.
type Bell struct {
	mu       sync.Mutex
	channels map[string]chan struct{}
}

// Channel is store.Outbox.Notify.
func (b *Bell) Channel(endpoint string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.channels[endpoint]
	if c == nil {
		if b.channels == nil {
			b.channels = make(map[string]chan struct{})
		}
		c = make(chan struct{}, 1)
		c <- struct{}{}
		b.channels[endpoint] = c
	}
	return c
}

// Ring tells the receiver of an endpoint, if there is one. It doesn't block.
func (b *Bell) Ring(endpoint string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ring(b.channels[endpoint])
}

// RingAll tells all receivers: something may have been missed. It doesn't block.
func (b *Bell) RingAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.channels {
		ring(c)
	}
}

func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // there is no receiver, or it has been told
	}
}
