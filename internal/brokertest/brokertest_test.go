package brokertest

import (
	"bytes"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
)

// recorder is a test that remembers why it failed.
type recorder struct {
	testing.TB
	message string
	skipped bool
}

func (r *recorder) Helper() {}

func (r *recorder) Cleanup(f func()) { r.TB.Cleanup(f) }

func (r *recorder) Error(args ...any) { r.message += fmt.Sprint(args...) }

func (r *recorder) Fatal(args ...any) {
	r.message += fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.message += fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skipf(string, ...any) {
	r.skipped = true
	runtime.Goexit()
}

// record runs f as a test does and returns what it had to say.
func record(t *testing.T, f func(testing.TB)) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

// script listens, sends each connection these bytes, and then closes it unless it is to stay open.
func script(t *testing.T, stay bool, b ...byte) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write(b)
			if stay {
				t.Cleanup(func() { _ = conn.Close() })
			} else {
				_ = conn.(*net.TCPConn).CloseWrite()
			}
		}
	}()
	return l.Addr().String()
}

func TestEachHandshakeAgainstTheBroker(t *testing.T) {
	t.Parallel()
	s := Start(t)
	for _, v := range []codec.Version{codec.V31, codec.V311, codec.V5} {
		sub, pub := Connect(t, s.Addr, v, Credentials("user", "password")), Connect(t, s.Addr, v, KeepAlive(10))
		topic := Name()
		sub.Subscribe(topic, 2)
		for qos := range byte(3) {
			pub.Publish(topic, "payload", qos)
			sub.Acknowledge(sub.ExpectPublish(topic, "payload"))
			sub.ExpectNothingFrom(pub, qos)
		}
		pub.Publish(topic, "retained", 1, Retained)
		sub.Ping()
		if p := sub.ExpectPublish(topic, "retained"); v == codec.V5 && p.Retain {
			t.Error("RETAIN is set")
		}
		sub.Unsubscribe(topic)
		sub.ExpectNothing()
		sub.Disconnect()
		pub.CloseWrite()
		pub.ExpectClosed()
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	c, under := DialWebSocket(t, Start(t, func(*loopmq.Options) {}).ListenWebSocket(t, loopmq.WebSocket{}), codec.V5)
	c.Connect()
	topic := Name()
	c.Subscribe(topic, 1)
	c.Publish(topic, "payload", 1)
	c.Acknowledge(c.ExpectPublish(topic, "payload"))
	c.Disconnect()
	if under.CloseCode != 1000 {
		t.Errorf("closed with %d", under.CloseCode)
	}
	if err := under.SetDeadline(time.Now()); err != nil {
		t.Error(err)
	}
}

func TestResumeAndWill(t *testing.T) {
	t.Parallel()
	s := Start(t)
	watch, topic := Connect(t, s.Addr, codec.V5), Name()
	watch.Subscribe(topic, 0)
	for _, v := range []codec.Version{codec.V311, codec.V5} {
		id := Name()
		c := Dial(t, s.Addr, v)
		if p := c.Connect(Durable(id), Will(topic, "will", 0, false)); p.SessionPresent || c.ClientID != id {
			t.Errorf("got %s for %q", Describe(p), c.ClientID)
		}
		c.Close()
		watch.ExpectPublish(topic, "will")
		c = Dial(t, s.Addr, v)
		if p := c.Connect(ClientID(id), Resume); !p.SessionPresent {
			t.Errorf("got %s", Describe(p))
		}
	}
	c := Dial(t, s.Addr, codec.V5)
	c.Connect(ClientID(""), With(codec.PropReceiveMaximum, 5))
	if c.ClientID == "" {
		t.Error("the assigned client identifier isn't known")
	}
}

func TestPacketsPutAsideComeInOrder(t *testing.T) {
	t.Parallel()
	c, topic := Connect(t, Start(t).Addr, codec.V5), Name()
	c.Subscribe(topic, 0)
	c.Publish(topic, "1", 0)
	c.Ping() // puts it aside, or it comes later
	c.Publish(topic, "2", 0)
	c.Subscribe(topic+"/other", 0)
	c.Unsubscribe(topic + "/other")
	c.ExpectPublish(topic, "1")
	if p := c.Receive().(*codec.Publish); string(p.Payload) != "2" {
		t.Errorf("got %s", Describe(p))
	}
	c.Send(&codec.Subscribe{PacketID: 9, Subscriptions: []codec.Subscription{Subscription("a", 1), Subscription("#/", 1)}})
	c.ExpectSuback(9, 1, codec.TopicFilterInvalid)
	c.Send(&codec.Unsubscribe{PacketID: 10, TopicFilters: [][]byte{[]byte("a")}})
	c.ExpectUnsuback(10, 0)
	c.Send(Pingreq{})
	c.ExpectPingresp()
	c.Send(&codec.Ack{Type: codec.TypePubrel, PacketID: 5})
	c.ExpectAck(codec.TypePubcomp, 5, codec.Success)
	c.SendRaw([]byte{0, 0})
	if raw := c.ReceiveRaw(); raw[0] != 0xE0 {
		t.Errorf("got % X", raw)
	}
	if p := c.ReceiveOrClosed(); p != nil {
		t.Errorf("got %s", Describe(p))
	}
}

func TestExpectationsFail(t *testing.T) {
	t.Parallel()
	connack := []byte{0x20, 3, 0, 0, 0}
	puback := []byte{0x40, 2, 0, 9}
	refusal := []byte{0x20, 3, 0, 0x87, 0}
	suback := []byte{0x90, 4, 0, 1, 0, 0x80}
	unsuback := []byte{0xB0, 4, 0, 9, 0, 0}
	publish := []byte{0x30, 5, 0, 1, 'a', 0, 'x'}
	disconnect := []byte{0xE0, 1, 0x8E}
	auth := []byte{0xF0, 6, 0x18, 4, 0x15, 0, 1, 'm'}
	for name, test := range map[string]struct {
		sent []byte
		act  func(*Client)
		want string
	}{
		"nothing":               {nil, func(c *Client) { c.Receive() }, "no packet within"},
		"nothing raw":           {nil, func(c *Client) { c.ReceiveRaw() }, "no packet within"},
		"nothing, not closed":   {nil, func(c *Client) { c.ReceiveOrClosed() }, "no packet within"},
		"closed, not open":      {nil, func(c *Client) { c.ExpectClosed() }, "want the end of the connection"},
		"part of a packet":      {publish[:4], func(c *Client) { c.Receive() }, "30 05 00 01 of one"},
		"packet, not closed":    {connack, func(c *Client) { c.ExpectClosed() }, "got CONNACK(session present false, 0x00)"},
		"another packet":        {puback, func(c *Client) { c.ExpectPublish("a", "x") }, "got PUBACK(id 9, 0x00)"},
		"refused":               {refusal, func(c *Client) { c.Connect() }, "0x87"},
		"refused and open":      {refusal, func(c *Client) { c.ExpectConnack(codec.NotAuthorized) }, "want the end"},
		"another payload":       {publish, func(c *Client) { c.ExpectPublish("a", "y") }, `got PUBLISH("a", "x"`},
		"another topic":         {publish, func(c *Client) { c.ExpectPublish("b", "x") }, `got PUBLISH("a", "x"`},
		"another identifier":    {puback, func(c *Client) { c.ExpectAck(codec.TypePuback, 8, 0) }, "want PUBACK(id 8"},
		"another reason":        {puback, func(c *Client) { c.ExpectAck(codec.TypePuback, 9, 0x87) }, "0x87"},
		"another type":          {puback, func(c *Client) { c.ExpectAck(codec.TypePubrec, 9, 0) }, "want PUBREC"},
		"another granted QoS":   {suback, func(c *Client) { c.ExpectSuback(1, 1) }, "got SUBACK(id 1, 80)"},
		"another UNSUBACK":      {unsuback, func(c *Client) { c.ExpectUnsuback(1, 0) }, "got UNSUBACK(id 9"},
		"not granted":           {suback, func(c *Client) { c.Subscribe("a", 1) }, "got SUBACK(id 1, 80)"},
		"UNSUBACK of another":   {unsuback, func(c *Client) { c.Unsubscribe("a") }, "got UNSUBACK(id 9"},
		"another DISCONNECT":    {disconnect, func(c *Client) { c.ExpectDisconnect(0x82) }, "got DISCONNECT(0x8E"},
		"another AUTH":          {auth, func(c *Client) { c.ExpectAuth(0) }, "got AUTH(0x18"},
		"something, not ping":   {publish, func(c *Client) { c.ExpectNothing() }, "got PUBLISH"},
		"answer to another":     {puback, func(c *Client) { c.Publish("a", "x", 1) }, "while waiting for an answer"},
		"error acknowledgement": {[]byte{0x40, 3, 0, 1, 0x87}, func(c *Client) { c.Publish("a", "x", 1) }, "want success"},
		"no answer":             {nil, func(c *Client) { c.Ping() }, "waiting for an answer"},
		"DISCONNECT, not end":   {puback, func(c *Client) { c.Disconnect() }, "want the end of the connection"},
		"end doesn't come":      {publish, func(c *Client) { c.Disconnect() }, "waiting for the end"},
		"packet of a client":    {[]byte{0xC0, 0}, func(c *Client) { c.Receive() }, "a server sends no PINGREQ"},
		"malformed packet":      {[]byte{0x36, 3, 0, 1, 'a'}, func(c *Client) { c.Receive() }, "the broker sent 36"},
		"malformed body":        {[]byte{0x90, 2, 0, 0}, func(c *Client) { c.Receive() }, "the broker sent 90"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := record(t, func(tb testing.TB) {
				c := Dial(tb, script(t, true, test.sent...), codec.V5)
				c.SetTimeout(50 * time.Millisecond)
				test.act(c)
			})
			if !strings.Contains(r.message, test.want) {
				t.Errorf("got failure %q, want one with %q", r.message, test.want)
			}
		})
	}
}

