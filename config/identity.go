package config

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Method is one way of knowing clients. One of its pointers is not nil.
type Method struct {
	Timeout      time.Duration
	PasswordFile *PasswordFile
	SCRAM        *SCRAM
	JWT          *JWT
	HTTP         *HTTP
	Certificate  *Certificate
}

func (m *Method) keys() []*node {
	return []*node{
		optional("password_file", &m.PasswordFile, (*PasswordFile).keys, "user names and passwords of a file that loopmq passwd or mosquitto_passwd writes"),
		optional("scram", &m.SCRAM, (*SCRAM).keys, "SCRAM-SHA-256 by enhanced authentication of MQTT 5.0, for users of a password file whose hash is scram-sha-256"),
		optional("jwt", &m.JWT, (*JWT).keys, "JSON Web Tokens in place of passwords"),
		optional("http", &m.HTTP, (*HTTP).keys, "an HTTP service that is asked about each client"),
		optional("certificate", &m.Certificate, (*Certificate).keys, "the client's certificate, which the listener's tls.client_ca has verified, says who it is"),
		key("timeout", &m.Timeout, 5*time.Second, span(10*time.Millisecond, 10*time.Second), "bound of one call; the client is refused then"),
	}
}

// choices are the sections of which an element has one.
func (m *Method) choices() []string {
	return []string{"password_file", "scram", "jwt", "http", "certificate"}
}

func (m *Method) chosen() int {
	return count(m.PasswordFile != nil, m.SCRAM != nil, m.JWT != nil, m.HTTP != nil, m.Certificate != nil)
}

// PasswordFile is a file of users.
type PasswordFile struct {
	File      string
	Parallel  int // 0: half of the processors
	CacheSize int // -1: none
	CacheTTL  time.Duration
}

func (p *PasswordFile) keys() []*node {
	return []*node{
		key("file", &p.File, "", file, "the file; SIGHUP reads it again"),
		key("parallel", &p.Parallel, 0, whole(1, 1024, automatic), "passwords that are checked at one time; auto: as many as half of the processors"),
		key("cache_size", &p.CacheSize, 10_000, whole(1, 100_000_000, none), "right passwords that are known again without checking them"),
		key("cache_ttl", &p.CacheTTL, 5*time.Minute, span(time.Second, day), "for how long"),
	}
}

// SCRAM is a file of users.
type SCRAM struct {
	File string
}

func (s *SCRAM) keys() []*node {
	return []*node{key("file", &s.File, "", file, "the password file; SIGHUP reads it again")}
}

// JWT says which tokens are valid, and what their claims mean.
type JWT struct {
	KeyFiles        []string
	SecretFiles     []string
	JWKSURL         string
	RefreshInterval time.Duration
	Timeout         time.Duration
	TLS             *ClientTLS
	AllowPlainHTTP  bool
	Algorithms      []string
	TokenInUsername bool
	Issuer          string
	Audience        []string
	UsernameClaim   string
	ClientIDClaim   string
	ACLClaim        string
	AllowNoExpiry   bool
	Leeway          time.Duration
}

