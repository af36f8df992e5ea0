package coapbridge

import (
	"fmt"
	"testing"
	"time"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

func TestConnection(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	d := b.device()
	token := string(d.want(d.ask(codes.POST, "/mqtt/connection?clientid=pump&expiry=3600", nil), codes.Created, "*").Payload)
	with := "?clientid=pump&token=" + token
	d.want(d.ask(codes.GET, "/ps/t/a"+with, nil, num(coap.Observe, 0)), codes.Content, "")
	pub.Publish("t/a", "one", 1)
	d.want(d.notification(), codes.Content, "one")

	// The address changes.
	moved := b.device()
	moved.want(moved.ask(codes.PUT, "/mqtt/connection"+with, nil), codes.Changed, "")
	pub.Publish("t/a", "two", 1)
	moved.want(moved.notification(), codes.Content, "two")

	// It comes back later, with another token: what it missed is there.
	pub.Publish("t/a", "three", 1) // is sent, and not acknowledged
	moved.want(moved.receive(), codes.Content, "three")
	other := b.device()
	again := "?clientid=pump&token=" + string(other.want(other.ask(codes.POST, "/mqtt/connection?clientid=pump&expiry=3600", nil), codes.Created, "*").Payload)
	moved.want(moved.ask(codes.PUT, "/mqtt/connection"+with, nil), codes.Unauthorized, "*")
	pub.Publish("t/a", "four", 1)
	other.want(other.ask(codes.GET, "/ps/t/a"+again, nil, num(coap.Observe, 0)), codes.Content, "")
	other.want(other.notification(), codes.Content, "three")
	other.want(other.notification(), codes.Content, "four")

	other.want(other.ask(codes.DELETE, "/mqtt/connection"+again, nil), codes.Deleted, "")
	other.want(other.ask(codes.PUT, "/mqtt/connection"+again, nil), codes.Unauthorized, "*")
	last := b.device()
	pub.Publish("t/a", "five", 1)
	fresh := "?clientid=pump&token=" + string(last.want(last.ask(codes.POST, "/mqtt/connection?clientid=pump", nil), codes.Created, "*").Payload)
	last.want(last.ask(codes.GET, "/ps/t/a"+fresh, nil, num(coap.Observe, 0)), codes.Content, "")
	pub.Publish("t/a", "six", 1)
	last.want(last.notification(), codes.Content, "six")
	for path, code := range map[string]codes.Code{
		"/mqtt/connection": codes.BadRequest, "/mqtt/connection?clientid=a/b": codes.BadRequest, "/mqtt/connection?clientid=a&expiry=no": codes.BadRequest,
		"/mqtt/connection?clientid=a&username=u&password=no": codes.Unauthorized,
	} {
		last.want(last.ask(codes.POST, path, nil), code, "*")
	}
	last.want(last.ask(codes.PUT, "/mqtt/connection", nil), codes.BadRequest, "*")
}

// A connection of which nothing is heard ends, and so does an observation whose client
// has gone.
func TestSilence(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{Inactivity: 3 * time.Second, AckTimeout: 20 * time.Millisecond, MaxRetransmit: 2})
	pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	d := b.device()
	d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Observe, 0)), codes.Content, "")
	await(t, func() bool { return d.verified(b) })
	pub.Publish("t/a", "x", 1)
	d.want(d.receive(), codes.Content, "x") // isn't acknowledged
	await(t, func() bool { return b.observations.Load() == 0 && b.peers.Load() == 0 })
	if b.metrics.CoAPRetransmissions.Get() < 2 {
		t.Error("it wasn't sent again")
	}
	d = b.device()
	d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Observe, 0)), codes.Content, "")
	await(t, func() bool { return b.peers.Load() == 0 }) // it was asked
	if b.observations.Load() != 0 {
		t.Error("an observation is left")
	}
}

// verified reports whether the broker knows the device, which answers pings.
func (d *device) verified(b *bridge) bool {
	d.t.Helper()
	d.ask(codes.GET, "/health", nil)
	for _, e := range b.mu.endpoints {
		for _, p := range e.all() {
			p.mu.Lock()
			ok := p.addr.String() == d.conn.LocalAddr().String() && p.mu.verified
			p.mu.Unlock()
			if ok {
				return true
			}
		}
	}
	return false
}

// An observer is told when its identity may not be there any more, and when the broker
// stops.
func TestFarewell(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	d := b.device()
	d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Observe, 0)), codes.Content, "")
	b.Bridge.broker.DisconnectWhere(func(*loopmq.ClientInfo) bool { return true }, codec.NotAuthorized)
	d.want(d.receive(), codes.Forbidden, "*")
	d = b.device()
	d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Observe, 0)), codes.Content, "")
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	d.want(d.receive(), codes.ServiceUnavailable, "*")
}

// Who observes again what it has cancelled a moment ago is told of what comes.
func TestObserveAgain(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	d := b.device()
	with := "?token=" + string(d.want(d.ask(codes.POST, "/mqtt/connection?clientid=pump", nil), codes.Created, "*").Payload)
	for i := range 30 {
		d.want(d.ask(codes.GET, "/ps/t/a"+with, nil, num(coap.Observe, 0)), codes.Content, "")
		d.send(d.message(coap.Confirmable, codes.GET, "tk", "/ps/t/a"+with, nil, num(coap.Observe, 1)))
		d.send(d.message(coap.Confirmable, codes.GET, "other", "/ps/t/a"+with, nil, num(coap.Observe, 0)))
		d.want(d.receive(), codes.NotFound, "*")
		d.want(d.receive(), codes.Content, "")
		text := fmt.Sprint(i)
		pub.Publish("t/a", text, 1)
		d.want(d.notification(), codes.Content, text)
		d.send(d.message(coap.Confirmable, codes.GET, "other", "/ps/t/a"+with, nil, num(coap.Observe, 1)))
		d.want(d.receive(), codes.NotFound, "*")
	}
}

// What a durable session missed waits for an observation, and no longer than that: it
// would keep back what others are to have.
func TestResumeTimeout(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{resume: 300 * time.Millisecond})
	pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	d := b.device()
	connect := func() string {
		return "?token=" + string(d.want(d.ask(codes.POST, "/mqtt/connection?clientid=pump&expiry=60", nil), codes.Created, "*").Payload)
	}
	with := connect()
	for _, topic := range []string{"a", "b"} {
		d.send(d.message(coap.Confirmable, codes.GET, topic, "/ps/t/"+topic+with, nil, num(coap.Observe, 0)))
		d.want(d.receive(), codes.Content, "")
	}
	session := b.connections.list()[0].session
	session.close() // it has gone
	b.endConnection(b.connections.list()[0])
	for _, topic := range []string{"a", "b"} {
		pub.Publish("t/"+topic, "missed "+topic, 1)
	}
	with = connect()
	await(t, func() bool { return b.metrics.CoAPDropped.Get() == 2 })
	d.want(d.ask(codes.GET, "/ps/t/a"+with, nil, num(coap.Observe, 0)), codes.Content, "")
	pub.Publish("t/a", "new", 1)
	d.want(d.notification(), codes.Content, "new")
}
