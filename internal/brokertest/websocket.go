package brokertest

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"loopmq"
	"loopmq/codec"
)

// WebSocket is a connection over WebSocket as a stream: a Write is a binary frame, Read goes through the payload of all that come.
type WebSocket struct {
	*websocket.Conn
	// CloseCode is the status code of the Close frame, once Read has returned io.EOF for it.
	CloseCode int

	rest []byte
}

// ListenWebSocket opens a listener for WebSocket of a broker in this process, and returns its URL.
func (s *Server) ListenWebSocket(t testing.TB, ws loopmq.WebSocket) (url string) {
	t.Helper()
	addr, err := s.Broker.Listen(loopmq.Listener{Address: "127.0.0.1:0", WebSocket: &ws})
	if err != nil {
		t.Fatal(err)
	}
	return "ws://" + addr.String() + "/mqtt"
}

// DialWebSocket is [Dial] for a URL; it offers the subprotocol mqtt. What is under the Client is returned too.
func DialWebSocket(t testing.TB, url string, version codec.Version) (*Client, *WebSocket) {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}, HandshakeTimeout: Timeout}
	conn, _, err := d.DialContext(t.Context(), url, nil)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	w := &WebSocket{Conn: conn}
	return Over(t, w, version), w
}

// Read implements net.Conn.
func (w *WebSocket) Read(p []byte) (int, error) {
	for len(w.rest) == 0 {
		kind, b, err := w.ReadMessage()
		var closed *websocket.CloseError
		switch {
		case errors.As(err, &closed):
			w.CloseCode = closed.Code
			return 0, io.EOF
		case err != nil:
			return 0, err
		case kind != websocket.BinaryMessage:
			return 0, fmt.Errorf("the broker sent a message of kind %d [MQTT-6.0.0-1]", kind)
		}
		w.rest = b
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// Write implements net.Conn.
func (w *WebSocket) Write(p []byte) (int, error) {
	return len(p), w.WriteMessage(websocket.BinaryMessage, p)
}

// SetDeadline implements net.Conn.
func (w *WebSocket) SetDeadline(t time.Time) error {
	return errors.Join(w.SetReadDeadline(t), w.SetWriteDeadline(t))
}
