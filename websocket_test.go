package loopmq_test

import (
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// startWebSocket runs a broker with a listener for WebSocket, whose URL it returns.
func startWebSocket(t *testing.T, options ...func(*loopmq.Options)) (s *brokertest.Server, url string) {
	t.Helper()
	s = brokertest.Start(t, append(options, func(*loopmq.Options) {})...)
	return s, s.ListenWebSocket(t, loopmq.WebSocket{})
}

func TestWebSocket_Conversation(t *testing.T) {
	t.Parallel()
	_, url := startWebSocket(t)
	for _, v := range []codec.Version{codec.V31, codec.V311, codec.V5} {
		sub, under := brokertest.DialWebSocket(t, url, v)
		pub, _ := brokertest.DialWebSocket(t, url, v)
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
		if under.CloseCode != websocket.CloseNormalClosure {
			t.Errorf("Close frame with %d behind DISCONNECT", under.CloseCode)
		}
	}
}

func TestWebSocket_CloseCodes(t *testing.T) {
	t.Parallel()
	s, url := startWebSocket(t, func(o *loopmq.Options) { o.Limits.PacketSize = 1000 })
	for _, test := range []struct {
		name string
		act  func(c *brokertest.Client)
		code int
	}{
		{"protocol error", func(c *brokertest.Client) { c.SendRaw([]byte{0x10, 0}) }, websocket.CloseProtocolError},
		{"packet too large", func(c *brokertest.Client) { c.SendRaw([]byte{0x30, 0xFF, 0x7F}) }, websocket.CloseMessageTooBig},
		{"taken over", func(c *brokertest.Client) {
			other, _ := brokertest.DialWebSocket(t, url, codec.V311)
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
		c, under := brokertest.DialWebSocket(t, url, codec.V311)
		c.Connect()
		test.act(c)
		c.ExpectClosed()
		if under.CloseCode != test.code {
			t.Errorf("%s: Close frame with %d, want %d", test.name, under.CloseCode, test.code)
		}
	}
}

func TestWebSocket_BadFramesAreCounted(t *testing.T) {
	t.Parallel()
	s, url := startWebSocket(t)
	for _, test := range []struct {
		frame   string
		code    int
		metrics [2]string
	}{
		{"\x82\x01x", websocket.CloseProtocolError, [2]string{`bad_frames_total{reason="not_masked"}`, `closed_total{reason="protocol_error"}`}},
		{
			"\x82\xFF\x00\x00\x00\x00\x7F\x00\x00\x00\x00\x00\x00\x00", websocket.CloseMessageTooBig,
			[2]string{`bad_frames_total{reason="too_large"}`, `closed_total{reason="quota_exceeded"}`},
		},
	} {
		c, under := brokertest.DialWebSocket(t, url, codec.V5)
		c.Connect()
		if _, err := under.NetConn().Write([]byte(test.frame)); err != nil {
			t.Fatal(err)
		}
		c.ExpectClosed()
		if under.CloseCode != test.code {
			t.Errorf("Close frame with %d, want %d", under.CloseCode, test.code)
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