func TestEndOfTheConnection(t *testing.T) {
	t.Parallel()
	Dial(t, script(t, false), codec.V5).ExpectClosed()
	if raw := Dial(t, script(t, false), codec.V5).ReceiveRaw(); raw != nil {
		t.Errorf("got % X", raw)
	}
	r := record(t, func(tb testing.TB) { Dial(tb, script(t, false, 0x40, 2, 0), codec.V5).ExpectClosed() })
	if !strings.Contains(r.message, "closed after a part of a packet: 40 02 00") {
		t.Errorf("got failure %q", r.message)
	}
	r = record(t, func(tb testing.TB) { Connect(tb, script(t, false), codec.V311) })
	if !strings.Contains(r.message, "want *codec.Connack: EOF") {
		t.Errorf("got failure %q", r.message)
	}
	r = record(t, func(tb testing.TB) {
		c := Dial(tb, script(t, true), codec.V5)
		c.Close()
		c.Send(Pingreq{})
	})
	if !strings.Contains(r.message, "send:") {
		t.Errorf("got failure %q", r.message)
	}
	r = record(t, func(tb testing.TB) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		Dial(tb, l.Addr().String(), codec.V5)
	})
	if !strings.Contains(r.message, "dial:") {
		t.Errorf("got failure %q", r.message)
	}
}

