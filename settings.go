package loopmq

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"loopmq/codec"
)

// Settings are what the clients of a listener may do. The zero value is what a Broker
// allows without them. They hold for a connection; what a session has from an earlier
// one by another listener, its subscriptions above all, stays.
type Settings struct {
	// Authenticator and Authorizer; nil: those of Options.
	Authenticator Authenticator
	Authorizer    Authorizer
	// Anonymous says what becomes of clients without a User Name.
	Anonymous Anonymous

	// Limits that differ from Options.Limits, zero: it doesn't. Only those of one client
	// count here: PacketSize, ReceiveMaximum, TopicAliasMaximum, Inflight,
	// QueueMessages, QueueBytes, QueuePolicy (if one of these two is set), KeepAlive,
	// SessionExpiryInterval, Subscriptions.
	Limits Limits
	// PayloadSize is the largest payload of a PUBLISH, in bytes: a larger one is dropped
	// and answered with Quota exceeded (0x97; 3.x: as if it weren't). A CONNECT with a
	// larger Will is refused (0x95). 0: only Limits.PacketSize bounds it.
	PayloadSize int
	// InflightBytes bounds the payloads of unacknowledged messages sent to one client,
	// in bytes: a next one waits until it is fallen short of. 0: no limit.
	InflightBytes int

	// MaximumQoS that clients may publish with and that subscriptions are granted; 0: 2,
	// negative: QoS 0 only. Who publishes above it is disconnected (0x9B)
	// [MQTT-3.2.2-11].
	MaximumQoS int
	// RetainUnavailable: clients may not publish with RETAIN 1 (0x9A) [MQTT-3.2.2-14], and
	// get no retained messages.
	RetainUnavailable bool
	// QueueQoS0 keeps QoS 0 messages for durable sessions that are offline, in the
	// store and within the limits of their queues. Each costs a commit then. After the
	// broker was started again that of Options.Settings counts until a session's client
	// comes back.
	QueueQoS0 bool

	// RefuseEmptyClientID: a client must have a Client Identifier of its own (0x85).
	RefuseEmptyClientID bool
	// AutoIDPrefix is what a ClientID begins with that the broker assigns; empty: "auto-".
	AutoIDPrefix string
	// UsernameAsClientID makes Identity.Username the ClientID, whatever the client sent
	// as such. A client without one is refused (0x86).
	UsernameAsClientID bool

	// MountPoint is put before all Topic Names and Topic Filters of the clients, and
	// taken off what they are sent: "tenant-a/". It ends in a slash. They see nothing
	// outside of it but $SYS. The Authorizer and events see topics with it.
	MountPoint string
}

// Anonymous says what becomes of a CONNECT without a User Name.
type Anonymous uint8

// What may become of it.
const (
	// AnonymousByAuthenticator: it is treated as others are. Without an Authenticator
	// everybody may connect.
	AnonymousByAuthenticator Anonymous = iota
	// AnonymousAllowed: it is accepted without asking the Authenticator, unless it has
	// an Authentication Method or a certificate.
	AnonymousAllowed
	// AnonymousRefused: it is refused (0x87) if the Authenticator gives the client no
	// Identity.Username.
	AnonymousRefused
)

// settings are Settings with everything filled in. They do not change.
type settings struct {
	Settings
	limits     Limits
	fast       FastAuthorizer // Authorizer, if it is one
	maximumQoS byte
}

// resolve fills in what s leaves to the Options.
func (o *Options) resolve(s *Settings) (*settings, error) {
	r := &settings{Settings: *s, limits: o.Limits, maximumQoS: 2}
	if r.Authenticator == nil {
		r.Authenticator = o.Authenticator
	}
	if r.Authorizer == nil {
		r.Authorizer = o.Authorizer
	}
	r.fast, _ = r.Authorizer.(FastAuthorizer)
	r.AutoIDPrefix = cmp.Or(s.AutoIDPrefix, "auto-")
	switch {
	case s.MaximumQoS < 0:
		r.maximumQoS = 0
	case s.MaximumQoS > 0:
		r.maximumQoS = byte(min(2, s.MaximumQoS))
	}
	l := &r.limits
	l.PacketSize = cmp.Or(s.Limits.PacketSize, l.PacketSize)
	l.ReceiveMaximum = cmp.Or(s.Limits.ReceiveMaximum, l.ReceiveMaximum)
	l.TopicAliasMaximum = cmp.Or(s.Limits.TopicAliasMaximum, l.TopicAliasMaximum, -1) // o has 0 for none
	l.Inflight = cmp.Or(s.Limits.Inflight, l.Inflight)
	if s.Limits.QueueMessages != 0 || s.Limits.QueueBytes != 0 {
		l.QueuePolicy = s.Limits.QueuePolicy
	}
	l.QueueMessages = cmp.Or(s.Limits.QueueMessages, l.QueueMessages)
	l.QueueBytes = cmp.Or(s.Limits.QueueBytes, l.QueueBytes)
	l.KeepAlive = cmp.Or(s.Limits.KeepAlive, l.KeepAlive)
	l.SessionExpiryInterval = cmp.Or(s.Limits.SessionExpiryInterval, l.SessionExpiryInterval)
	l.Subscriptions = cmp.Or(s.Limits.Subscriptions, l.Subscriptions)
	return r, errors.Join(l.setDefaults(1), s.check())
}

