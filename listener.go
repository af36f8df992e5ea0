package loopmq

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"loopmq/eventloop"
)

// Listener says where and how the Broker accepts connections.
type Listener struct {
	// Name names the listener in logs, ConnectRequest and ClientInfo; "" means its
	// Address. It need not be unique.
	Name string

	// Network is "tcp", "tcp4", "tcp6" or "unix"; "" means "tcp".
	Network string

	// Address is host:port. Port 0 takes a free one, an empty host all addresses
	// of the machine. For "unix" it is a path, or @ and a name that is no file
	// (Linux). A socket at the path that nobody listens on is replaced.
	Address string

	// Mode is the rights of the file of a unix socket, whatever the umask is; 0
	// leaves them to the umask.
	Mode fs.FileMode

	// ProxyProtocol is the networks of the balancers in front, whose connections
	// begin with a PROXY header, version 1 or 2. The address that it names is the
	// client's from then on. With any, connections from elsewhere are refused, and
	// so are those without the header. On a unix socket it is expected from all.
	ProxyProtocol []netip.Prefix

	// TLS has clients connect by TLS; nil means that they don't. Its certificates,
	// client CAs and versions hold at each handshake, so its GetConfigForClient can
	// change them. Package tlsfiles makes one from files.
	TLS *tls.Config

	// WebSocket makes it a listener for MQTT over WebSocket; nil: plain MQTT.
	WebSocket *WebSocket

	// Limits are those of the listener, within Options.Limits. SetListenerLimits changes
	// them.
	Limits Quota

	// Settings are what its clients may do; nil: Options.Settings. They must not be
	// changed afterwards.
	Settings *Settings
}

// listener is a Listener with what its connections need.
type listener struct {
	Listener
	settings *settings
	quota    *listenerQuota
}

// Listen accepts MQTT connections as l says, and returns the address bound,
// which differs from l.Address if the port was 0. It may be called several times,
// on any goroutine, between Start and Shutdown. The error is one sentence;
// errors.Is finds syscall.EADDRINUSE in it.
func (b *Broker) Listen(l Listener) (net.Addr, error) {
	if err := l.Limits.check("Listener.Limits"); err != nil {
		return nil, err
	}
	l.Name = cmp.Or(l.Name, l.Address)
	ln := &listener{Listener: l, settings: b.settings, quota: newListenerQuota(l.Limits)}
	if l.Settings != nil {
		var err error
		if ln.settings, err = b.opts.resolve(l.Settings); err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
	}
	ws, err := l.WebSocket.layer(&ln.settings.limits)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.Address, err)
	}
	return b.engine.Listen(eventloop.Listener{
		Network: l.Network, Address: l.Address, Mode: l.Mode, ProxyProtocol: l.ProxyProtocol, TLS: l.TLS, WebSocket: ws,
		Admission: l.Limits.admission(), Context: ln,
	})
}