func TestProperties(t *testing.T) {
	t.Parallel()
	p := codec.Publish{TopicName: []byte("a"), Properties: Properties(
		codec.PropPayloadFormatIndicator, 1, codec.PropMessageExpiryInterval, 2, codec.PropContentType, "c", codec.PropResponseTopic, "r",
		codec.PropCorrelationData, "d", codec.PropSubscriptionIdentifier, 3, codec.PropSubscriptionIdentifier, 4, codec.PropTopicAlias, 5,
		codec.PropUserProperty, [2]string{"k", "v"}, codec.PropUserProperty, [2]string{"k", "w"})}
	raw := p.Append(nil, codec.V5)
	h, _, err := codec.DecodeFixedHeader(raw, codec.V5)
	if err != nil {
		t.Fatal(err)
	}
	var got codec.Publish
	if err := got.Decode(codec.V5, h.Flags, raw[h.HeaderSize:]); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Properties.SubscriptionIdentifiers, []uint32{3, 4}) || len(got.Properties.UserProperties) != 2 ||
		got.Properties.TopicAlias != 5 || string(got.Properties.CorrelationData) != "d" {
		t.Errorf("got %+v", got.Properties)
	}
	connect := codec.Connect{Version: codec.V5, Properties: Properties(
		codec.PropSessionExpiryInterval, 1, codec.PropAuthenticationMethod, "m", codec.PropAuthenticationData, "d",
		codec.PropRequestProblemInformation, 1, codec.PropRequestResponseInformation, 1, codec.PropReceiveMaximum, 2,
		codec.PropTopicAliasMaximum, 3, codec.PropMaximumPacketSize, 4, codec.PropReasonString, "x", codec.PropWillDelayInterval, 5)}
	if cp := connect.Properties; cp.SessionExpiryInterval != 1 || cp.ReceiveMaximum != 2 || cp.TopicAliasMaximum != 3 ||
		cp.MaximumPacketSize != 4 || cp.WillDelayInterval != 5 || string(cp.ReasonString) != "x" {
		t.Errorf("got %+v", cp)
	}
	defer func() {
		if recover() == nil {
			t.Error("no panic for a property that only servers send")
		}
	}()
	Properties(codec.PropServerKeepAlive, 1)
}

