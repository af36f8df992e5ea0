package coapbridge

import (
	"log/slog"
	"testing"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/redistest"
	"loopmq/redisstore"
)

// An observer with a durable connection comes back at another node, which has what it
// missed: while the first node is there still, and when its bridge has stopped.
func TestOtherNode(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var bridges [3]*bridge
	for i := range bridges {
		s, err := redisstore.NewStore(t.Context(), server.URL()+"?prefix=lmq:&lease=3s", redisstore.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		bridges[i] = mustBridge(t, Options{}, func(o *loopmq.Options) { o.Store = s })
	}
	pub := brokertest.Connect(t, bridges[2].broker.Addr, codec.V5)
	connect := func(b *bridge) (d *device, token string) {
		d = b.device()
		return d, string(d.want(d.ask(codes.POST, "/mqtt/connection?clientid=pump&expiry=3600", nil), codes.Created, "*").Payload)
	}
	// waits returns when a message has found no observation.
	waits := func(b *bridge) {
		t.Helper()
		await(t, func() bool { return b.connections.list()[0].session.waiting.Load() })
	}
	// observe expects messages that were missed, from the first answer on, or behind an empty one.
	observe := func(d *device, token string, missed ...string) {
		t.Helper()
		m := d.ask(codes.GET, "/ps/t/+/x?token="+token, nil, num(coap.Observe, 0))
		for i, text := range missed {
			if i > 0 || len(m.Payload) == 0 {
				m = d.notification()
			}
			d.want(m, codes.Content, text)
		}
	}

	d, first := connect(bridges[0])
	d.want(d.ask(codes.GET, "/ps/t/+/x?token="+first, nil, num(coap.Observe, 0)), codes.Content, "")
	pub.Publish("t/1/x", "one", 1)
	d.want(d.notification(), codes.Content, "one")
	pub.Publish("t/2/x", "two", 1)
	d.want(d.receive(), codes.Content, "two") // and doesn't acknowledge it
	pub.Publish("t/3/x", "three", 1)

	// Another node has it now, and the first one hasn't.
	other, second := connect(bridges[1])
	d.want(d.ask(codes.PUT, "/mqtt/connection?token="+first, nil), codes.Unauthorized, "*")
	waits(bridges[1])
	observe(other, second, "two", "three")

	other.want(other.ask(codes.GET, "/health", nil), codes.Content, "ok") // behind the acknowledgement

	// That node stops; what comes meanwhile waits.
	if err := bridges[1].Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	other.want(other.notification(), codes.ServiceUnavailable, "*")
	pub.Publish("t/4/x", "four", 1)
	pub.Publish("t/5/x", "five", 2)
	last, third := connect(bridges[2])
	waits(bridges[2])
	observe(last, third, "four", "five")
	pub.Publish("t/6/x", "six", 1)
	last.want(last.notification(), codes.Content, "six")
}
