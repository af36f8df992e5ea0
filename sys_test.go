package loopmq_test

import (
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// What the broker says about itself takes no room of retained messages, and counts as none; and it comes with QoS 0 to everybody, at once
// or later.
func TestSysTopicsAreNotRetainedMessages(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.SysInterval, o.Limits.RetainedMessages, o.Limits.RetainedBytes = time.Millisecond, 2, 40
	})
	c := brokertest.Connect(t, s.Addr, codec.V5)
	c.Subscribe("$SYS/broker/version", 2)
	if p := brokertest.Expect[*codec.Publish](c); p.QoS != 0 {
		t.Errorf("got %s", brokertest.Describe(p))
	}
	c.Unsubscribe("$SYS/broker/version")
	later := brokertest.Connect(t, s.Addr, codec.V5)
	later.Subscribe("$SYS/broker/version", 2)
	if p := brokertest.Expect[*codec.Publish](later); p.QoS != 0 || !p.Retain {
		t.Errorf("got %s", brokertest.Describe(p))
	}
	if n := s.Broker.Health().Retained; n != 0 {
		t.Errorf("%d retained messages", n)
	}
	expectMetric(t, s.Broker, "loopmq_retained_bytes", 0)
	c.Publish("a", "1", 1, brokertest.Retained)
	c.Publish("b", "2", 1, brokertest.Retained)
	c.Publish("c", "3", 1, brokertest.Retained)
	later.Subscribe("+", 1)
	for range 2 {
		later.Acknowledge(brokertest.Expect[*codec.Publish](later))
	}
	later.ExpectNothing()
	expectMetric(t, s.Broker, "loopmq_retained_messages", 2)
	expectMetric(t, s.Broker, "loopmq_retained_bytes", 4)
	if n := s.Broker.Health().Retained; n != 2 {
		t.Errorf("%d retained messages, want 2", n)
	}
	c.Publish("a", "", 1, brokertest.Retained)
	expectMetric(t, s.Broker, "loopmq_retained_messages", 1)
	c.Subscribe("$SYS/broker/retained messages/count", 0)
	eventually(t, "one retained message in $SYS", func() bool {
		return string(brokertest.Expect[*codec.Publish](c).Payload) == "1"
	})
}
