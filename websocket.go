package loopmq

import (
	"errors"
	"net/netip"

	"loopmq/codec"
	"loopmq/eventloop"
	"loopmq/eventloop/websocket"
	"loopmq/metrics"
)

// WebSocket makes a Listener one for MQTT over WebSocket (RFC 6455). The subprotocol is
// "mqtt" or "mqttv3.1" [MQTT-6.0.0-3, -4]; a client that offers none is taken too,
// one that offers only others isn't.
type WebSocket struct {
	// Path is what requests have to be for, beginning with a slash; "" means
	// "/mqtt", "*" any path.
	Path string

	// Origins are the web pages that may connect, by the scheme, host and port they
	// come from: "https://app.example.com", "http://localhost:3000";
	// "https://*.example.com" means all hosts below that domain, "*" any page.
	// Empty: pages from the host and port that they connect to. Clients that are no
	// pages send no origin, and aren't asked for one.
	Origins []string

	// Forwarders are the networks of proxies whose X-Forwarded-For is believed: it
	// then says what the client's address is. Empty: none.
	Forwarders []netip.Prefix
}

// layer checks what the listener asks for; nil if it asks for no WebSocket.
func (w *WebSocket) layer(limits *Limits) (*eventloop.WebSocket, error) {
	if w == nil {
		return nil, nil
	}
	handshake, err := websocket.NewHandshake(websocket.Options(*w))
	if err != nil {
		return nil, err
	}
	return &eventloop.WebSocket{
		Handshake: handshake,
		// A frame may hold several packets, but none is larger than this.
		MaxFrame:  max(limits.PacketSize, 1<<20),
		CloseCode: closeCode,
	}, nil
}

// closeCode is what a Close frame says of the end of a connection.
func closeCode(err error) uint16 {
	var e *codec.Error
	switch {
	case err == nil:
		return websocket.CloseNormal
	case errors.Is(err, eventloop.ErrStopped):
		return websocket.CloseGoingAway
	case !errors.As(err, &e):
		return websocket.CloseInternalError
	}
	switch e.ReasonCode {
	case codec.NormalDisconnection, codec.DisconnectWithWill:
		return websocket.CloseNormal
	case codec.ServerShuttingDown, codec.UseAnotherServer, codec.ServerMoved:
		return websocket.CloseGoingAway
	case codec.MalformedPacket, codec.ProtocolError, codec.UnsupportedProtocolVersion:
		return websocket.CloseProtocolError
	case codec.PacketTooLarge:
		return websocket.CloseMessageTooBig
	case codec.UnspecifiedError, codec.ImplementationSpecificError:
		return websocket.CloseInternalError
	}
	return websocket.ClosePolicyViolation
}

// frameCloseReason is what a connection that ends for a frame is counted as, if it does.
func frameCloseReason(err error) (metrics.CloseReason, bool) {
	var e *websocket.Error
	switch {
	case !errors.As(err, &e):
		return 0, false
	case e.Reason == metrics.FrameTooLarge:
		return metrics.CloseQuota, true
	}
	return metrics.CloseProtocolError, true
}
