//go:build !race

package peers

import (
	"fmt"
	"testing"

	"loopmq"
	"loopmq/internal/brokertest"
)

// With the limits of packets and queues raised, 100 MiB go from each library to another, and wait for one in its session's queue. With
// the race detector, which shows nothing here that smaller messages don't, this takes a minute: scripts/test.sh runs it without.
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
