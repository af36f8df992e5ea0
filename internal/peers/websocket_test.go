package peers

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"loopmq"
	"loopmq/internal/brokertest"
)

// webSocketPeers are those of peers that speak WebSocket: Debian's mosquitto_pub and mosquitto_sub don't.
var webSocketPeers = func() (able []peer) {
	for _, p := range peers {
		if !strings.HasPrefix(p.name, "mosquitto") {
			able = append(able, p)
		}
	}
	return able
}()

// startSecureWebSocket runs a broker that listens for secure WebSocket, and returns its URL.
func startSecureWebSocket(t *testing.T, ws loopmq.WebSocket) (url string) {
	t.Helper()
	certified := httptest.NewTLSServer(nil) // for its certificate
	certified.Close()
	addr, err := brokertest.Start(t, func(*loopmq.Options) {}).Broker.Listen(loopmq.Listener{Address: "127.0.0.1:0", TLS: certified.TLS, WebSocket: &ws})
	if err != nil {
		t.Fatal(err)
	}
	return "wss://" + addr.String() + "/mqtt"
}

// startWebSocket runs a broker that listens for WebSocket, and returns its URL.
func startWebSocket(t *testing.T, ws loopmq.WebSocket) (b *loopmq.Broker, url string) {
	t.Helper()
	b = brokertest.Start(t, func(*loopmq.Options) {}).Broker
	addr, err := b.Listen(loopmq.Listener{Address: "127.0.0.1:0", WebSocket: &ws})
	if err != nil {
		t.Fatal(err)
	}
	return b, "ws://" + addr.String() + "/mqtt"
}

// Each client gets over WebSocket what each other publishes, at each QoS, small and large.
func TestWebSocketMatrix(t *testing.T) {
	_, url := startWebSocket(t, loopmq.WebSocket{})
	webSocketMatrix(t, url)
}

func TestSecureWebSocketMatrix(t *testing.T) {
	webSocketMatrix(t, startSecureWebSocket(t, loopmq.WebSocket{}))
}

func webSocketMatrix(t *testing.T, url string) {
	var receivers []client
	for i, p := range webSocketPeers {
		receivers = append(receivers, p.connect(t, url, options{subscribe: []subscription{{filter: fmt.Sprintf("ws/%d/#", i), qos: 2}}}))
	}
	large := strings.Repeat("0123456789abcdef", 20_000)
	each(t, webSocketPeers, func(t *testing.T, p peer) {
		sender := p.connect(t, url, options{})
		for i, r := range receivers {
			for qos := range byte(3) {
				for _, payload := range []string{"", "ü €", large} {
					m := text(fmt.Sprintf("ws/%d/%s", i, p.name), payload, qos)
					sender.publish(m)
					expect(t, r, m)
				}
			}
		}
		sender.disconnect()
	})
}

// A session is there again, with what came meanwhile, and a Will is published, whichever way the connection ended.
func TestWebSocketSessions(t *testing.T) {
	_, url := startWebSocket(t, loopmq.WebSocket{})
	each(t, webSocketPeers, func(t *testing.T, p peer) {
		topic := "ws/session/" + p.name
		watcher := connectPahoV5(t, url, options{subscribe: []subscription{{filter: topic + "/will", qos: 1}}})
		will := text(topic+"/will", "gone", 1)
		o := options{clientID: brokertest.Name(), durable: true, will: &will, subscribe: []subscription{{filter: topic, qos: 1}}}
		p.connect(t, url, o).kill()
		expect(t, watcher, will)
		watcher.publish(text(topic, "meanwhile", 1))
		back := p.connect(t, url, o)
		expect(t, back, text(topic, "meanwhile", 1))
		if present, known := back.sessionPresent(); known && !present {
			t.Error("the session isn't there")
		}
		back.disconnect()
	})
}

// Who is on WebSocket and who is on TCP talk to each other.
func TestWebSocketAndTCP(t *testing.T) {
	s := brokertest.Start(t, func(*loopmq.Options) {})
	addr, err := s.Broker.Listen(loopmq.Listener{Address: "127.0.0.1:0", WebSocket: &loopmq.WebSocket{Path: "/ws"}})
	if err != nil {
		t.Fatal(err)
	}
	a := connectMQTTJS(5)(t, "ws://"+addr.String()+"/ws", options{subscribe: []subscription{{filter: "to/ws", qos: 1}}})
	b := connectMosquitto(5)(t, s.Addr, options{subscribe: []subscription{{filter: "to/tcp", qos: 1}}})
	a.publish(text("to/tcp", "hello", 1))
	expect(t, b, text("to/tcp", "hello", 1))
	b.publish(text("to/ws", "hello", 1))
	expect(t, a, text("to/ws", "hello", 1))
}