func (j *JWT) keys() []*node {
	return []*node{
		keyList("key_files", &j.KeyFiles, file, "public keys or certificates as PEM, or a JWK Set as JSON; SIGHUP reads them again"),
		keyList("secret_files", &j.SecretFiles, file, "a shared secret of at least 32 bytes each, for HS256, HS384 and HS512; SIGHUP reads them again"),
		key("jwks_url", &j.JWKSURL, "", maybeURL, "where a JWK Set is fetched"),
		key("refresh_interval", &j.RefreshInterval, 5*time.Minute, span(100*time.Millisecond, 30*day), "how often"),
		key("fetch_timeout", &j.Timeout, 5*time.Second, span(10*time.Millisecond, time.Minute), "bound of a fetch"),
		optional("tls", &j.TLS, (*ClientTLS).keys, "how the URL is asked by https"),
		key("allow_plain_http", &j.AllowPlainHTTP, false, boolean, "a URL with http that isn't on loopback: whoever is on the way can let in anybody"),
		keyList("algorithms", &j.Algorithms, text, "a subset of those that fit the keys, such as RS256; none given: all that fit"),
		key("token_in_username", &j.TokenInUsername, false, boolean, "take the token from the user name, not the password"),
		key("issuer", &j.Issuer, "", text, "what the claim iss has to be; empty: anything. A token with another one is left to the next method"),
		keyList("audience", &j.Audience, text, "values of which the claim aud has to have one; none given: anything"),
		key("username_claim", &j.UsernameClaim, "sub", text, "the claim with the user name"),
		key("client_id_claim", &j.ClientIDClaim, "", text, "the claim that has to be the Client Identifier; empty: none"),
		key("acl_claim", &j.ACLClaim, "", text, "the claim that says what the client may do; it needs claims under authorization. Empty: none"),
		key("allow_no_expiry", &j.AllowNoExpiry, false, boolean, "accept tokens without the claim exp, which never end"),
		key("leeway", &j.Leeway, 0, span(0, time.Hour), "allowance for other clocks in exp and nbf"),
	}
}

// HTTP is how an HTTP service is asked, about clients or about what they may do.
type HTTP struct {
	URL             string
	AllowPlainHTTP  bool
	Headers         []string
	TLS             *ClientTLS
	Timeout         time.Duration
	Parallel        int
	ResponseBytes   int
	CacheEntries    int // -1: none
	CacheMaxAge     time.Duration
	BreakerFailures int
	BreakerDelay    time.Duration
	PassOnFailure   bool
	Deliveries      bool // of a rule
}

func (h *HTTP) keys() []*node {
	return []*node{
		key("url", &h.URL, "", webURL, "what is POSTed to"),
		key("allow_plain_http", &h.AllowPlainHTTP, false, boolean, "a URL with http that isn't on loopback: passwords travel in it"),
		keyList("headers", &h.Headers, header, "added to each request, such as \"Authorization: Bearer …\"").secrets(),
		optional("tls", &h.TLS, (*ClientTLS).keys, "how the URL is asked by https"),
		key("timeout", &h.Timeout, 2*time.Second, span(10*time.Millisecond, 10*time.Second), "bound of a call, and of the wait for its turn"),
		key("parallel", &h.Parallel, 32, whole(1, 10_000), "calls under way; more wait"),
		key("response_bytes", &h.ResponseBytes, 64<<10, size(1, 16<<20), "bound of an answer"),
		key("cache_entries", &h.CacheEntries, 10_000, whole(1, 100_000_000, none), "answers that are kept, as long as their Cache-Control max-age says"),
		key("cache_max_age", &h.CacheMaxAge, 5*time.Minute, span(time.Second, day), "but no longer than this"),
		key("breaker_failures", &h.BreakerFailures, 5, whole(1, 1_000_000), "failures in a row after which the service isn't asked for a while"),
		key("breaker_delay", &h.BreakerDelay, 10*time.Second, span(10*time.Millisecond, time.Hour), "for how long"),
		key("pass_on_failure", &h.PassOnFailure, false, boolean, "leave it to the next one if the service can't be asked; else the client is refused"),
	}
}

// rule adds what only a service that is asked about actions has.
func (h *HTTP) rule() []*node {
	return append(h.keys(), key("deliveries", &h.Deliveries, false, boolean, "ask about each message for each subscriber, too"))
}

// ClientTLS is how the broker is a client of TLS.
type ClientTLS struct {
	CA          string
	Certificate string
	Key         string
}

func (t *ClientTLS) keys() []*node {
	return []*node{
		key("ca", &t.CA, "", maybeFile, "the CAs of the server, as PEM; empty: those of the system"),
		key("certificate", &t.Certificate, "", maybeFile, "the broker's own certificate, as PEM; empty: none"),
		key("key", &t.Key, "", maybeFile, "its key"),
	}
}

// Certificate says which part of a client's certificate is the user name.
type Certificate struct {
	Username string
}

