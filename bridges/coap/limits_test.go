package coapbridge

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
	"loopmq/rate"
)

func TestRefusals(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{BodyBytes: 2000})
	d := b.device()
	d.want(d.ask(codes.PUT, "/ps/t/json?retain=true", []byte("{}"), num(coap.ContentFormat, 50), num(coap.MaxAge, 100)), codes.Changed, "")
	for _, test := range []struct {
		code    codes.Code
		path    string
		options []option
		want    codes.Code
		reason  metrics.CoAPReason
	}{
		{codes.GET, "/nothing", nil, codes.NotFound, metrics.CoAPNotFound},
		{codes.GET, "/ps/t/none", nil, codes.NotFound, metrics.CoAPNotFound},
		{codes.PUT, "/health", nil, codes.MethodNotAllowed, metrics.CoAPMethod},
		{codes.GET, "/ps/t/+", nil, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.GET, "/ps/t/#/x", []option{num(coap.Observe, 0)}, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.POST, "/ps/t/+", nil, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.POST, "/ps/", nil, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.POST, "/ps/other", nil, codes.Forbidden, metrics.CoAPNotAuthorized},
		{codes.GET, "/ps/other", nil, codes.Forbidden, metrics.CoAPNotAuthorized},
		{codes.GET, "/ps/other/#", []option{num(coap.Observe, 0)}, codes.Forbidden, metrics.CoAPNotAuthorized},
		{codes.POST, "/ps/t/a?username=u&password=no", nil, codes.Unauthorized, metrics.CoAPCredentials},
		{codes.POST, "/ps/t/a?username=u\x00&password=right", nil, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.POST, "/ps/t/a?username=banned", nil, codes.Forbidden, metrics.CoAPNotAuthorized},
		{codes.POST, "/ps/t/a?token=no", nil, codes.Unauthorized, metrics.CoAPCredentials},
		{codes.POST, "/ps/t/a?qos=3", nil, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.POST, "/ps/t/a?retain=maybe", nil, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.POST, "/ps/t/a?expiry=0", nil, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.POST, "/ps/t/a?what=x", nil, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.POST, "/ps/t/a?qos=1&qos=1", nil, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.POST, "/ps/t/a", []option{num(coap.IfMatch, 1)}, codes.BadOption, metrics.CoAPBadOption},
		{codes.POST, "/ps/t/a", []option{{ID: 65001, Value: []byte("x")}}, codes.BadOption, metrics.CoAPBadOption},
		{codes.POST, "/ps/t/a", []option{num(coap.Block1, 7)}, codes.BadOption, metrics.CoAPBadOption},
		{codes.POST, "/ps/t/a", []option{{ID: coap.ProxyURI, Value: []byte("coap://x")}}, codes.ProxyingNotSupported, metrics.CoAPBadOption},
		{codes.POST, "/ps/t/a", []option{num(coap.ContentFormat, 9999)}, codes.UnsupportedMediaType, metrics.CoAPMediaType},
		{codes.POST, "/ps/t/a", []option{num(coap.Block1, 5<<4|2)}, codes.RequestEntityIncomplete, metrics.CoAPIncomplete},
		{codes.POST, "/ps/t/a", []option{num(coap.Block1, 0<<4|8|2)}, codes.BadRequest, metrics.CoAPBadRequest},
		{codes.POST, "/ps/t/a", []option{num(coap.Size1, 3000)}, codes.RequestEntityTooLarge, metrics.CoAPTooLarge},
		{codes.GET, "/ps/t/json", []option{num(coap.Accept, 60)}, codes.NotAcceptable, metrics.CoAPNotAcceptable},
		{codes.GET, "/ps/t/json", []option{num(coap.Block2, 9<<4|2)}, codes.BadRequest, metrics.CoAPBadRequest},
	} {
		before := b.metrics.CoAPRefused[test.reason].Get()
		if m := d.ask(test.code, test.path, nil, test.options...); m.Code != test.want {
			t.Errorf("%v %s %v: got %v %q, want %v", test.code, test.path, test.options, m.Code, m.Payload, test.want)
		} else if n := b.metrics.CoAPRefused[test.reason].Get() - before; n != 1 {
			t.Errorf("%v %s: %d were counted as %v", test.code, test.path, n, test.reason)
		}
	}
	m := d.want(d.ask(codes.GET, "/ps/t/json", nil, num(coap.Accept, 50), option{ID: 65000}), codes.Content, "{}") // which isn't critical
	if age := uintOption(m, coap.MaxAge); uintOption(m, coap.ContentFormat) != "50" || age == "none" {
		t.Errorf("got %v", m.Options)
	}
	etag, err := m.Options.GetBytes(coap.ETag)
	if err != nil {
		t.Fatal(err)
	}
	d.want(d.ask(codes.GET, "/ps/t/json", nil, option{ID: coap.ETag, Value: etag}), codes.Valid, "")
	d.want(d.ask(codes.DELETE, "/ps/t/json", nil), codes.Deleted, "")
	d.want(d.ask(codes.GET, "/ps/t/json", nil), codes.NotFound, "*")
	d.want(d.ask(codes.GET, "/health", nil), codes.Content, "ok")
	d.want(d.ask(codes.GET, "/.well-known/core", nil), codes.Content, "*")
	d.want(d.ask(codes.POST, "/ps/t/a", make([]byte, 1100)), codes.Changed, "") // without blocks
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("t/#", 2)
	d.want(d.ask(codes.POST, "/mqtt/publish/t/typed?qos=2&expiry=7", []byte("{}"), num(coap.ContentFormat, 50)), codes.Changed, "")
	p := sub.ExpectPublish("t/typed", "{}")
	if string(p.Properties.ContentType) != "application/json" || p.Properties.MessageExpiryInterval != 7 || p.QoS != 2 {
		t.Errorf("got %v", brokertest.Describe(p))
	}
}

