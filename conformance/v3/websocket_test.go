package v3

import (
	"testing"

	"github.com/gorilla/websocket"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Section 6: MQTT over WebSocket.

func dialWebSocket(t *testing.T) (*brokertest.Client, *brokertest.WebSocket) {
	t.Helper()
	s := brokertest.Start(t, func(*loopmq.Options) {})
	return brokertest.DialWebSocket(t, s.ListenWebSocket(t, loopmq.WebSocket{}), codec.V311)
}

// [MQTT-6.0.0-1] The Server sends binary frames, and closes the connection for a text frame.
func TestMQTT_6_0_0_1_BinaryFramesOnly(t *testing.T) {
	t.Parallel()
	c, under := dialWebSocket(t)
	c.Connect() // reading fails for any other frame
	if err := under.WriteMessage(websocket.TextMessage, []byte{0xC0, 0}); err != nil {
		t.Fatal(err)
	}
	c.ExpectClosed()
	if under.CloseCode != websocket.CloseUnsupportedData {
		t.Errorf("closed with %d, want %d", under.CloseCode, websocket.CloseUnsupportedData)
	}
}

// [MQTT-6.0.0-2] Packets begin and end anywhere in frames.
func TestMQTT_6_0_0_2_FramesAndPacketsAreNotAligned(t *testing.T) {
	t.Parallel()
	c, under := dialWebSocket(t)
	connect := &codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V311, CleanStart: true, KeepAlive: 60}
	packets := append(connect.Append(nil, codec.V311), 0xC0, 0, 0xC0, 0)
	end := len(packets)
	for _, frame := range [][]byte{packets[:1], packets[1:5], {}, packets[5 : end-3], packets[end-3:]} {
		if _, err := under.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	c.ExpectConnack(codec.Success)
	c.ExpectPingresp()
	c.ExpectPingresp()
}

// [MQTT-6.0.0-4] The Server selects the subprotocol "mqtt".
func TestMQTT_6_0_0_4_Subprotocol(t *testing.T) {
	t.Parallel()
	if _, under := dialWebSocket(t); under.Subprotocol() != "mqtt" {
		t.Errorf("got %q", under.Subprotocol())
	}
}
