package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"loopmq/codec"
)

// Mourner has a Will, connects again and again, and ends its connections in all
// ways. In the Ledger its Wills are messages, numbered by connection, and
// acknowledged if they have to be published.
type Mourner struct {
	Client
	TopicName         string
	WillDelayInterval uint32 // seconds; with 3.x 0
	Rand              *rand.Rand
	// Stay is how long a connection lasts at most, unless it is cut.
	Stay time.Duration

	next int
}

// errLeft ends a connection, so that each makes the next one.
var errLeft = errors.New("left")

// Run connects until stop is closed, or ctx ends.
func (m *Mourner) Run(ctx context.Context, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(reconnectPause + m.random(20*reconnectPause)):
			m.live(ctx)
		}
	}
}

// live is one connection.
func (m *Mourner) live(ctx context.Context) {
	m.next++
	will := &codec.Will{QoS: 2, TopicName: []byte(m.TopicName), Payload: fmt.Appendf(nil, "%s %d", m.ClientID, m.next)}
	if m.WillDelayInterval > 0 {
		will.Properties.Set(codec.PropWillDelayInterval)
		will.Properties.WillDelayInterval = m.WillDelayInterval
	}
	m.Ledger.Sent(m.ClientID, m.next, will.QoS)
	stay, disconnect := m.random(m.Stay), m.Rand.IntN(4) == 0
	err := m.once(ctx, will, func(c *connection) error {
		for until := time.Now().Add(stay); time.Now().Before(until); {
			if _, _, err := c.receive(time.Until(until)); err != nil && !isTimeout(err) {
				break
			}
		}
		if disconnect {
			_ = c.send(&codec.Disconnect{}) // which it may not read any more
			return nil
		}
		return errLeft
	})
	if errors.Is(err, errLeft) && m.WillDelayInterval == 0 {
		m.Ledger.Acked(m.ClientID, m.next)
	}
}

// random returns a duration below limit.
func (m *Mourner) random(limit time.Duration) time.Duration {
	return time.Duration(m.Rand.Int64N(int64(limit)))
}
