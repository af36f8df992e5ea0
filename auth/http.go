package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// HTTPOptions are how an HTTP service is asked.
type HTTPOptions struct {
	// URL is what is POSTed to. Plain http is for loopback addresses only, unless
	// AllowPlainHTTP says otherwise: passwords travel in it.
	URL            string
	AllowPlainHTTP bool
	// Header is added to each request, such as an Authorization.
	Header http.Header
	// TLS is for the calls; nil: the system's CAs and no certificate of one's own.
	TLS *tls.Config
	// Timeout bounds a call, and the wait for its turn; default 2 s.
	Timeout time.Duration
	// Parallel bounds the calls under way; default 32. More wait.
	Parallel int
	// ResponseBytes bounds an answer; default 64 KiB. A larger one is a failure.
	ResponseBytes int
	// CacheEntries bounds the answers that are kept, as long as their Cache-Control
	// max-age says, but no longer than CacheMaxAge; default 10,000 and 5 minutes;
	// negative: none is kept. What is kept of a question is a keyed hash.
	CacheEntries int
	CacheMaxAge  time.Duration
	// BreakerFailures is after how many failures in a row the service isn't asked for
	// BreakerDelay, and then with one call at a time until one succeeds; default 5 and
	// 10 s. Only what says that the service is down counts: no answer in time, 5xx, 408
	// and 429. One that isn't understood concerns its client alone.
	BreakerFailures int
	BreakerDelay    time.Duration
	// PassOnFailure leaves a client to the next Method or Rule if the service can't be
	// asked or its answer isn't understood. Default: it is refused.
	PassOnFailure bool
	// Deliveries asks a Rule's service about deliveries too: each message for each
	// subscriber whose answer isn't kept.
	Deliveries bool

	// Logger gets when a service fails and recovers; nil means slog.Default().
	Logger *slog.Logger
	// Metrics counts; nil: nothing.
	Metrics *metrics.Set
	// Now is the clock of the cache; nil means time.Now.
	Now func() time.Time
}

