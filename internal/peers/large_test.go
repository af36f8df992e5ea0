package peers

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"loopmq"
	"loopmq/internal/brokertest"
)

// Each client gets 1 MiB from each other, with the limits as they are shipped.
func TestLargePayload(t *testing.T) {
	addr := start(t)
	receivers := connectAll(t, addr, func(int) options {
		return options{subscribe: []subscription{{filter: "large/#", qos: 2}}}
	})
	payload := letters(t, 1<<20)
	for i, p := range peers {
		t.Run("from "+p.name, func(t *testing.T) {
			sender := p.connect(t, addr, options{})
			for qos := range byte(3) {
				m := message{topic: fmt.Sprintf("large/%d/%d", i, qos), payload: payload, qos: qos}
				sender.publish(m)
				for _, r := range receivers {
					expect(t, r, m)
				}
			}
		})
	}
}

// With a raised limit of packets, and no other, 100 MiB go from each library to another, and wait for one in its session's queue.
func TestHugePayload(t *testing.T) {
	addr := brokertest.Start(t, func(o *loopmq.Options) {
		o.Limits.PacketSize = 101 << 20
		o.Limits.QueueBytes = 101 << 20
	}).Addr
	payload := letters(t, 100<<20)
	ring := []peer{
		{"mosquitto-5.0", 5, connectMosquitto(5)},
		{"paho.golang-5.0", 5, connectPahoV5},
		{"MQTT.js-5.0", 5, connectMQTTJS(5)},
		{"paho.mqtt.golang-3.1.1", 4, connectPahoV3},
	}
	for i, from := range ring {
		to := ring[(i+1)%len(ring)]
		t.Run(from.name+" to "+to.name, func(t *testing.T) {
			m := message{topic: fmt.Sprint("huge/", i), payload: payload, qos: 1}
			receiver := to.connect(t, addr, options{subscribe: []subscription{{filter: m.topic, qos: 1}}})
			sender := from.connect(t, addr, options{})
			sender.publish(m)
			expect(t, receiver, m)
			receiver.disconnect()
			sender.disconnect()
		})
	}
	t.Run("queued", func(t *testing.T) {
		o := options{clientID: brokertest.Name(), durable: true, subscribe: []subscription{{filter: "huge/queued", qos: 1}}}
		connectPahoV3(t, addr, o).disconnect()
		m := message{topic: "huge/queued", payload: payload, qos: 1}
		connectPahoV5(t, addr, options{}).publish(m)
		c := connectPahoV3(t, addr, o)
		expect(t, c, m)
		c.disconnect()
	})
}

// letters returns n random letters, the same for each n.
func letters(t *testing.T, n int) []byte {
	t.Helper()
	seed := uint64(n)
	t.Logf("payload of %d bytes from seed %d", n, seed)
	r := rand.New(rand.NewPCG(seed, seed))
	b := make([]byte, 0, n+10)
	for len(b) < n {
		x := r.Uint64()
		for range 10 {
			b = append(b, 'a'+byte(x%26))
			x /= 26
		}
	}
	return b[:n]
}