// Blocks come with other tokens each, and two bodies for the same path are told apart by
// their Request-Tags.
func TestBlocks(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{BodyBytes: 1000})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("t/#", 0)
	d := b.device()
	send := func(tag string, number uint32, more bool, text string) coap.Message {
		value := number<<4 | 2
		if more {
			value |= 8
		}
		m := d.message(coap.Confirmable, codes.PUT, fmt.Sprint("k", d.id), "/ps/t/big?qos=0", []byte(text), num(coap.Block1, value), option{ID: optionRequestTag, Value: []byte(tag)})
		d.send(m)
		return d.receive()
	}
	one, two := strings.Repeat("1", 64), strings.Repeat("2", 64)
	d.want(send("a", 0, true, one), codes.Continue, "")
	d.want(send("b", 0, true, two), codes.Continue, "")
	d.want(send("a", 1, true, one), codes.Continue, "")
	d.want(send("b", 1, false, "end"), codes.Changed, "")
	sub.ExpectPublish("t/big", two+"end")
	d.want(send("a", 2, false, ""), codes.Changed, "")
	sub.ExpectPublish("t/big", one+one)
	d.want(send("a", 3, false, ""), codes.RequestEntityIncomplete, "*")
	for n := range uint32(15) {
		d.want(send("c", n, true, one), codes.Continue, "")
	}
	m := d.want(send("c", 15, true, one), codes.RequestEntityTooLarge, "*")
	if uintOption(m, coap.Size1) != "1000" {
		t.Errorf("Size1 is %s", uintOption(m, coap.Size1))
	}
	for _, tag := range []string{"d", "e", "f"} { // with c
		d.want(send(tag, 0, true, one), codes.Continue, "")
	}
	d.want(send("g", 0, true, one), codes.TooManyRequests, "*")

	// What is read in blocks stays what it was.
	pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	old, other := bytes.Repeat([]byte("old "), 50), bytes.Repeat([]byte("other"), 50)
	pub.Publish("t/read", string(old), 1, brokertest.Retained)
	first := d.want(d.ask(codes.GET, "/ps/t/read", nil, num(coap.Block2, 2)), codes.Content, string(old[:64]))
	pub.Publish("t/read", string(other), 1, brokertest.Retained)
	for n := range uint32(3) {
		d.want(d.ask(codes.GET, "/ps/t/read", nil, num(coap.Block2, (n+1)<<4|2)), codes.Content, string(old[64*(n+1):min(200, 64*(n+2))]))
	}
	if uintOption(first, coap.Size2) != "200" {
		t.Errorf("Size2 is %s", uintOption(first, coap.Size2))
	}
	d.want(d.ask(codes.GET, "/ps/t/read", nil, num(coap.Block2, 2)), codes.Content, string(other[:64]))
}