func TestNamesAreUniqueClientIDs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 10_000 {
		n := Name()
		if seen[n] || len(n) > 23 || strings.Trim(n, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
			t.Fatalf("got %q", n)
		}
		seen[n] = true
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	if got := Describe(Pingresp{}); got != "PINGRESP" {
		t.Errorf("got %q", got)
	}
	if got := Describe(Pingreq{}); got != "brokertest.Pingreq" {
		t.Errorf("got %q", got)
	}
	if raw := (Pingresp{}).Append(nil, codec.V5); !bytes.Equal(raw, []byte{0xD0, 0}) {
		t.Errorf("got % X", raw)
	}
}

// Goroutines of ours that stay are found, and named.
func TestLeaksAreFound(t *testing.T) {
	if _, err := Run(func(o *loopmq.Options) { o.Loops = -1 }); err == nil {
		t.Error("no error for options that can't be")
	}
	r := record(t, func(tb testing.TB) { Start(tb, func(o *loopmq.Options) { o.Loops = -1 }) })
	if !strings.Contains(r.message, "start a broker") {
		t.Errorf("got failure %q", r.message)
	}
	started, stop, stopped := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		lingering(started, stop)
	}()
	<-started
	ours = append(ours, "loopmq/internal/brokertest.lingering")
	defer func() { ours = ours[:len(ours)-1] }()
	leakTimeout = 10 * time.Millisecond
	defer func() { leakTimeout = Timeout }()
	if err := leaked(); err == nil || !strings.Contains(err.Error(), "lingering") {
		t.Errorf("got %v, want the goroutine that is left", err)
	}
	close(stop)
	<-stopped
	if err := leaked(); err != nil {
		t.Errorf("got %v after its end", err)
	}
}

// lingering stands for a function of the broker that doesn't end.
func lingering(started, stop chan struct{}) {
	close(started)
	<-stop
}

// With an outside broker nothing is started, and tests with options of their own are skipped.
func TestOutsideBroker(t *testing.T) {
	s := Start(t)
	t.Setenv(AddrVariable, s.Addr)
	outside := Start(t)
	if outside.Broker != nil || outside.Addr != s.Addr || !Outside() {
		t.Errorf("got %+v", outside)
	}
	Connect(t, outside.Addr, codec.V5).Ping()
	if r := record(t, func(tb testing.TB) { Start(tb, func(*loopmq.Options) {}) }); !r.skipped {
		t.Error("a test with options isn't skipped")
	}
}
