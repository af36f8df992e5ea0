package loopmq_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// journal notes events as lines.
type journal struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

// has reports whether a line has come, and takes it out.
func (j *journal) take(line string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, l := range j.lines {
		if l == line {
			j.lines = append(j.lines[:i], j.lines[i+1:]...)
			return true
		}
	}
	return false
}

// expect waits for lines, in any order, and that there are no others.
func (j *journal) expect(t *testing.T, lines ...string) {
	t.Helper()
	missing := lines
	eventually(t, fmt.Sprintf("%q", lines), func() bool {
		var rest []string
		for _, l := range missing {
			if !j.take(l) {
				rest = append(rest, l)
			}
		}
		missing = rest
		return len(missing) == 0
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines) > 0 {
		t.Errorf("got also %q", j.lines)
		j.lines = nil
	}
}

func message(m *loopmq.MessageView) string {
	var p codec.Properties
	if err := m.Properties(&p); err != nil {
		return err.Error()
	}
	s := fmt.Sprintf("%s %.8s qos%d", m.TopicName, m.Payload, m.QoS)
	if m.Retain {
		s += " retain"
	}
	if len(p.ContentType) > 0 {
		s += " type " + string(p.ContentType)
	}
	return s
}

func (j *journal) events() loopmq.Events {
	return loopmq.Events{
		OnConnected: func(c *loopmq.ClientInfo, present bool) {
			j.note("connected %s v%d clean %t keepalive %d present %t remote %t", c.ClientID, c.ProtocolVersion, c.CleanStart, c.KeepAlive, present,
				strings.HasPrefix(c.RemoteAddr().String(), "127.0.0.1:"))
		},
		OnDisconnected: func(c *loopmq.ClientInfo, reason codec.ReasonCode, err error) {
			j.note("disconnected %s 0x%02X %t", c.ClientID, byte(reason), err != nil)
		},
		OnAuthFailed: func(r *loopmq.ConnectRequest, reason codec.ReasonCode) {
			j.note("auth failed %s 0x%02X", r.ClientID, byte(reason))
		},
		OnSessionCreated:    func(id string) { j.note("created %s", id) },
		OnSessionTakenOver:  func(id string) { j.note("taken over %s", id) },
		OnSessionTerminated: func(id string) { j.note("terminated %s", id) },
		OnSubscribed: func(c *loopmq.ClientInfo, filter string, o codec.SubscriptionOptions) {
			j.note("subscribed %s %s qos%d", c.ClientID, filter, o.QoS)
		},
		OnUnsubscribed: func(c *loopmq.ClientInfo, filter string) { j.note("unsubscribed %s %s", c.ClientID, filter) },
		OnPublished: func(c *loopmq.ClientInfo, m *loopmq.MessageView) {
			from := "the broker"
			if c != nil {
				from = c.ClientID
			}
			j.note("published by %s: %s", from, message(m))
		},
		OnDelivered: func(c *loopmq.ClientInfo, m *loopmq.MessageView) {
			j.note("delivered to %s: %s", c.ClientID, message(m))
		},
		OnAcked: func(c *loopmq.ClientInfo, packetID uint16) { j.note("acked by %s: %d", c.ClientID, packetID) },
		OnDropped: func(id string, m *loopmq.MessageView, reason string) {
			j.note("dropped for %s: %s: %s", id, message(m), reason)
		},
		OnWillPublished: func(id string, m *loopmq.MessageView) { j.note("will of %s: %s", id, message(m)) },
	}
}

// Every event comes once for what it is about, with what it says.
func TestEvents(t *testing.T) {
	t.Parallel()
	j := &journal{}
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Events = j.events()
		o.Authenticator = passwords{}
	})
	c := brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.ClientID("bad"), brokertest.Credentials("user", "wrong"))
	c.ExpectConnack(codec.BadUserNameOrPassword)
	j.expect(t, "auth failed bad 0x86")

	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"), brokertest.With(codec.PropMaximumPacketSize, 200))
	j.expect(t, "created sub", "connected sub v5 clean false keepalive 60 present false remote true")
	sub.Subscribe("t", 2)
	j.expect(t, "subscribed sub t qos2")
	pub := brokertest.Connect(t, s.Addr, codec.V311, brokertest.ClientID("pub"), brokertest.KeepAlive(10))
	j.expect(t, "created pub", "connected pub v4 clean true keepalive 10 present false remote true")
	pub.Publish("t", "0", 0)
	sub.ExpectPublish("t", "0")
	j.expect(t, "published by pub: t 0 qos0", "delivered to sub: t 0 qos0")
	pub.Publish("t", "1", 1, brokertest.Retained)
	p := sub.ExpectPublish("t", "1")
	j.expect(t, "published by pub: t 1 qos1 retain", "delivered to sub: t 1 qos1 retain")
	sub.Acknowledge(p)
	j.expect(t, fmt.Sprintf("acked by sub: %d", p.PacketID))
	if _, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: "t", Payload: []byte("2"), QoS: 2, ContentType: "text"}); err != nil {
		t.Fatal(err)
	}
	p = sub.ExpectPublish("t", "2")
	sub.Acknowledge(p)
	j.expect(t, "published by the broker: t 2 qos2 type text", "delivered to sub: t 2 qos2 type text", fmt.Sprintf("acked by sub: %d", p.PacketID))
	pub.Publish("t", strings.Repeat("x", 200), 0)
	j.expect(t, "published by pub: t xxxxxxxx qos0", "dropped for sub: t xxxxxxxx qos0: packet_too_large")
	sub.Unsubscribe("t", "other")
	j.expect(t, "unsubscribed sub t")

	sub.Send(&codec.Disconnect{})
	sub.ExpectClosed()
	j.expect(t, "disconnected sub 0x00 true")
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"), brokertest.Will("will", "w", 1, false))
	j.expect(t, "connected sub v5 clean false keepalive 60 present true remote true")
	sub = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"), brokertest.Will("will", "w", 1, false))
	j.expect(t, "disconnected sub 0x8E true", "taken over sub", "will of sub: will w qos1", "published by the broker: will w qos1",
		"connected sub v5 clean false keepalive 60 present true remote true")
	sub.Send(&codec.Disconnect{ReasonCode: codec.DisconnectWithWill, Properties: brokertest.Properties(codec.PropSessionExpiryInterval, 0)})
	sub.ExpectClosed()
	j.expect(t, "disconnected sub 0x04 true", "will of sub: will w qos1", "published by the broker: will w qos1", "terminated sub")
	pub.Close()
	j.expect(t, "disconnected pub 0x80 false", "terminated pub")
}

// A drop that happens in a queue is an event too, with the label of the metric as its reason.
func TestEventsOfDrops(t *testing.T) {
	t.Parallel()
	j := &journal{}
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Limits.QueueMessages = 1
		o.Events.OnDropped = j.events().OnDropped
	})
	for name, option := range members {
		c := brokertest.Connect(t, s.Addr, codec.V5, option, brokertest.ClientID(name), brokertest.With(codec.PropReceiveMaximum, 1))
		c.Subscribe("t/"+strings.Fields(name)[0], 1)
	}
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("t/durable", "1", 1)
	pub.Publish("t/durable", "2", 1)
	j.expect(t, "dropped for durable: t/durable 2 qos1: queue_full")
	for i := range 3 {
		pub.Publish("t/in", fmt.Sprint(i), 1)
	}
	j.expect(t, "dropped for in memory: t/in 2 qos1: queue_full")
}