// An address that may be forged gets no more than three times what came from it, until
// it shows that it gets what is sent there.
func TestUnverified(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	text := strings.Repeat("0123456789", 90)
	pub.Publish("t/a", text, 1, brokertest.Retained)
	d := b.device()
	m := d.message(coap.Confirmable, codes.GET, "t", "/ps/t/a", nil)
	d.send(m)
	got, length := 0, len(encode(m))
	for {
		r := d.receiveAny() // pings aren't answered
		got += len(encode(r))
		if r.Type == coap.Acknowledgement {
			if len(r.Payload) == 0 || len(r.Payload) > 64 || uintOption(r, coap.Block2) == "none" {
				t.Errorf("got %v", r)
			}
			break
		}
	}
	for range 60 { // which are answered again
		d.send(m)
	}
	buf := make([]byte, datagramMax)
	for {
		_ = d.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := d.conn.Read(buf)
		if err != nil {
			break
		}
		got += n
	}
	if length *= 61; got > 3*length+64 || got < length {
		t.Errorf("%d bytes for %d", got, length)
	}
	d = b.device()
	d.want(d.ask(codes.GET, "/ps/t/a", nil), codes.Content, text) // it answers
}

func TestTooMuch(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{Peers: 2, ObservationsPerPeer: 1, Observations: 2}, func(o *loopmq.Options) {
		o.Limits.Client.MessageRate = rate.Limit{PerSecond: 1, Burst: 2}
	})
	d := b.device()
	d.want(d.ask(codes.POST, "/ps/t/a", []byte("1")), codes.Changed, "")
	d.want(d.ask(codes.POST, "/ps/t/a", []byte("2")), codes.Changed, "")
	m := d.want(d.ask(codes.POST, "/ps/t/a", []byte("3")), codes.TooManyRequests, "*")
	if uintOption(m, coap.MaxAge) == "none" {
		t.Error("it isn't said how long to wait")
	}
	d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Observe, 0)), codes.Content, "")
	m = d.message(coap.Confirmable, codes.GET, "other", "/ps/t/b", nil, num(coap.Observe, 0))
	d.send(m)
	d.want(d.receive(), codes.TooManyRequests, "*")
	second, third := b.device(), b.device()
	second.want(second.ask(codes.POST, "/ps/t/a", nil), codes.Changed, "")
	third.send(third.message(coap.Confirmable, codes.POST, "t", "/ps/t/a", nil))
	await(t, func() bool { return b.metrics.CoAPIgnored[metrics.CoAPPeers].Get() == 1 })
	for _, datagram := range []string{"", "\x40", "\x80\x01\x00\x01", "\x4f\x01\x00\x01", "\x40\x01\x00\x02\xff", "\x40\x01\x00\x03\xf0", "\x40\x00\x00\x04x", "\x40\x45\x00\x05", "\x70\x00\x00\x06", "\x60\x00\x00\x07"} {
		d.write([]byte(datagram))
	}
	d.want(d.ask(codes.GET, "/health", nil), codes.Content, "ok") // behind resets
	if b.metrics.CoAPIgnored[metrics.CoAPMalformed].Get() == 0 {
		t.Error("malformed datagrams weren't counted")
	}
}

