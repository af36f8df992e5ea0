package chaos

import (
	"context"
	"errors"
	"fmt"

	"loopmq/codec"
)

// Subscriber subscribes once for each of its sessions, and receives.
type Subscriber struct {
	Client
	TopicFilter string
	QoS         byte
	// Kind is what the Ledger adds its deliveries to. Members of a group have the
	// group's Account in common; empty: the ClientID.
	Kind    Kind
	Account string
	// OnSubscribed is called after the first SUBACK; nil: nobody is.
	OnSubscribed func()

	subscribed  bool
	connections int
	held        map[uint16]bool // QoS 2, PUBREL is to come
}

// Run receives until ctx ends.
func (s *Subscriber) Run(ctx context.Context) error {
	name := s.Account
	if name == "" {
		name = s.ClientID
	}
	s.Account = name
	s.held = make(map[uint16]bool)
	err := s.each(ctx, func(c *connection) error {
		if s.connections++; s.Kind == Volatile {
			s.subscribed = false
			s.Account = fmt.Sprint(name, "/", s.connections)
		}
		if !c.connack.SessionPresent {
			clear(s.held)
		}
		if !s.subscribed {
			if err := c.send(&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{{
				TopicFilter: []byte(s.TopicFilter), Options: codec.SubscriptionOptions{QoS: s.QoS},
			}}}); err != nil {
				return err
			}
		}
		for {
			if err := s.packet(c); err != nil {
				return err
			}
		}
	})
	if ctx.Err() != nil && !errors.Is(err, errSessionGone) {
		return nil
	}
	return err
}

// packet handles one packet.
func (s *Subscriber) packet(c *connection) error {
	h, body, err := c.receive(patience)
	if isTimeout(err) {
		return nil // nothing to receive
	}
	if err != nil {
		return err
	}
	switch h.Type {
	case codec.TypeSuback:
		var p codec.Suback
		if err := p.Decode(c.version, h.Flags, body); err != nil || len(p.ReasonCodes) != 1 || p.ReasonCodes[0] >= 0x80 {
			return fmt.Errorf("SUBACK % X: %w", p.ReasonCodes, err)
		}
		s.subscribed = true
		s.Ledger.Expect(s.Account, s.Kind, s.QoS)
		if s.OnSubscribed != nil {
			s.OnSubscribed()
			s.OnSubscribed = nil
		}
	case codec.TypePublish:
		return s.publish(c, h, body)
	case codec.TypePubrel:
		var p codec.Ack
		if err := p.Decode(c.version, h.Type, body); err != nil {
			return err
		}
		delete(s.held, p.PacketID)
		return c.send(&codec.Ack{Type: codec.TypePubcomp, PacketID: p.PacketID})
	default:
		return fmt.Errorf("%v for a subscriber", h.Type)
	}
	return nil
}

func (s *Subscriber) publish(c *connection, h codec.FixedHeader, body []byte) error {
	var p codec.Publish
	if err := p.Decode(c.version, h.Flags, body); err != nil {
		return err
	}
	var publisher string
	var seq int
	if _, err := fmt.Sscan(string(p.Payload), &publisher, &seq); err != nil {
		return fmt.Errorf("payload %q: %w", p.Payload, err)
	}
	switch {
	case p.QoS == 1:
		s.Ledger.Received(s.Account, publisher, seq)
		return c.send(&codec.Ack{Type: codec.TypePuback, PacketID: p.PacketID})
	case p.QoS == 2 && !s.held[p.PacketID]:
		s.held[p.PacketID] = true
		s.Ledger.Received(s.Account, publisher, seq)
	}
	return c.send(&codec.Ack{Type: codec.TypePubrec, PacketID: p.PacketID})
}
