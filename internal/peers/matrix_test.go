package peers

import (
	"fmt"
	"testing"
)

// Each client gets what each other publishes, at each QoS.
func TestMatrix(t *testing.T) {
	addr := start(t)
	matrix(t, addr, connectAll(t, addr, func(i int) options {
		return options{subscribe: []subscription{{filter: fmt.Sprintf("matrix/%d/#", i), qos: 2}}}
	}))
}

// connectAll connects each of the peers.
func connectAll(t *testing.T, addr string, o func(i int) options) []client {
	t.Helper()
	clients := make([]client, len(peers))
	for i, p := range peers {
		clients[i] = p.connect(t, addr, o(i))
	}
	return clients
}

// matrix publishes from each peer to each receiver, which has subscribed to matrix/{index}/# with QoS 2.
func matrix(t *testing.T, addr string, receivers []client) {
	for _, p := range peers {
		t.Run("from "+p.name, func(t *testing.T) {
			sender := p.connect(t, addr, options{})
			for i, r := range receivers {
				for qos := range byte(3) {
					m := text(fmt.Sprintf("matrix/%d/%s", i, p.name), fmt.Sprintf("to %s at QoS %d: ü €", peers[i].name, qos), qos)
					sender.publish(m)
					expect(t, r, m)
				}
			}
		})
	}
}

// A message arrives with the smaller of the QoS it was published with and that of the subscription.
func TestGrantedQoS(t *testing.T) {
	addr := start(t)
	sender := connectPahoV3(t, addr, options{})
	each(t, peers, func(t *testing.T, p peer) {
		for granted := range byte(3) {
			topic := fmt.Sprintf("granted/%s/%d", p.name, granted)
			c := p.connect(t, addr, options{subscribe: []subscription{{filter: topic, qos: granted}}})
			for qos := range byte(3) {
				sender.publish(text(topic, "hello", qos))
				expect(t, c, text(topic, "hello", min(qos, granted)))
			}
		}
	})
}

// An empty payload and every byte value arrive as they are. (mosquitto_sub is told to print text, so it takes no part in the latter.)
func TestPayloads(t *testing.T) {
	addr := start(t)
	var all [256]byte
	for i := range all {
		all[i] = byte(i)
	}
	for i, from := range peers {
		sender := from.connect(t, addr, options{})
		for j, to := range peers {
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				topic := fmt.Sprintf("payload/%d/%d", i, j)
				receiver := to.connect(t, addr, options{subscribe: []subscription{{filter: topic, qos: 1}}})
				empty := text(topic, "", 1)
				sender.publish(empty)
				expect(t, receiver, empty)
				if _, isMosquitto := receiver.(*mosquitto); isMosquitto {
					return
				}
				binary := message{topic: topic, payload: all[:], qos: 1}
				sender.publish(binary)
				expect(t, receiver, binary)
			})
		}
	}
}

// A retained message comes to each who subscribes later, marked as retained, until an empty one removes it.
func TestRetained(t *testing.T) {
	addr := start(t)
	for i, from := range peers {
		t.Run("from "+from.name, func(t *testing.T) {
			sender := from.connect(t, addr, options{})
			topic := fmt.Sprintf("retained/%d", i)
			sender.publish(retained(text(topic, "old", 1)))
			sender.publish(retained(text(topic, "kept", 1)))
			receivers := connectAll(t, addr, func(int) options {
				return options{subscribe: []subscription{{filter: topic, qos: 1}}}
			})
			for _, r := range receivers {
				expect(t, r, retained(text(topic, "kept", 1)))
			}
			// Who has subscribed already gets it as any other message.
			sender.publish(retained(text(topic, "new", 1)))
			for _, r := range receivers {
				expect(t, r, text(topic, "new", 1))
			}
			sender.publish(retained(text(topic, "", 1)))
			for _, r := range receivers {
				expect(t, r, text(topic, "", 1))
				r.disconnect()
			}
			for j, p := range peers {
				r := p.connect(t, addr, options{subscribe: []subscription{{filter: topic, qos: 1}}})
				sender.publish(text(topic, fmt.Sprint("the first for ", j), 1))
				expect(t, r, text(topic, fmt.Sprint("the first for ", j), 1))
				r.disconnect()
			}
		})
	}
}

// Messages of one client at one QoS arrive in their order, many at a time.
func TestOrder(t *testing.T) {
	const count = 500
	addr := start(t)
	for qos := range byte(3) {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			receivers := connectAll(t, addr, func(int) options {
				return options{subscribe: []subscription{{filter: fmt.Sprint("order/", qos), qos: qos}}}
			})
			sender := connectPahoV3(t, addr, options{}).(*pahoV3)
			for i := range count { // without waiting for the one before
				sender.client.Publish(fmt.Sprint("order/", qos), qos, false, fmt.Sprint(i))
			}
			for _, r := range receivers {
				for i := range count {
					expect(t, r, text(fmt.Sprint("order/", qos), fmt.Sprint(i), qos))
				}
			}
		})
	}
}

// The members of a shared subscription share the messages: none comes twice, none is missing, and each member has its part.
func TestSharedSubscription(t *testing.T) {
	const rounds = 10
	addr := start(t)
	for qos := range byte(3) {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			topic := fmt.Sprint("jobs/", qos)
			members := connectAll(t, addr, func(int) options {
				return options{subscribe: []subscription{{filter: "$share/workers/" + topic, qos: qos}}}
			})
			sender := connectPahoV5(t, addr, options{})
			for i := range rounds * len(members) {
				sender.publish(text(topic, fmt.Sprint(i), qos))
			}
			seen := map[string]bool{}
			for _, c := range members {
				for range rounds { // round robin
					m := c.receive()
					if m.topic != topic || m.qos != qos || seen[string(m.payload)] {
						t.Errorf("got %v, seen before: %t", m, seen[string(m.payload)])
					}
					seen[string(m.payload)] = true
				}
			}
			if len(seen) != rounds*len(members) {
				t.Errorf("got %d different messages, want %d", len(seen), rounds*len(members))
			}
		})
	}
}