// An observer that doesn't acknowledge holds up to a bound; QoS 0 beyond it is dropped,
// and QoS 1 comes later.
func TestSlowObserver(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{QueueMessages: 4, AckTimeout: time.Minute})
	pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	d := b.device()
	d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Observe, 0)), codes.Content, "")
	const n = 20
	for i := range n {
		pub.Publish("t/a", fmt.Sprint(i), 1)
	}
	m := d.want(d.receive(), codes.Content, "0")
	pub.Publish("t/a", "dropped", 0)
	await(t, func() bool { return b.metrics.CoAPDropped.Get() == 1 })
	d.write(empty(coap.Acknowledgement, uint16(m.MessageID)))
	for i := 1; i < n; i++ {
		d.want(d.notification(), codes.Content, fmt.Sprint(i))
	}
}

// A confirmable notification is sent again, and no other one at the same time (NSTART),
// until it is acknowledged. A reset ends an observation, of a non-confirmable one too.
func TestNotifications(t *testing.T) {
	t.Parallel()
	for name, timeout := range map[string]time.Duration{"retransmission": 50 * time.Millisecond, "NSTART": time.Minute} {
		b := mustBridge(t, Options{AckTimeout: timeout, MaxRetransmit: 20})
		pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
		d := b.device()
		for _, topic := range []string{"a", "b"} {
			d.send(d.message(coap.Confirmable, codes.GET, topic, "/ps/t/"+topic, nil, num(coap.Observe, 0)))
			d.want(d.receive(), codes.Content, "")
		}
		pub.Publish("t/a", "one", 1)
		m := d.want(d.receive(), codes.Content, "one")
		pub.Publish("t/b", "two", 1)
		if name == "retransmission" {
			if again := d.want(d.receive(), codes.Content, "one"); again.MessageID != m.MessageID {
				t.Errorf("it came again as %d, not %d", again.MessageID, m.MessageID)
			}
			continue
		}
		health := d.message(coap.Confirmable, codes.GET, "h", "/health", nil)
		d.send(health)
		d.want(d.receive(), codes.Content, "ok") // and nothing before it
		d.write(empty(coap.Acknowledgement, uint16(m.MessageID)))
		d.want(d.notification(), codes.Content, "two")

		d.send(d.message(coap.Confirmable, codes.GET, "c", "/ps/t/c", nil, num(coap.Observe, 0)))
		d.want(d.receive(), codes.Content, "")
		pub.Publish("t/c", "three", 0)
		if m = d.want(d.receive(), codes.Content, "three"); m.Type != coap.NonConfirmable {
			t.Errorf("got %v", m)
		}
		d.write(empty(coap.Reset, uint16(m.MessageID)))
		await(t, func() bool { return b.metrics.CoAPEnded[metrics.CoAPReset].Get() == 1 })
	}
}

// Beyond the bound of all observations there are no others, and it is said when to try again.
func TestTooManyObservations(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{Observations: 1})
	d, other := b.device(), b.device()
	d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Observe, 0)), codes.Content, "")
	m := other.want(other.ask(codes.GET, "/ps/t/a", nil, num(coap.Observe, 0)), codes.ServiceUnavailable, "*")
	if age := uintOption(m, coap.MaxAge); age != "1" {
		t.Errorf("Max-Age is %s", age)
	}
}

