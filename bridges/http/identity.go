package httpbridge

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// identities are callers that were authenticated lately, by what they showed.
type identities struct {
	known   *lru.Cache[identityKey, *known]
	asking  singleflight.Group
	ttl     time.Duration
	hashers sync.Pool
}

// identityKey is a keyed hash of all that an Authenticator looks at, so that nobody
// can find out a password by trying what hashes to one.
type identityKey [sha256.Size]byte

type known struct {
	caller *loopmq.Caller
	until  time.Time
	closed atomic.Bool // Caller.Close was called
}

// holds reports whether the caller needn't be authenticated again.
func (k *known) holds() bool {
	return !k.closed.Load() && time.Now().Before(k.until) && k.caller.Err() == nil
}

// lastCaller is who sent the last request of a connection. Most often it is the same
// again, and comparing is cheaper than hashing.
type lastCaller struct{ atomic.Pointer[shown] }

// shown is what a request showed of its sender.
type shown struct {
	authorization, apiKey, clientID, forwarded string
	known                                      *known
}

func newIdentities(o *Options) *identities {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // It can't fail.
	// An error would be a size below 1.
	cache, _ := lru.NewWithEvict(max(1, o.Identities), func(_ identityKey, k *known) {
		k.closed.Store(true)
		k.caller.Close()
		o.Metrics.HTTPIdentities.Dec()
	})
	return &identities{known: cache, ttl: o.IdentityTTL, hashers: sync.Pool{New: func() any { return hmac.New(sha256.New, secret[:]) }}}
}

func (i *identities) drop() { i.known.Purge() }

// headerClientID is the request header with the Client Identifier, which a caller may
// choose as in CONNECT.
const headerClientID = "Mqtt-Client-Id"

// authenticate returns who sends a request.
func (b *Bridge) authenticate(c *call) (*loopmq.Caller, error) {
	r := c.r
	show := shown{authorization: first(r, "Authorization"), apiKey: first(r, headerAPIKey), clientID: first(r, headerClientID)}
	if len(b.opts.Forwarders) > 0 {
		show.forwarded = strings.Join(r.Header["X-Forwarded-For"], ",")
	}
	state := stateOf(r)
	if state != nil {
		if l := state.last.Load(); l != nil && l.authorization == show.authorization && l.apiKey == show.apiKey && l.clientID == show.clientID && l.forwarded == show.forwarded && l.known.holds() {
			return l.known.caller, nil
		}
	}
	k, err := b.identify(c, &show)
	if err != nil {
		return nil, err
	}
	if state != nil {
		show.known = k
		state.last.Store(&show)
	}
	return k.caller, nil
}

