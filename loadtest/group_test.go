//go:build linux

package loadtest

import (
	"fmt"
	"testing"
	"time"
)

// A sharing is a shared subscription of two members to one publisher, without a broker between them.
type sharing struct {
	t    *testing.T
	flow *flow
	now  int64
}

func newSharing(t *testing.T, loops int, durable bool) *sharing {
	t.Helper()
	s := &Scenario{Shape: Shared, Publishers: 1, Subscribers: 2, QoS: 1, Rate: 1, Durable: durable, Targets: []string{"tcp://x"}}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	all := make([]*loop, loops)
	for i := range all {
		all[i] = &loop{index: i, run: &run{}, counts: newCounts(), faults: faults{}}
	}
	for i := range all {
		all[i].run.loops = all
	}
	h := &sharing{t: t, flow: newFlow(s, "run", 0, 0, false, all)}
	h.join(0)
	h.join(1)
	for _, section := range h.flow.sections {
		section.running = true
	}
	return h
}

func (h *sharing) member(i int) *client {
	for _, s := range h.flow.sections {
		for _, c := range s.clients {
			if c.role == subscribing && c.number == i {
				return c
			}
		}
	}
	h.t.Fatalf("there is no member %d", i)
	return nil
}

func (h *sharing) join(i int) {
	c := h.member(i)
	h.flow.join(c.subscriber, h.now, c.section.running)
}

// lose has the connection of a member end.
func (h *sharing) lose(i int) {
	c := h.member(i)
	c.section.loop.now = h.now
	c.subscriber.left(c)
}

// send publishes n messages, a millisecond after each other, and returns them as they are delivered.
func (h *sharing) send(n int) [][]byte {
	p := h.flow.publishers[0]
	var packets [][]byte
	for range n {
		h.now += int64(time.Millisecond)
		p.section.loop.now = h.now
		p.section.publish(p, h.now)
		packets = append(packets, p.client.out)
		p.client.out = nil
		p.flights.finish(p.flights.find(p.flights.id(0)))
	}
	return packets
}

