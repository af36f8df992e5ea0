package peers

import (
	"fmt"
	"testing"

	"loopmq/internal/brokertest"
)

// A durable session gets what was published while its client was away, in order, from whichever client, and however it had left.
func TestResume(t *testing.T) {
	addr := start(t)
	senders := connectAll(t, addr, func(int) options { return options{} })
	leave := map[string]func(client){"disconnected": client.disconnect, "lost": client.kill}
	each(t, peers, func(t *testing.T, p peer) {
		for how, leave := range leave {
			t.Run(how, func(t *testing.T) {
				id := brokertest.Name()
				o := options{clientID: id, durable: true, subscribe: []subscription{{filter: "resume/" + id, qos: 2}}}
				c := p.connect(t, addr, o)
				if present, known := c.sessionPresent(); known && present {
					t.Error("Session Present is 1 on the first connection")
				}
				senders[0].publish(text("resume/"+id, "before", 2))
				expect(t, c, text("resume/"+id, "before", 2))
				leave(c)
				for i, s := range senders {
					s.publish(text("resume/"+id, fmt.Sprint("at QoS 1 from ", i), 1))
					s.publish(text("resume/"+id, fmt.Sprint("at QoS 2 from ", i), 2))
				}
				c = p.connect(t, addr, o)
				if present, known := c.sessionPresent(); known && !present {
					t.Error("Session Present is 0 on the second connection")
				}
				var next [3]int // by QoS: a client may hand on QoS 2 only when its handshake is complete
				for next[1]+next[2] < 2*len(senders) {
					m := c.receive()
					if how == "lost" && next == [3]int{} && string(m.payload) == "before" {
						continue // again, since it was lost with its acknowledgement
					}
					if want := text("resume/"+id, fmt.Sprintf("at QoS %d from %d", m.qos, next[m.qos]), m.qos); m.String() != want.String() {
						t.Fatalf("got %v, want %v", m, want)
					}
					next[m.qos]++
				}
				senders[0].publish(text("resume/"+id, "after", 1))
				expect(t, c, text("resume/"+id, "after", 1))
				c.disconnect()

				// A clean start ends the session.
				o.durable = false
				o.subscribe = []subscription{{filter: "resume/other/" + id, qos: 1}}
				c = p.connect(t, addr, o)
				if present, known := c.sessionPresent(); known && present {
					t.Error("Session Present is 1 after a clean start")
				}
				senders[0].publish(text("resume/"+id, "to nobody", 1))
				senders[0].publish(text("resume/other/"+id, "marker", 1))
				expect(t, c, text("resume/other/"+id, "marker", 1))
			})
		}
	})
}

// A session is the same whatever version of the protocol its client speaks.
func TestResumeInAnotherVersion(t *testing.T) {
	addr := start(t)
	sender := connectPahoV3(t, addr, options{})
	for _, first := range peers {
		for _, second := range peers {
			t.Run(first.name+" then "+second.name, func(t *testing.T) {
				id := brokertest.Name()
				o := options{clientID: id, durable: true, subscribe: []subscription{{filter: "move/" + id, qos: 1}}}
				first.connect(t, addr, o).disconnect()
				sender.publish(text("move/"+id, "queued", 1))
				c := second.connect(t, addr, o)
				if present, known := c.sessionPresent(); known && !present {
					t.Error("Session Present is 0")
				}
				expect(t, c, text("move/"+id, "queued", 1))
				c.disconnect()
			})
		}
	}
}

// A second connection with the same Client Identifier ends the first, says so in 5.0, and goes on with its session.
func TestTakeover(t *testing.T) {
	addr := start(t)
	sender := connectPahoV3(t, addr, options{})
	for _, first := range peers {
		for _, second := range peers {
			t.Run(first.name+" by "+second.name, func(t *testing.T) {
				id := brokertest.Name()
				o := options{clientID: id, durable: true, subscribe: []subscription{{filter: "takeover/" + id, qos: 1}}}
				old := first.connect(t, addr, o)
				sender.publish(text("takeover/"+id, "to the first", 1))
				expect(t, old, text("takeover/"+id, "to the first", 1))
				c := second.connect(t, addr, o)
				want := byte(0)
				if first.version == 5 {
					want = 0x8E
				}
				if reason := old.closed(); reason != want {
					t.Errorf("the first got reason code %#x, want %#x", reason, want)
				}
				if present, known := c.sessionPresent(); known && !present {
					t.Error("Session Present is 0")
				}
				sender.publish(text("takeover/"+id, "to the second", 1))
				expectAfterDuplicates(t, c, text("takeover/"+id, "to the first", 1), text("takeover/"+id, "to the second", 1))
			})
		}
	}
}

// expectAfterDuplicates expects m, and before it copies of what the first connection may not have acknowledged in time.
func expectAfterDuplicates(t *testing.T, c client, duplicate, m message) {
	t.Helper()
	for {
		got := c.receive()
		if got.String() == m.String() {
			return
		}
		if got.String() != duplicate.String() {
			t.Fatalf("got %v, want %v", got, m)
		}
	}
}

// A Will is published when its client goes without DISCONNECT, to each that has subscribed; and not after a DISCONNECT, unless that asks
// for it, as mosquitto_sub's does in 5.0.
func TestWill(t *testing.T) {
	addr := start(t)
	receivers := connectAll(t, addr, func(int) options {
		return options{subscribe: []subscription{{filter: "will/#", qos: 2}}}
	})
	each(t, peers, func(t *testing.T, p peer) {
		for qos := range byte(3) {
			for _, retain := range []bool{false, true} {
				id := brokertest.Name()
				will := message{topic: "will/" + id, payload: []byte("gone"), qos: qos, retain: retain}
				// mosquitto_sub runs only with a subscription.
				o := options{clientID: id, will: &will, subscribe: []subscription{{filter: "nothing", qos: 0}}}
				count := 1
				if p.name == "mosquitto-5.0" {
					count = 2
				}
				p.connect(t, addr, o).disconnect()
				p.connect(t, addr, o).kill()
				for _, r := range receivers {
					for range count {
						expect(t, r, text(will.topic, "gone", qos))
					}
				}
				if retain {
					late := p.connect(t, addr, options{subscribe: []subscription{{filter: will.topic, qos: 2}}})
					expect(t, late, will)
				}
			}
		}
	})
	receivers[0].publish(text("will/marker", "no Will before", 0))
	for _, r := range receivers {
		expect(t, r, text("will/marker", "no Will before", 0))
	}
}

// A Will Delay Interval is over at once when the session ends, with its connection or by a clean start, and a connection in time cancels
// it.
func TestWillDelay(t *testing.T) {
	addr := start(t)
	each(t, v5Peers, func(t *testing.T, p peer) {
		id := brokertest.Name()
		watcher := connectPahoV5(t, addr, options{subscribe: []subscription{{filter: "late/" + id, qos: 1}}})
		will := text("late/"+id, "gone", 1)
		o := options{clientID: id, durable: true, will: &will, willDelay: 50, subscribe: []subscription{{filter: "nothing", qos: 0}}}
		p.connect(t, addr, o).kill()
		back := p.connect(t, addr, o)
		watcher.publish(text("late/"+id, "back in time", 1))
		expect(t, watcher, text("late/"+id, "back in time", 1))
		back.kill()
		o.durable = false
		last := p.connect(t, addr, o)
		expect(t, watcher, will)
		last.kill()
		expect(t, watcher, will)
	})
}