func (o *HTTPOptions) setDefaults() error {
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.Timeout = cmp.Or(o.Timeout, 2*time.Second)
	o.Parallel = cmp.Or(o.Parallel, 32)
	o.ResponseBytes = cmp.Or(o.ResponseBytes, 64<<10)
	o.CacheEntries = cmp.Or(o.CacheEntries, 10_000)
	o.CacheMaxAge = cmp.Or(o.CacheMaxAge, 5*time.Minute)
	o.BreakerFailures = cmp.Or(o.BreakerFailures, 5)
	o.BreakerDelay = cmp.Or(o.BreakerDelay, 10*time.Second)
	if o.Metrics == nil {
		o.Metrics = metrics.New(1)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	for _, c := range []struct {
		name string
		bad  bool
		say  any
	}{
		{"timeout", o.Timeout < 0, o.Timeout},
		{"parallel", o.Parallel < 0, o.Parallel},
		{"response bytes", o.ResponseBytes < 0, o.ResponseBytes},
		{"cache max-age", o.CacheMaxAge < 0, o.CacheMaxAge},
		{"breaker failures", o.BreakerFailures < 0, o.BreakerFailures},
		{"breaker delay", o.BreakerDelay < 0, o.BreakerDelay},
	} {
		if c.bad {
			return fmt.Errorf("http: %s is %v; allowed: more than 0", c.name, c.say)
		}
	}
	if err := checkURL(o.URL, o.AllowPlainHTTP); err != nil {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

// HTTPMethod is a Method that asks an HTTP service who a client is. It POSTs
//
//	{"client_id": "pump-7", "username": "plant", "password": "…", "remote_addr": "192.0.2.7",
//	 "protocol_version": 5, "listener": "tls", "reauthentication": false,
//	 "certificate": {"subject": "CN=pump-7", "common_name": "pump-7", "dns_names": [],
//	                 "email_addresses": [], "uris": [], "serial": "1f", "sha256": "…"}}
//
// where what a client didn't send is left out (a password that isn't UTF-8 is in
// password_base64), and takes for an answer
//
//	{"result": "allow", "username": "plant", "client_id": "pump-7",
//	 "expires_at": "2026-12-31T00:00:00Z", "acl": {"publish": ["a/%c"], "subscribe": ["b/#"]}}
//
// with the result allow, deny, or ignore: the next Method is asked. All else is
// optional: the user name and Client Identifier replace those sent, expires_at (RFC 3339,
// or seconds since 1970) is when the client is disconnected, acl is a [Grant]. Without a
// body 200 and 204 allow. 401, 403 and 404 deny, whatever the body. Anything else, and
// redirects, are failures of the service. It may be used by any number of goroutines.
type HTTPMethod struct{ caller *httpCaller[identified] }

var _ Method = (*HTTPMethod)(nil)

// NewHTTPMethod returns a Method. The service isn't asked before a client comes.
func NewHTTPMethod(o HTTPOptions) (*HTTPMethod, error) {
	c, err := newHTTPCaller[identified](o, metrics.AuthHTTP, 0)
	if err != nil {
		return nil, err
	}
	return &HTTPMethod{c}, nil
}

// Name returns "http".
func (m *HTTPMethod) Name() string { return metrics.AuthHTTP.String() }

// DropCache forgets all answers.
func (m *HTTPMethod) DropCache() { m.caller.dropCache() }

// Close closes idle connections to the service.
func (m *HTTPMethod) Close() { m.caller.close() }

// whoIs is the question of an HTTPMethod.
type whoIs struct {
	ClientID         string           `json:"client_id"`
	Username         *string          `json:"username,omitempty"`
	Password         *string          `json:"password,omitempty"`
	PasswordBase64   string           `json:"password_base64,omitempty"`
	RemoteAddr       string           `json:"remote_addr,omitempty"`
	ProtocolVersion  uint8            `json:"protocol_version"`
	Listener         string           `json:"listener,omitempty"`
	Reauthentication bool             `json:"reauthentication,omitempty"`
	Certificate      *certificateInfo `json:"certificate,omitempty"`
}

type certificateInfo struct {
	Subject        string   `json:"subject"`
	CommonName     string   `json:"common_name"`
	DNSNames       []string `json:"dns_names,omitempty"`
	EmailAddresses []string `json:"email_addresses,omitempty"`
	URIs           []string `json:"uris,omitempty"`
	Serial         string   `json:"serial"`
	SHA256         string   `json:"sha256"`
}

// identified is the answer.
type identified struct {
	Username  string          `json:"username"`
	ClientID  string          `json:"client_id"`
	ExpiresAt unixOrRFC3339   `json:"expires_at"`
	ACL       json.RawMessage `json:"acl"`
}

// validUntil is when the answer can't be kept any longer.
func (a *identified) validUntil() time.Time { return time.Time(a.ExpiresAt) }

// Authenticate asks the service.
func (m *HTTPMethod) Authenticate(ctx context.Context, r *loopmq.ConnectRequest) (Result, error) {
	if r.AuthenticationMethod != "" {
		return Result{}, nil
	}
	a, err := m.caller.ask(ctx, question(r))
	if err != nil {
		return Result{}, m.caller.failure(err)
	}
	switch {
	case a.decision == Reject && a.status == http.StatusForbidden:
		return Result{Decision: Reject, ReasonCode: codec.NotAuthorized}, nil
	case a.decision != Accept:
		return Result{Decision: a.decision}, nil
	}
	id := loopmq.Identity{Username: cmp.Or(a.body.Username, r.Username), ClientID: a.body.ClientID, ExpiresAt: a.body.validUntil()}
	if len(a.body.ACL) > 0 && string(a.body.ACL) != "null" {
		g, err := parseGrant(a.body.ACL, cmp.Or(id.ClientID, r.ClientID), id.Username)
		if err != nil {
			return Result{}, m.caller.failure(fmt.Errorf("acl in the answer: %w", err))
		}
		id.ACL = g
	}
	if id.Username != "" && !validName(id.Username) || id.ClientID != "" && !validName(id.ClientID) {
		return Result{}, m.caller.failure(fmt.Errorf("username or client_id in the answer is not one of MQTT's"))
	}
	return Result{Decision: Accept, Identity: id}, nil
}

func question(r *loopmq.ConnectRequest) *whoIs {
	q := &whoIs{
		ClientID:         r.ClientID,
		RemoteAddr:       hostOf(r.RemoteAddr),
		ProtocolVersion:  uint8(r.ProtocolVersion),
		Listener:         r.Listener,
		Reauthentication: r.Reauthentication,
		Certificate:      certificateOf(verifiedCertificate(r)),
	}
	if r.HasUsername {
		q.Username = &r.Username
	}
	switch {
	case r.Password == nil:
	case utf8.Valid(r.Password):
		password := string(r.Password)
		q.Password = &password
	default:
		q.PasswordBase64 = base64.StdEncoding.EncodeToString(r.Password)
	}
	return q
}

func certificateOf(c *x509.Certificate) *certificateInfo {
	if c == nil {
		return nil
	}
	sum := sha256.Sum256(c.Raw)
	info := &certificateInfo{
		Subject: c.Subject.String(), CommonName: c.Subject.CommonName, DNSNames: c.DNSNames, EmailAddresses: c.EmailAddresses,
		Serial: c.SerialNumber.Text(16), SHA256: hex.EncodeToString(sum[:]),
	}
	for _, u := range c.URIs {
		info.URIs = append(info.URIs, u.String())
	}
	return info
}

// hostOf is an address without its port, which is another one for each connection.
func hostOf(a net.Addr) string {
	if a == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String() // of a unix socket
	}
	return host
}

// HTTPRule is a Rule that asks an HTTP service what a client may do. It POSTs
//
//	{"client_id": "pump-7", "username": "plant", "remote_addr": "192.0.2.7", "listener": "tls",
//	 "action": "publish", "topic": "a/b", "qos": 1, "retain": false}
//
// with the action publish, subscribe (topic is the Topic Filter, without $share/…) or
// deliver, and takes {"result": "allow"}, deny or ignore for an answer, or the status
// alone, as HTTPMethod does. It may be used by any number of goroutines.
type HTTPRule struct{ caller *httpCaller[permitted] }

var (
	_ FastRule     = (*HTTPRule)(nil)
	_ DeliveryRule = (*HTTPRule)(nil)
)

// NewHTTPRule returns a Rule. The service isn't asked before a client asks for
// something.
func NewHTTPRule(o HTTPOptions) (*HTTPRule, error) {
	c, err := newHTTPCaller[permitted](o, metrics.AuthHTTPACL, 1)
	if err != nil {
		return nil, err
	}
	return &HTTPRule{c}, nil
}

// Name returns "http_acl".
func (r *HTTPRule) Name() string { return metrics.AuthHTTPACL.String() }

// JudgesDeliveries reports whether Options.Deliveries is set.
func (r *HTTPRule) JudgesDeliveries() bool { return r.caller.o.Deliveries }

// DropCache forgets all answers.
func (r *HTTPRule) DropCache() { r.caller.dropCache() }

// Close closes idle connections to the service.
func (r *HTTPRule) Close() { r.caller.close() }

// mayIt is the question of an HTTPRule.
type mayIt struct {
	ClientID   string `json:"client_id"`
	Username   string `json:"username,omitempty"`
	RemoteAddr string `json:"remote_addr,omitempty"`
	Listener   string `json:"listener,omitempty"`
	Action     string `json:"action"`
	Topic      string `json:"topic"`
	QoS        byte   `json:"qos"`
	Retain     bool   `json:"retain"`
}

// permitted is the answer: there is nothing in it but the result.
type permitted struct{}

func (permitted) validUntil() time.Time { return time.Time{} }

// Judge asks the service.
func (r *HTTPRule) Judge(ctx context.Context, c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) (Decision, error) {
	answer, err := r.caller.ask(ctx, r.question(c, a, topic, qos, retain))
	if err != nil {
		return Next, r.caller.failure(err)
	}
	return answer.decision, nil
}

// JudgeFast knows what the service answered before.
func (r *HTTPRule) JudgeFast(c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) (Decision, bool) {
	answer, ok := r.caller.known(r.question(c, a, topic, qos, retain))
	return answer.decision, ok
}

var actions = map[loopmq.Action]string{
	loopmq.ActionPublish: "publish", loopmq.ActionSubscribe: "subscribe", loopmq.ActionDeliver: "deliver",
}

func (r *HTTPRule) question(c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) *mayIt {
	return &mayIt{
		ClientID: c.ClientID, Username: c.Username, RemoteAddr: hostOf(c.RemoteAddr()), Listener: c.Listener,
		Action: actions[a], Topic: topic, QoS: qos, Retain: retain,
	}
}

// unixOrRFC3339 is a time in an answer.
type unixOrRFC3339 time.Time

// UnmarshalJSON reads seconds since 1970, or RFC 3339.
func (t *unixOrRFC3339) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		if n <= 0 || n > 253402300799 { // up to the year 9999
			return fmt.Errorf("expires_at is %d; allowed: seconds since 1970", n)
		}
		*t = unixOrRFC3339(time.Unix(n, 0))
		return nil
	}
	var at time.Time
	if err := json.Unmarshal(text, &at); err != nil {
		return fmt.Errorf("expires_at: %w", err)
	}
	*t = unixOrRFC3339(at)
	return nil
}