// deliver has a member get messages.
func (h *sharing) deliver(i int, packets ...[]byte) {
	h.t.Helper()
	c := h.member(i)
	for _, b := range packets {
		first, body, _, _, err := nextPacket(b)
		if err == nil {
			err = c.section.loop.delivery(c, first, body)
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// audit is what the audit finds.
func (h *sharing) audit() AuditQoS {
	var q AuditQoS
	h.flow.hear(func(heard Heard) { q.add(settle(1, h.flow.sender(0), &heard)) })
	return q
}

// TestLossOfAMember: what was in flight to a member of a shared subscription may be lost with it, and nothing else.
func TestLossOfAMember(t *testing.T) {
	for name, test := range map[string]struct {
		durable bool
		play    func(h *sharing)
		want    AuditQoS
	}{
		"nobody is lost": {false, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.send(2)
			h.deliver(1, h.send(10)...)
		}, AuditQoS{Promised: Tally{Expected: 22, Lost: 2}}},
		"nothing comes at all": {false, func(h *sharing) { h.send(10) }, AuditQoS{Promised: Tally{Expected: 10, Lost: 10}}},
		"what was in flight": {false, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.send(3)
			h.deliver(1, h.send(1)...)
			h.send(2)
			h.lose(0)
			h.now += int64(lapse)
			h.deliver(1, h.send(10)...)
		}, AuditQoS{Promised: Tally{Expected: 21}, MayDrop: Tally{Expected: 5, Lost: 5}}},
		"what was sent before the broker had to know": {false, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.lose(0)
			h.send(4)
			h.deliver(1, h.send(1)...)
			h.send(3)
			h.now += int64(lapse)
			h.deliver(1, h.send(10)...)
		}, AuditQoS{Promised: Tally{Expected: 21}, MayDrop: Tally{Expected: 7, Lost: 7}}},
		"it is back before that": {false, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.send(2)
			h.lose(0)
			h.send(3)
			h.join(0)
			h.deliver(1, h.send(10)...)
			h.send(4)
			h.deliver(0, h.send(1)...)
		}, AuditQoS{Promised: Tally{Expected: 25, Lost: 4}, MayDrop: Tally{Expected: 5, Lost: 5}}},
		"nothing comes when it is back": {false, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.lose(0)
			h.send(3)
			h.join(0)
			h.send(4)
		}, AuditQoS{Promised: Tally{Expected: 14, Lost: 4}, MayDrop: Tally{Expected: 3, Lost: 3}}},
		"one of two is back": {false, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.lose(0)
			h.lose(1)
			h.send(3)
			h.join(0)
			h.send(4)
			h.deliver(0, h.send(1)...)
			h.join(1)
			h.send(5)
			h.deliver(0, h.send(1)...)
		}, AuditQoS{Promised: Tally{Expected: 17, Lost: 5}, MayDrop: Tally{Expected: 7, Lost: 7}}},
		"later losses": {false, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.lose(0)
			h.now += int64(lapse)
			h.deliver(1, h.send(10)...)
			h.send(6)
			h.deliver(1, h.send(10)...)
		}, AuditQoS{Promised: Tally{Expected: 36, Lost: 6}}},
		"nothing comes any more": {false, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.lose(0)
			h.send(3)
			h.now += int64(lapse)
			h.send(20)
		}, AuditQoS{Promised: Tally{Expected: 30, Lost: 20}, MayDrop: Tally{Expected: 3, Lost: 3}}},
		"nobody is there": {false, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.lose(0)
			h.lose(1)
			h.now += int64(lapse)
			h.send(10)
			h.join(1)
			h.deliver(1, h.send(10)...)
			h.send(5)
			h.deliver(1, h.send(1)...)
		}, AuditQoS{Promised: Tally{Expected: 26, Lost: 5}, MayDrop: Tally{Expected: 10, Lost: 10}}},
		"nobody comes back": {false, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.lose(0)
			h.lose(1)
			h.now += int64(lapse)
			h.send(10)
		}, AuditQoS{Promised: Tally{Expected: 10}, MayDrop: Tally{Expected: 10, Lost: 10}}},
		"a durable one comes back": {true, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.lose(0)
			h.send(4)
			h.deliver(1, h.send(10)...)
		}, AuditQoS{Promised: Tally{Expected: 24, Lost: 4}}},
		"a durable one stays away": {true, func(h *sharing) {
			h.deliver(0, h.send(10)...)
			h.lose(0)
			h.flow.abandon(h.flow.groups[0])
			h.now += int64(lapse)
			h.deliver(1, h.send(10)...)
			h.send(4)
			h.deliver(1, h.send(1)...)
			h.send(2)
		}, AuditQoS{Promised: Tally{Expected: 21}, MayDrop: Tally{Expected: 6, Lost: 6}}},
		"a durable one has gone before others came": {true, func(h *sharing) {
			g := h.flow.groups[0]
			h.member(0).subscriber.member, h.member(1).subscriber.member, g.members = false, false, 0
			h.flow.abandon(g)
			h.join(1)
			h.send(3)
		}, AuditQoS{MayDrop: Tally{Expected: 3, Lost: 3}}},
	} {
		for loops := 1; loops <= 2; loops++ {
			t.Run(fmt.Sprintf("%s/loops=%d", name, loops), func(t *testing.T) {
				h := newSharing(t, loops, test.durable)
				test.play(h)
				if got := h.audit(); got != test.want {
					t.Errorf("got %+v, want %+v", got, test.want)
				}
			})
		}
	}
}

// TestMuchIsDue: a rate that nobody can have doesn't keep a loop in its turn.
func TestMuchIsDue(t *testing.T) {
	h := newSharing(t, 1, false)
	s := h.flow.sections[0]
	s.schedule, s.nextDue = schedule{rate: rateMax, grid: grid}, 0
	s.loop.now = int64(time.Minute)
	s.turn()
	if s.pending != dueMax || s.due() > s.loop.now {
		t.Errorf("%d messages were due in a turn, and more are at %d: want %d, and now", s.pending, s.due(), dueMax)
	}
}
