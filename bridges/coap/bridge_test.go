package coapbridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// users is an Authenticator and Authorizer: users have the password "right", and may do
// what they like below their own name, and below t/. Nobody has no name and may too.
type users struct{}

func (users) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	switch {
	case !r.HasUsername:
		return loopmq.Identity{}, nil, nil
	case r.Username == "banned":
		return loopmq.Identity{}, nil, codec.NewError(codec.Banned, "banned")
	case string(r.Password) != "right":
		return loopmq.Identity{}, nil, codec.NewError(codec.BadUserNameOrPassword, "wrong password")
	}
	return loopmq.Identity{Username: r.Username}, nil, nil
}

func (users) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, errors.New("never")
}

func (users) Authorize(_ context.Context, c *loopmq.ClientInfo, _ loopmq.Action, topic string, _ byte, _ bool) bool {
	return strings.HasPrefix(topic, "t/") || c.Username != "" && strings.HasPrefix(topic, c.Username+"/")
}

// bridge is a Bridge of a broker of its own, on a free port.
type bridge struct {
	*Bridge
	t      *testing.T
	broker *brokertest.Server
	addr   string
}

func mustBridge(t *testing.T, o Options, options ...func(*loopmq.Options)) *bridge {
	t.Helper()
	s := brokertest.Start(t, options...)
	return mustBridgeAt(t, s, o)
}

func mustBridgeAt(t *testing.T, s *brokertest.Server, o Options) *bridge {
	t.Helper()
	o.Broker = s.Broker
	if o.Settings == nil {
		o.Settings = &loopmq.Settings{Authenticator: users{}, Authorizer: users{}}
	}
	o.Logger = slog.New(slog.DiscardHandler)
	b := &bridge{Bridge: New(o), t: t, broker: s}
	addr, err := b.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = addr.String()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// libcoap runs coap-client, and returns what it prints.
func (b *bridge) libcoap(stdin string, args ...string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	last := len(args) - 1
	if !strings.Contains(args[last], "://") {
		args[last] = "coap://" + b.addr + args[last]
	}
	cmd := exec.CommandContext(ctx, "coap-client-openssl", args...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Errorf("coap-client %v: %v", args, err)
	}
	return string(out)
}

// device is a client that can misbehave.
type device struct {
	t    *testing.T
	conn net.Conn
	id   uint16
}

func (b *bridge) device() *device { return dial(b.t, b.addr) }

func dial(t *testing.T, addr string) *device {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &device{t: t, conn: conn}
}

// option is one for ask.
type option = coap.Option

func num(id coap.OptionID, n uint32) option { return option{ID: id, Value: appendUint(nil, n)} }

// message makes a request. path is what is in a URL, with a query.
func (d *device) message(t coap.Type, code codes.Code, token, path string, payload []byte, options ...option) coap.Message {
	d.id++
	m := coap.Message{Type: t, Code: code, MessageID: int32(d.id), Token: coap.Token(token), Payload: payload}
	path, query, _ := strings.Cut(path, "?")
	for _, part := range strings.Split(strings.TrimPrefix(path, "/"), "/") {
		m.Options = m.Options.Add(option{ID: coap.URIPath, Value: []byte(part)})
	}
	if query != "" {
		for _, part := range strings.Split(query, "&") {
			m.Options = m.Options.Add(option{ID: coap.URIQuery, Value: []byte(part)})
		}
	}
	for _, o := range options {
		m.Options = m.Options.Add(o)
	}
	return m
}

func encode(m coap.Message) []byte {
	var b bytes.Buffer
	b.Write([]byte{1<<6 | byte(m.Type)<<4 | byte(len(m.Token)), byte(m.Code), byte(m.MessageID >> 8), byte(m.MessageID)})
	b.Write(m.Token)
	options := make([]byte, 64<<10)
	n, err := m.Options.Marshal(options)
	if err != nil {
		panic(err)
	}
	b.Write(options[:n])
	if len(m.Payload) > 0 {
		b.WriteByte(0xff)
		b.Write(m.Payload)
	}
	return b.Bytes()
}

func (d *device) send(m coap.Message) { d.write(encode(m)) }

func (d *device) write(data []byte) {
	d.t.Helper()
	if _, err := d.conn.Write(data); err != nil {
		d.t.Fatal(err)
	}
}

// receive returns the next message, and resets pings by the way, as all clients do.
func (d *device) receive() coap.Message {
	d.t.Helper()
	for {
		m := d.receiveAny()
		if m.Type != coap.Confirmable || m.Code != codes.Empty {
			return m
		}
		d.write(empty(coap.Reset, uint16(m.MessageID)))
	}
}

func (d *device) receiveAny() coap.Message {
	d.t.Helper()
	_ = d.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, datagramMax)
	n, err := d.conn.Read(buf)
	if err != nil {
		d.t.Fatal(err)
	}
	m, err := decode(buf[:n])
	if err != nil {
		d.t.Fatalf("% x: %v", buf[:n], err)
	}
	return m
}

// ask sends a confirmable request and returns the answer to it.
func (d *device) ask(code codes.Code, path string, payload []byte, options ...option) coap.Message {
	d.t.Helper()
	m := d.message(coap.Confirmable, code, "tk", path, payload, options...)
	d.send(m)
	for {
		if r := d.receive(); r.Type == coap.Acknowledgement && r.MessageID == m.MessageID {
			return r
		}
	}
}

// want fails the test if a message isn't as expected.
func (d *device) want(m coap.Message, code codes.Code, payload string) coap.Message {
	d.t.Helper()
	if m.Code != code || payload != "*" && string(m.Payload) != payload {
		d.t.Errorf("got %v %q, want %v %q", m.Code, m.Payload, code, payload)
	}
	return m
}

func uintOption(m coap.Message, id coap.OptionID) string {
	v, err := m.Options.GetBytes(id)
	if err != nil {
		return "none"
	}
	return fmt.Sprint(uintOf(v))
}

func TestPublish(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("t/#", 2)
	d := b.device()
	d.want(d.ask(codes.POST, "/ps/t/a", []byte("one")), codes.Changed, "")
	p := sub.ExpectPublish("t/a", "one")
	if p.QoS != 1 {
		t.Errorf("QoS %d", p.QoS)
	}
	sub.Acknowledge(p)
	if out := b.libcoap("", "-m", "put", "-e", "two", "/ps/t/b"); strings.Contains(out, "4.") {
		t.Error(out)
	}
	sub.Acknowledge(sub.ExpectPublish("t/b", "two"))
	d.want(d.ask(codes.POST, "/ps/t/r?retain=true&qos=1", []byte("kept")), codes.Changed, "")
	sub.Acknowledge(sub.ExpectPublish("t/r", "kept"))
	if out := b.libcoap("", "-m", "get", "/ps/t/r"); strings.TrimSpace(out) != "kept" {
		t.Errorf("got %q", out)
	}
}