// A non-confirmable request with a critical option that isn't known is rejected, and not
// answered. [RFC 7252, 5.4.1]
func TestRejected(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	d := b.device()
	for code := codes.Code(1); code < 8; code++ {
		m := d.message(coap.NonConfirmable, code, "t", "/ps/t/a", nil, option{ID: 65001, Value: []byte("x")})
		d.send(m)
		if r := d.receive(); r.Type != coap.Reset || r.MessageID != m.MessageID {
			t.Errorf("%v: got %v", code, r)
		}
		d.want(d.ask(code, "/ps/t/a", nil, option{ID: 65001, Value: []byte("x")}), codes.BadOption, "*")
	}
}

// only returns the one peer of the first endpoint.
func (b *bridge) only() *peer {
	b.t.Helper()
	all := b.mu.endpoints[0].all()
	if len(all) != 1 {
		b.t.Fatalf("%d peers", len(all))
	}
	return all[0]
}

// Who has only read makes room soon, who has published later, and who observes doesn't, if
// it is there at all.
func TestMayGo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		code     codes.Code
		options  []option
		answers  bool
		from, to time.Duration // it may go; 0: never
	}{
		"read":             {codes.GET, nil, false, time.Second, 2 * time.Second},
		"published":        {codes.POST, nil, false, 45 * time.Second, 46 * time.Second},
		"observes":         {codes.GET, []option{num(coap.Observe, 0)}, true, 0, 0},
		"forged, observes": {codes.GET, []option{num(coap.Observe, 0)}, false, 45 * time.Second, 46 * time.Second},
	} {
		b := mustBridge(t, Options{})
		d := b.device()
		d.send(d.message(coap.Confirmable, test.code, "t", "/ps/t/a", nil, test.options...))
		for d.receiveAny().Type != coap.Acknowledgement {
		}
		if test.answers {
			await(t, func() bool { return d.verified(b) })
		}
		p := b.only()
		await(t, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return !p.mu.working })
		p.mu.Lock()
		heard := p.mu.heard
		p.mu.Unlock()
		if test.to == 0 {
			if p.mayGo(heard.Add(time.Hour)) {
				t.Errorf("%s: it may go", name)
			}
		} else if p.mayGo(heard.Add(test.from-time.Millisecond)) || !p.mayGo(heard.Add(test.to)) {
			t.Errorf("%s: it may not go between %v and %v", name, test.from, test.to)
		}
	}
}

// An observer at an address that may be forged is asked soon whether it is there.
func TestForgedObserver(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{AckTimeout: 10 * time.Millisecond, MaxRetransmit: 1})
	d := b.device()
	d.send(d.message(coap.Confirmable, codes.GET, "t", "/ps/t/a", nil, num(coap.Observe, 0)))
	for d.receiveAny().Type != coap.Acknowledgement {
	}
	p := b.only()
	await(t, func() bool { // the first question has been given up
		p.sweep(time.Now().Add(50 * time.Second))
		return b.peers.Load() == 0 && b.observations.Load() == 0
	})
}

// Addresses of one listener make room for those of another.
func TestRoomForDTLS(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{Peers: 1, DTLS: &DTLSOptions{Keys: func(string) []byte { return []byte("secretkey") }}})
	addr := b.dtls(t)
	d := b.device()
	d.want(d.ask(codes.GET, "/health", nil), codes.Content, "ok")
	p := b.only()
	p.mu.Lock()
	p.mu.heard = p.mu.heard.Add(-time.Minute)
	p.mu.Unlock()
	secure := &device{t: t, conn: mustSession(t, mustSocket(t), addr)}
	secure.want(secure.ask(codes.GET, "/health", nil), codes.Content, "ok")
	if n := b.peers.Load(); n != 1 {
		t.Errorf("%d peers", n)
	}
}

