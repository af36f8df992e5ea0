package chaos

import (
	"context"
	"fmt"
	"slices"
	"time"

	"loopmq/codec"
)

// Publisher publishes numbered messages to one topic, each until it is
// acknowledged.
type Publisher struct {
	Client
	TopicName string
	QoS       byte          // 1 or 2
	Window    int           // messages under way
	Interval  time.Duration // between two messages, at least

	next     int
	last     time.Time
	inFlight []outgoing
}

// outgoing is a message under way. Packet Identifiers follow from numbers, and are
// soon used again, as a broker could have kept one.
type outgoing struct {
	seq      int
	released bool // PUBREC came: only PUBREL goes again [MQTT-4.4.0-1]
}

// Run publishes until stop is closed and all is acknowledged, or ctx ends.
func (p *Publisher) Run(ctx context.Context, stop <-chan struct{}) error {
	return p.each(ctx, func(c *connection) error {
		for _, o := range p.inFlight {
			if err := p.resend(c, o); err != nil {
				return err
			}
		}
		for heard := time.Now(); ; {
			wait, done, err := p.fill(c, stop)
			if done || err != nil {
				return err
			}
			switch err := p.acknowledged(c, wait); {
			case err == nil:
				heard = time.Now()
			case isTimeout(err) && (len(p.inFlight) == 0 || time.Since(heard) < patience):
			default:
				return err
			}
		}
	})
}

// fill sends what the window and the interval allow, and says how long there is
// nothing to send.
func (p *Publisher) fill(c *connection, stop <-chan struct{}) (wait time.Duration, done bool, err error) {
	for len(p.inFlight) < p.Window {
		select {
		case <-stop:
			return patience, len(p.inFlight) == 0, nil
		default:
		}
		if p.inUse(p.packetID(p.next + 1)) {
			return patience, false, nil
		}
		if wait := p.Interval - time.Since(p.last); wait > 0 {
			return wait, false, nil
		}
		p.last = time.Now()
		p.next++
		p.Ledger.Sent(p.ClientID, p.next, p.QoS)
		p.inFlight = append(p.inFlight, outgoing{seq: p.next})
		if err := p.publish(c, p.next, false); err != nil {
			return 0, false, err
		}
	}
	return patience, false, nil
}

func (p *Publisher) packetID(seq int) uint16 { return uint16((seq-1)%(4*p.Window) + 1) }

func (p *Publisher) inUse(packetID uint16) bool {
	return slices.ContainsFunc(p.inFlight, func(o outgoing) bool { return p.packetID(o.seq) == packetID })
}

func (p *Publisher) publish(c *connection, seq int, dup bool) error {
	return c.send(&codec.Publish{
		QoS: p.QoS, Dup: dup, TopicName: []byte(p.TopicName), PacketID: p.packetID(seq),
		Payload: fmt.Appendf(nil, "%s %d", p.ClientID, seq),
	})
}

func (p *Publisher) resend(c *connection, o outgoing) error {
	if o.released {
		return c.send(&codec.Ack{Type: codec.TypePubrel, PacketID: p.packetID(o.seq)})
	}
	p.Ledger.Again(p.ClientID, o.seq)
	return p.publish(c, o.seq, true)
}

// acknowledged handles one packet.
func (p *Publisher) acknowledged(c *connection, wait time.Duration) error {
	h, body, err := c.receive(wait)
	if err != nil {
		return err
	}
	var ack codec.Ack
	switch h.Type {
	case codec.TypePuback, codec.TypePubrec, codec.TypePubcomp:
		if err := ack.Decode(c.version, h.Type, body); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%v for a publisher", h.Type)
	}
	i := slices.IndexFunc(p.inFlight, func(o outgoing) bool { return p.packetID(o.seq) == ack.PacketID })
	if i < 0 { // of a message that was sent twice
		return nil
	}
	o := &p.inFlight[i]
	switch {
	case ack.ReasonCode >= 0x80 && !o.released:
		p.Ledger.Refused(p.ClientID, o.seq)
	case h.Type == codec.TypePubrec:
		o.released = true
		p.Ledger.Acked(p.ClientID, o.seq)
		return c.send(&codec.Ack{Type: codec.TypePubrel, PacketID: ack.PacketID})
	default:
		p.Ledger.Acked(p.ClientID, o.seq)
	}
	p.inFlight = slices.Delete(p.inFlight, i, i+1)
	return nil
}