// first is Header.Get for a name in its canonical form.
func first(r *http.Request, name string) string {
	if v := r.Header[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// identify is authenticate for who isn't known by the connection.
func (b *Bridge) identify(c *call, show *shown) (*known, error) {
	r, clientID := c.r, show.clientID
	from, err := b.clientAddr(r)
	if err != nil {
		return nil, err
	}
	i := b.identities
	h := i.hashers.Get().(hash.Hash)
	h.Reset()
	key := identityOf(h, r, from.Addr(), show)
	i.hashers.Put(h)
	if k, ok := i.known.Get(key); ok {
		if k.holds() {
			return k, nil
		}
		i.known.Remove(key)
	}
	request, err := connectRequest(r)
	if err != nil {
		return nil, err
	}
	request.ClientID, request.Listener, request.TLS = clientID, b.opts.Listener, r.TLS
	request.RemoteAddr = net.TCPAddrFromAddrPort(from)
	if clientID == "" {
		request.ClientID = "http-" + hex.EncodeToString(key[:8])
	}
	// One of many requests with the same credentials asks for all of them.
	v, err, _ := i.asking.Do(string(key[:]), func() (any, error) {
		caller, err := b.broker.Authenticate(context.WithoutCancel(r.Context()), request, b.opts.Settings)
		if err != nil {
			return nil, err
		}
		k := &known{caller: caller, until: time.Now().Add(i.ttl)}
		i.known.Add(key, k)
		b.metrics.HTTPIdentities.Inc()
		return k, nil
	})
	if err != nil {
		return nil, unauthenticated(err)
	}
	return v.(*known), nil
}

// identityOf hashes what a request shows of its sender. Each part has its length
// before it.
func identityOf(h hash.Hash, r *http.Request, from netip.Addr, show *shown) (key identityKey) {
	var buf [256]byte
	b := buf[:0]
	part := func(s string) {
		b = append(b, byte(len(s)>>24), byte(len(s)>>16), byte(len(s)>>8), byte(len(s)))
		b = append(b, s...)
	}
	part(show.authorization)
	part(show.apiKey)
	part(show.clientID)
	address := from.As16()
	b = append(append(b, address[:]...), from.Zone()...)
	if r.TLS != nil {
		for _, certificate := range r.TLS.PeerCertificates {
			sum := sha256.Sum256(certificate.Raw)
			b = append(b, sum[:]...)
		}
	}
	h.Write(b)
	h.Sum(key[:0])
	return key
}

// headerAPIKey is the request header with an API key.
const headerAPIKey = "X-Api-Key"

// connectRequest returns a CONNECT with the credentials of a request: those of HTTP
// Basic, or of an API key, are User Name and Password; a bearer token is the
// Authentication Data of the Authentication Method JWT.
func connectRequest(r *http.Request) (*loopmq.ConnectRequest, error) {
	c := &loopmq.ConnectRequest{ProtocolVersion: codec.V5}
	if key := r.Header.Get(headerAPIKey); key != "" {
		if r.Header.Get("Authorization") != "" {
			return nil, badRequest("there are both Authorization and X-API-Key: allowed: one of them")
		}
		dot := strings.LastIndexByte(key, '.') // a name may have dots, a secret none
		if dot < 0 {
			return nil, errCredentials("X-API-Key is not ID.SECRET")
		}
		c.Username, c.HasUsername, c.Password = key[:dot], true, []byte(key[dot+1:])
		return c, nil
	}
	header := r.Header["Authorization"]
	if len(header) == 0 {
		return c, nil
	}
	scheme, value, _ := strings.Cut(header[0], " ")
	value = strings.TrimSpace(value)
	switch {
	case len(header) > 1:
		return nil, badRequest("there is more than one Authorization: allowed: one")
	case strings.EqualFold(scheme, "Basic"):
		text, err := base64.StdEncoding.DecodeString(value)
		username, password, ok := strings.Cut(string(text), ":")
		if err != nil || !ok {
			return nil, badRequest("Authorization: Basic is not the base64 of user name, colon, password")
		}
		c.Username, c.HasUsername, c.Password = username, true, []byte(password)
	case strings.EqualFold(scheme, "Bearer"):
		c.AuthenticationMethod, c.AuthenticationData = "JWT", []byte(value)
	default:
		return nil, errCredentials("Authorization is of another scheme: allowed: Basic, Bearer")
	}
	return c, nil
}

// errCredentials is the answer to credentials that no Authenticator is asked about. What
// they are isn't in it: it may be a secret.
func errCredentials(detail string) error {
	return &fault{status: http.StatusUnauthorized, reason: metrics.HTTPCredentials, detail: "not authenticated: " + detail, code: codec.BadAuthenticationMethod}
}

// unauthenticated is the answer to who can't be authenticated.
func unauthenticated(err error) error {
	var e *codec.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.ReasonCode {
	case codec.BadUserNameOrPassword, codec.NotAuthorized, codec.BadAuthenticationMethod:
		return &fault{status: http.StatusUnauthorized, reason: metrics.HTTPCredentials, detail: "not authenticated: " + detailOf(err), code: e.ReasonCode}
	}
	return err
}