// check returns what is wrong with s.
func (s *Settings) check() error {
	var errs []error
	wrong := func(field string, value any, allowed string) {
		errs = append(errs, fmt.Errorf("loopmq: Settings.%s is %v; allowed: %s", field, value, allowed))
	}
	if s.MaximumQoS > 2 {
		wrong("MaximumQoS", s.MaximumQoS, "0 (means 2), 1, 2, negative (means 0)")
	}
	if s.PayloadSize < 0 {
		wrong("PayloadSize", s.PayloadSize, "0 (no limit) or more")
	}
	if s.InflightBytes < 0 {
		wrong("InflightBytes", s.InflightBytes, "0 (no limit) or more")
	}
	if s.Anonymous > AnonymousRefused {
		wrong("Anonymous", s.Anonymous, "AnonymousByAuthenticator, AnonymousAllowed, AnonymousRefused")
	}
	if !validStringField(s.AutoIDPrefix) || len(s.AutoIDPrefix) > prefixMax {
		wrong("AutoIDPrefix", fmt.Sprintf("%q", s.AutoIDPrefix), fmt.Sprintf("UTF-8 without U+0000, at most %d bytes", prefixMax))
	}
	if m := s.MountPoint; m != "" && (!codec.ValidTopicName([]byte(m)) || !strings.HasSuffix(m, "/") || m[0] == '$' || len(m) > prefixMax) {
		wrong("MountPoint", fmt.Sprintf("%q", m), fmt.Sprintf("a Topic Name that ends in / and doesn't begin with $, at most %d bytes", prefixMax))
	}
	return errors.Join(errs...)
}

// validStringField reports whether a packet can have s as a string.
func validStringField(s string) bool {
	return len(s) <= topicMax && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// prefixMax bounds what goes before ClientIDs and topics.
const prefixMax = 1024

// refusal returns why a CONNECT is refused by the settings, nil if it isn't.
func (s *settings) refusal(k *connecting) *codec.Error {
	limit := s.limits.KeepAlive
	switch {
	case k.assigned && s.RefuseEmptyClientID && !s.UsernameAsClientID:
		return errClientIDNotValid
	case k.request.ProtocolVersion != codec.V5 && limit > 0 && (k.keepAlive == 0 || k.keepAlive > limit):
		return errKeepAliveTooLong
	case k.will == nil:
		return nil
	case k.will.Message.QoS > s.maximumQoS:
		return errQoSNotSupported // [MQTT-3.2.2-12]
	case k.will.Message.Retain && s.RetainUnavailable:
		return errRetainNotSupported // [MQTT-3.2.2-13]
	case s.PayloadSize > 0 && len(k.will.Message.Payload) > s.PayloadSize:
		return errWillTooLarge
	case len(s.MountPoint)+len(k.will.Message.TopicName) > topicMax:
		return errMountedTopicTooLong
	}
	return nil
}

// anonymous reports whether a CONNECT is accepted as that of nobody known.
func (s *settings) anonymous(r *ConnectRequest) bool {
	return s.Anonymous == AnonymousAllowed && !r.HasUsername && r.AuthenticationMethod == "" &&
		(r.TLS == nil || len(r.TLS.PeerCertificates) == 0)
}

// topicMax is the length of a Topic Name, a Topic Filter, or a ClientID (section 1.5).
const topicMax = 65_535

// sysPrefix begins the topics about the broker, which a MountPoint leaves alone.
const sysPrefix = "$SYS/"

// mount puts the MountPoint before a Topic Name. What it returns is valid until the
// next call on this loop.
func (l *loop) mount(s *settings, topic []byte) ([]byte, error) {
	if s.MountPoint == "" {
		return topic, nil
	}
	if len(s.MountPoint)+len(topic) > topicMax {
		return nil, errMountedTopicTooLong
	}
	l.mounted = append(append(l.mounted[:0], s.MountPoint...), topic...)
	return l.mounted, nil
}

// mountFilter puts the MountPoint before a Topic Filter. ok is false if that makes it
// too long.
func (s *settings) mountFilter(topicFilter string) (mounted string, ok bool) {
	if s.MountPoint == "" || strings.HasPrefix(topicFilter, sysPrefix) {
		return topicFilter, true
	}
	if len(s.MountPoint)+len(topicFilter) > topicMax {
		return "", false
	}
	name, filter, shared := codec.SplitShare([]byte(topicFilter))
	if shared {
		return sharedFilter(string(name), s.MountPoint+string(filter)), true
	}
	return s.MountPoint + topicFilter, true
}

// unmountFilter takes the MountPoint off a Topic Filter that mountFilter returned.
func (s *settings) unmountFilter(topicFilter string) string {
	if name, filter, shared := codec.SplitShare([]byte(topicFilter)); shared {
		return sharedFilter(string(name), strings.TrimPrefix(string(filter), s.MountPoint))
	}
	return strings.TrimPrefix(topicFilter, s.MountPoint)
}

// unmount takes the MountPoint off a Topic Name. ok is false if it isn't the client's
// to see.
func (s *settings) unmount(topic []byte) (_ []byte, ok bool) {
	switch m := s.MountPoint; {
	case m == "" || len(topic) >= len(sysPrefix) && string(topic[:len(sysPrefix)]) == sysPrefix:
		return topic, true
	case len(topic) > len(m) && string(topic[:len(m)]) == m:
		return topic[len(m):], true
	default:
		return nil, false
	}
}
