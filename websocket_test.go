package loopmq_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// startWebSocket runs a broker with a listener for WebSocket, whose address it returns.
func startWebSocket(t *testing.T, options ...func(*loopmq.Options)) (*brokertest.Server, string) {
	t.Helper()
	s := brokertest.Start(t, append(options, func(*loopmq.Options) {})...)
	addr, err := s.Broker.Listen(loopmq.Listener{Address: "127.0.0.1:0", WebSocket: new(loopmq.WebSocket)})
	if err != nil {
		t.Fatal(err)
	}
	return s, addr.String()
}

// webSocket is a connection as brokertest wants it, a stream, which remembers its Close frame.
type webSocket struct {
	*websocket.Conn
	rest      []byte
	closeCode int
}

var _ net.Conn = (*webSocket)(nil)

func (c *webSocket) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		kind, b, err := c.ReadMessage()
		var closed *websocket.CloseError
		switch {
		case errors.As(err, &closed):
			c.closeCode = closed.Code
			return 0, io.EOF
		case err != nil:
			return 0, err
		case kind != websocket.BinaryMessage:
			return 0, fmt.Errorf("message of kind %d [MQTT-6.0.0-1]", kind)
		}
		c.rest = b
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *webSocket) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

func (c *webSocket) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// dialWebSocket returns a client, and what is under it.
func dialWebSocket(t *testing.T, addr string, v codec.Version) (*brokertest.Client, *webSocket) {
	t.Helper()
	conn, _, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).DialContext(t.Context(), "ws://"+addr+"/mqtt", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.Subprotocol(); got != "mqtt" {
		t.Errorf("subprotocol %q [MQTT-6.0.0-4]", got)
	}
	ws := &webSocket{Conn: conn}
	return brokertest.Over(t, ws, v), ws
}

func TestWebSocket_Conversation(t *testing.T) {
	t.Parallel()
	_, addr := startWebSocket(t)
	for _, v := range []codec.Version{codec.V31, codec.V311, codec.V5} {
		sub, under := dialWebSocket(t, addr, v)
		pub, _ := dialWebSocket(t, addr, v)
		sub.Connect()
		pub.Connect()
		topic := brokertest.Name()
		sub.Subscribe(topic, 2)
		for qos := range byte(3) {
			for _, payload := range []string{"payload", strings.Repeat("large", 100_000)} {
				pub.Publish(topic, payload, qos)
				sub.Acknowledge(sub.ExpectPublish(topic, payload))
			}
		}
		sub.Unsubscribe(topic)
		sub.Ping()
		sub.Disconnect()
		if under.closeCode != websocket.CloseNormalClosure {
			t.Errorf("Close frame with %d behind DISCONNECT", under.closeCode)
		}
	}
}

// The Receiver must not take the beginning of a frame for that of a packet [MQTT-6.0.0-2].
func TestWebSocket_PacketsAndFramesAreNotAligned(t *testing.T) {
	t.Parallel()
	_, addr := startWebSocket(t)
	c, under := dialWebSocket(t, addr, codec.V311)
	packets := append((&codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V311, CleanStart: true}).Append(nil, codec.V311), 0xC0, 0, 0xC0, 0)
	for _, frame := range [][]byte{packets[:1], packets[1:5], packets[5 : len(packets)-3], packets[len(packets)-3:]} {
		if _, err := under.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	c.ExpectConnack(codec.Success)
	c.ExpectPingresp()
	c.ExpectPingresp()
}

func TestWebSocket_CloseCodes(t *testing.T) {
	t.Parallel()
	s, addr := startWebSocket(t, func(o *loopmq.Options) { o.Limits.PacketSize = 1000 })
	for _, test := range []struct {
		name string
		act  func(c *brokertest.Client)
		code int
	}{
		{"protocol error", func(c *brokertest.Client) { c.SendRaw([]byte{0x10, 0}) }, websocket.CloseProtocolError},
		{"packet too large", func(c *brokertest.Client) { c.SendRaw([]byte{0x30, 0xFF, 0x7F}) }, websocket.CloseMessageTooBig},
		{"taken over", func(c *brokertest.Client) {
			other, _ := dialWebSocket(t, addr, codec.V311)
			other.Connect(brokertest.ClientID(c.ClientID))
		}, websocket.ClosePolicyViolation},
		{"kicked", func(c *brokertest.Client) {
			if err := s.Broker.Kick(t.Context(), c.ClientID); err != nil {
				t.Error(err)
			}
		}, websocket.ClosePolicyViolation},
		{"shutdown", func(*brokertest.Client) {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}, websocket.CloseGoingAway},
	} {
		c, under := dialWebSocket(t, addr, codec.V311)
		c.Connect()
		test.act(c)
		c.ExpectClosed()
		if under.closeCode != test.code {
			t.Errorf("%s: Close frame with %d, want %d", test.name, under.closeCode, test.code)
		}
	}
}

func TestWebSocket_BadFramesAreCounted(t *testing.T) {
	t.Parallel()
	s, addr := startWebSocket(t)
	for _, test := range []struct {
		frame   string
		code    int
		metrics [2]string
	}{
		{"\x82\x01x", websocket.CloseProtocolError, [2]string{`bad_frames_total{reason="not_masked"}`, `closed_total{reason="protocol_error"}`}},
		{"\x82\xFF\x00\x00\x00\x00\x7F\x00\x00\x00\x00\x00\x00\x00", websocket.CloseMessageTooBig,
			[2]string{`bad_frames_total{reason="too_large"}`, `closed_total{reason="quota_exceeded"}`}},
	} {
		c, under := dialWebSocket(t, addr, codec.V5)
		c.Connect()
		if _, err := under.NetConn().Write([]byte(test.frame)); err != nil {
			t.Fatal(err)
		}
		c.ExpectClosed()
		if under.closeCode != test.code {
			t.Errorf("Close frame with %d, want %d", under.closeCode, test.code)
		}
		for _, m := range test.metrics {
			eventually(t, m+" is 1", func() bool {
				var text strings.Builder
				s.Broker.Metrics().WritePrometheus(&text)
				return strings.Contains(text.String(), m+" 1\n")
			})
		}
	}
}

func TestWebSocket_Listen(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, func(*loopmq.Options) {}).Broker
	_, err := b.Listen(loopmq.Listener{Address: "127.0.0.1:0", WebSocket: &loopmq.WebSocket{Origins: []string{"app.example.com"}}})
	if err == nil || !strings.Contains(err.Error(), `listen on 127.0.0.1:0: origin "app.example.com": allowed:`) {
		t.Errorf("got %v", err)
	}
}
