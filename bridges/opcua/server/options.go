package opcuaserver

import (
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// Listener is the name of the listener that ConnectRequest and ClientInfo have.
const Listener = "opcua"

// Command is the argument with which a program that starts a [Server] calls [Serve].
const Command = "opcua-server"

// Options configure a [Server]. The zero value of a field means its default.
type Options struct {
	// Broker is whose topics are shown. Required.
	Broker *loopmq.Broker
	// Settings are what users may do, as those of an MQTT listener; nil: those of the Broker's Options.
	Settings *loopmq.Settings
	// Authenticator judges users who have shown a certificate, which ConnectRequest.TLS has as verified; nil: as others.
	Authenticator loopmq.Authenticator

	// Filters are the Topic Filters that are shown. Required.
	Filters []string
	// Username is as whom the Server subscribes to them, and Authorizer what decides whether it may; nil: it may.
	Username   string
	Authorizer loopmq.Authorizer
	// WriteQoS and WriteRetain are those of messages that clients write. WriteQoS by default 0.
	WriteQoS    byte
	WriteRetain bool

	// None and Basic256Sha256 are the security policies that are offered; AllowSign: the second also without encryption.
	// Required: one of them.
	None, Basic256Sha256, AllowSign bool
	// Certificate is the server's, with Key; required for Basic256Sha256, for users with certificates, and for encrypted
	// passwords.
	Certificate *x509.Certificate
	Key         *rsa.PrivateKey
	// Trusted are the certificates of client applications, or of CAs, TrustedUsers those of users.
	Trusted, TrustedUsers []*x509.Certificate
	// Anonymous allows sessions without a user, as far as Settings do. PlainPassword allows passwords that everybody on the
	// way can read, where there is no encryption.
	Anonymous, PlainPassword bool
	// ApplicationURI names the server; by default that of the certificate, or urn:HOST:loopmq.
	ApplicationURI string
	// ApplicationName is what clients show people; default "loopmq".
	ApplicationName string
	// Version is that of the program.
	Version string

	// Topics, ValueBytes and ValuesBytes bound the variables: how many, one value, all. Default 10,000, 64 KiB, 64 MiB.
	Topics, ValueBytes, ValuesBytes int
	// Connections, Sessions and Items bound those of all clients, Subscriptions those of a session, Queue the values that
	// wait in an item. Default 100, 100, 50,000, 20, 100.
	Connections, Sessions, Items, Subscriptions, Queue int
	// MessageBytes bounds a request. Default 1 MiB.
	MessageBytes int
	// SessionTimeout is the longest that a session may be silent; default 10 min. PublishingInterval is the shortest; default
	// 100 ms.
	SessionTimeout, PublishingInterval time.Duration
	// MemoryBytes bounds the process. Default 256 MiB, but four times ValuesBytes at least.
	MemoryBytes int64

	// Command is what starts the process that calls [Serve]; default: this program with the argument Command.
	Command []string
	// Metrics is where it is counted; default: the Broker's.
	Metrics *metrics.Set
	// Logger gets what goes wrong; nil means slog.Default().
	Logger *slog.Logger
}

// Check fills in the defaults, and says what is wrong. It doesn't look at Broker, Metrics and Logger.
func (o *Options) Check() error {
	o.ApplicationName = cmp.Or(o.ApplicationName, "loopmq")
	o.Topics, o.ValueBytes, o.ValuesBytes = cmp.Or(o.Topics, 10_000), cmp.Or(o.ValueBytes, 64<<10), cmp.Or(o.ValuesBytes, 64<<20)
	o.Connections, o.Sessions, o.Items = cmp.Or(o.Connections, 100), cmp.Or(o.Sessions, 100), cmp.Or(o.Items, 50_000)
	o.Subscriptions, o.Queue, o.MessageBytes = cmp.Or(o.Subscriptions, 20), cmp.Or(o.Queue, 100), cmp.Or(o.MessageBytes, 1<<20)
	o.SessionTimeout, o.PublishingInterval = cmp.Or(o.SessionTimeout, 10*time.Minute), cmp.Or(o.PublishingInterval, 100*time.Millisecond)
	o.MemoryBytes = cmp.Or(o.MemoryBytes, 256<<20)
	if least := 4 * int64(o.ValuesBytes); o.MemoryBytes < least {
		o.MemoryBytes = least
	}
	switch {
	case len(o.Filters) == 0:
		return errors.New("opcuaserver: Filters: there is none")
	case !o.None && !o.Basic256Sha256:
		return errors.New("opcuaserver: no security policy is offered")
	case o.Basic256Sha256 && o.Certificate == nil:
		return errors.New("opcuaserver: Basic256Sha256 needs a certificate")
	case o.Basic256Sha256 && len(o.Trusted) == 0:
		return errors.New("opcuaserver: Basic256Sha256 needs Trusted, the certificates of clients")
	case len(o.TrustedUsers) > 0 && o.Certificate == nil:
		return errors.New("opcuaserver: TrustedUsers needs a certificate of the server")
	case o.WriteQoS > 2:
		return errors.New("opcuaserver: WriteQoS: allowed: 0, 1, 2")
	}
	for _, f := range o.Filters {
		if _, _, shared := codec.SplitShare([]byte(f)); shared || !codec.ValidTopicFilter([]byte(f)) {
			return fmt.Errorf("opcuaserver: Filters: %q is no Topic Filter, or a shared subscription", f)
		}
	}
	if o.Certificate == nil {
		if o.ApplicationURI == "" {
			host, err := os.Hostname()
			if err != nil {
				host = "localhost"
			}
			o.ApplicationURI = "urn:" + host + ":loopmq"
		}
		return nil
	}
	public, ok := o.Certificate.PublicKey.(*rsa.PublicKey)
	switch {
	case !ok || o.Key == nil || !public.Equal(&o.Key.PublicKey):
		return errors.New("opcuaserver: Key isn't that of Certificate, or isn't RSA")
	case public.N.BitLen() < keyLeast || public.N.BitLen() > keyMost:
		return fmt.Errorf("opcuaserver: the certificate's key has %d bits: allowed: %d to %d", public.N.BitLen(), keyLeast, keyMost)
	case o.ApplicationURI == "" && len(o.Certificate.URIs) == 0:
		return errors.New("opcuaserver: the certificate has no application URI as a subjectAltName")
	case o.ApplicationURI == "":
		o.ApplicationURI = o.Certificate.URIs[0].String()
	case !hasURI(o.Certificate, o.ApplicationURI):
		return fmt.Errorf("opcuaserver: the certificate isn't for the application URI %s", o.ApplicationURI)
	}
	return nil
}

// setup is what the child is told.
func (o *Options) setup(debug bool) (*Setup, error) {
	s := &Setup{
		ApplicationURI: o.ApplicationURI, ApplicationName: o.ApplicationName, Version: o.Version, None: o.None, Basic256Sha256: o.Basic256Sha256,
		AllowSign: o.AllowSign, Anonymous: o.Anonymous, PlainPassword: o.PlainPassword, Connections: o.Connections, Sessions: o.Sessions,
		Subscriptions: o.Subscriptions, Items: o.Items, Queue: o.Queue, MessageBytes: o.MessageBytes, SessionTimeout: o.SessionTimeout,
		PublishingInterval: o.PublishingInterval, MemoryBytes: o.MemoryBytes, Debug: debug,
	}
	for _, f := range o.Filters {
		if !strings.ContainsAny(f, "+#") {
			s.Known = append(s.Known, f)
		}
	}
	for _, c := range o.Trusted {
		s.TrustedApplications = append(s.TrustedApplications, c.Raw)
	}
	for _, c := range o.TrustedUsers {
		s.TrustedUsers = append(s.TrustedUsers, c.Raw)
	}
	if o.Certificate == nil {
		return s, nil
	}
	var err error
	s.Certificate = o.Certificate.Raw
	s.Key, err = x509.MarshalPKCS8PrivateKey(o.Key)
	return s, err
}