func (c *Certificate) keys() []*node {
	return []*node{
		key("username", &c.Username, "cn", oneOf("cn", "subject", "dns", "email", "uri"),
			"the user name: the subject's CN, all of the subject, or the first name of a kind among the Subject Alternative Names"),
	}
}

// Rule is one way of knowing what clients may do. One of its pointers is not nil.
type Rule struct {
	ACLFile *ACLFile
	Claims  *Claims
	HTTP    *HTTP
}

func (r *Rule) keys() []*node {
	return []*node{
		optional("acl_file", &r.ACLFile, (*ACLFile).keys, "rules of a file in mosquitto's syntax"),
		optional("claims", &r.Claims, func(*Claims) []*node { return nil }, "what a client's token, or the HTTP service that knows it, allows"),
		optional("http", &r.HTTP, (*HTTP).rule, "an HTTP service that is asked about each action"),
	}
}

func (r *Rule) choices() []string { return []string{"acl_file", "claims", "http"} }

func (r *Rule) chosen() int { return count(r.ACLFile != nil, r.Claims != nil, r.HTTP != nil) }

// ACLFile is a file of rules.
type ACLFile struct {
	File string
}

func (a *ACLFile) keys() []*node {
	return []*node{key("file", &a.File, "", file, "the file; SIGHUP reads it again")}
}

// Claims has no keys: the client brings what it may do.
type Claims struct{}

// Bans keep clients out.
type Bans struct {
	File        string
	Max         int
	Exempt      []netip.Prefix
	Flapping    *BanRule
	Credentials *BanRule
}

func (b *Bans) keys() []*node {
	return []*node{
		key("file", &b.File, "", maybeFile, "a ban a line: client_id, username or address, its value, and until when and why if you like; SIGHUP reads it again. Empty: none"),
		key("max", &b.Max, 100_000, whole(1, 100_000_000), "bans that are made while the broker runs"),
		keyList("exempt", &b.Exempt, network, "networks that no rule bans, such as a load balancer's"),
		optional("flapping", &b.Flapping, (*BanRule).keys, "bans a Client Identifier whose connections end too often"),
		optional("credentials", &b.Credentials, (*BanRule).keys, "bans an address from which wrong credentials come too often; clients behind one NAT share it"),
	}
}

// BanRule bans for For who does something Times times within Window.
type BanRule struct {
	Times  int
	Window time.Duration
	For    time.Duration
}

func (r *BanRule) keys() []*node {
	return []*node{
		key("times", &r.Times, 15, whole(2, 100), "how often"),
		key("window", &r.Window, time.Minute, span(time.Second, day), "within which time"),
		key("for", &r.For, 5*time.Minute, span(time.Second, 365*day), "for how long it is banned"),
	}
}

var maybeFile = kind[string]{
	name: "file", allowed: "the name of a file", takes: takesText,
	parse: func(s string) (string, bool) { return s, isText(s) }, format: same,
}

var maybeURL = kind[string]{
	name: "URL", allowed: webURL.allowed, takes: takesText, mask: maskURL,
	parse: func(s string) (string, bool) {
		if s == "" {
			return s, true
		}
		return webURL.parse(s)
	},
	format: same,
}

// webURL is an http or https URL.
var webURL = kind[string]{
	name: "URL", allowed: "an http or https URL", takes: takesText, mask: maskURL,
	parse: func(s string) (string, bool) {
		u, err := url.Parse(s)
		return s, err == nil && isText(s) && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
	},
	format: same,
}

// header is a field of an HTTP request.
var header = kind[string]{
	name: "header", allowed: `"NAME: VALUE", in quotes`, takes: takesText,
	parse: func(s string) (string, bool) {
		name, _, ok := strings.Cut(s, ":")
		return s, ok && isText(s) && !strings.ContainsAny(s, "\r\n") && name != "" && strings.Trim(name, tokenLetters) == ""
	},
	format: same,
}

const tokenLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"

func count(all ...bool) int {
	n := 0
	for _, v := range all {
		if v {
			n++
		}
	}
	return n
}
