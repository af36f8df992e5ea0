package loopmq

import (
	"crypto/tls"
	"fmt"
	"net"

	"loopmq/eventloop"
)

// Listener says where and how the Broker accepts connections.
type Listener struct {
	// Name names the listener in logs and settings; "" means the address that it
	// got. It need not be unique.
	Name string

	// Network is "tcp", "tcp4" or "tcp6"; "" means "tcp".
	Network string

	// Address is host:port. Port 0 takes a free one, an empty host all addresses
	// of the machine.
	Address string

	// TLS has clients connect by TLS; nil means that they don't. Its certificates,
	// client CAs and versions hold at each handshake, so its GetConfigForClient can
	// change them. Package tlsfiles makes one from files.
	TLS *tls.Config

	// WebSocket makes it a listener for MQTT over WebSocket; nil: plain MQTT.
	WebSocket *WebSocket

	// Limits are those of the listener, within Options.Limits. SetListenerLimits changes
	// them.
	Limits Quota

	quota *listenerQuota
}

func (l *Listener) bounds() *listenerQuota { return l.quota }
func (l *Listener) name() string           { return l.Name }

// Listen accepts MQTT connections as l says, and returns the address bound,
// which differs from l.Address if the port was 0. It may be called several times,
// on any goroutine, between Start and Shutdown. The error is one sentence;
// errors.Is finds syscall.EADDRINUSE in it.
func (b *Broker) Listen(l Listener) (net.Addr, error) {
	if err := l.Limits.check("Listener.Limits"); err != nil {
		return nil, err
	}
	ws, err := l.WebSocket.layer(&b.opts.Limits)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.Address, err)
	}
	l.quota = newListenerQuota(l.Limits)
	return b.engine.Listen(eventloop.Listener{
		Network: l.Network, Address: l.Address, TLS: l.TLS, WebSocket: ws, Admission: l.Limits.admission(), Context: &l,
	})
}