// A body whose next block doesn't come is forgotten, and one that nobody asks for the
// rest of.
func TestTransferTimeout(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	d := b.device()
	d.want(d.ask(codes.PUT, "/ps/t/a?retain=true", bytes.Repeat([]byte("x"), 100)), codes.Changed, "")
	part, text := func(n, more uint32) coap.Message {
		return d.ask(codes.PUT, "/ps/t/b", make([]byte, 32), num(coap.Block1, n<<4|more|1))
	}, strings.Repeat("x", 32)
	d.want(part(0, 8), codes.Continue, "")
	d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Block2, 1)), codes.Content, text)
	p := b.only()
	p.sweep(time.Now().Add(29 * time.Second))
	d.want(part(1, 8), codes.Continue, "")
	d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Block2, 1<<4|1)), codes.Content, text)
	held := func() (uploads, bodies int, used int64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		b.bodies.mu.Lock()
		defer b.bodies.mu.Unlock()
		return len(p.mu.uploads), len(p.mu.bodies), b.bodies.used
	}
	if uploads, bodies, used := held(); uploads != 1 || bodies != 1 || used < 164 {
		t.Errorf("%d uploads and %d bodies of %d bytes", uploads, bodies, used)
	}
	p.sweep(time.Now().Add(31 * time.Second))
	if uploads, bodies, used := held(); uploads != 0 || bodies != 0 || used != 0 {
		t.Errorf("%d uploads and %d bodies of %d bytes are left", uploads, bodies, used)
	}
	d.want(part(2, 0), codes.RequestEntityIncomplete, "*")
}

// One address has a quarter of what all bodies may take, and all have no more than that.
func TestBodyBudgets(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{BodyBytes: 1024, BodiesBytes: 4096})
	begin := func(d *device, tag string) coap.Message {
		return d.ask(codes.PUT, "/ps/t/a", make([]byte, 512), num(coap.Block1, 8|5), option{ID: optionRequestTag, Value: []byte(tag)})
	}
	end := func(d *device, tag string) coap.Message {
		return d.ask(codes.PUT, "/ps/t/a", make([]byte, 512), num(coap.Block1, 1<<4|5), option{ID: optionRequestTag, Value: []byte(tag)})
	}
	var devices [5]*device
	for i := range devices {
		devices[i] = b.device()
		if i < 4 {
			devices[i].want(begin(devices[i], "a"), codes.Continue, "")
		}
	}
	last := devices[4]
	last.want(begin(last, "a"), codes.ServiceUnavailable, "*")
	devices[0].want(end(devices[0], "a"), codes.Changed, "")
	devices[1].want(begin(devices[1], "b"), codes.ServiceUnavailable, "*") // though there is room
	last.want(begin(last, "a"), codes.Continue, "")
	for _, d := range devices[1:] {
		d.want(end(d, "a"), codes.Changed, "")
	}
	b.bodies.mu.Lock()
	defer b.bodies.mu.Unlock()
	if b.bodies.used != 0 {
		t.Errorf("%d bytes are held", b.bodies.used)
	}
}

// What a client doesn't want to know it isn't told. [RFC 7967]
func TestNoResponse(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	d := b.device()
	for _, test := range []struct {
		path   string
		not    uint32
		silent bool
	}{{"/ps/t/a", 2, true}, {"/ps/t/a", 8, false}, {"/ps/t/a", 26, true}, {"/ps/other", 2, false}, {"/ps/other", 8, true}, {"/ps/other", 26, true}, {"/ps/t/a", 0, false}} {
		for _, typ := range []coap.Type{coap.Confirmable, coap.NonConfirmable} {
			d.send(d.message(typ, codes.POST, "no", test.path, nil, num(coap.NoResponse, test.not)))
			health := d.message(coap.Confirmable, codes.GET, "h", "/health", nil)
			d.send(health)
			m := d.receive()
			switch {
			case typ == coap.Confirmable && test.silent:
				if m.Type != coap.Acknowledgement || m.Code != codes.Empty {
					t.Errorf("%v: got %v", test, m)
				}
				m = d.receive()
			case !test.silent:
				if string(m.Token) != "no" {
					t.Errorf("%v: got %v", test, m)
				}
				m = d.receive()
			}
			d.want(m, codes.Content, "ok")
		}
	}
}
