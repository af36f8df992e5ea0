package config

import (
	"encoding/hex"
	"fmt"
)

// Admin is the listener for operators.
type Admin struct {
	Address        string // host:port, or Off
	AllowAnonymous *bool  // nil: nothing was said, see OpenMonitoring
	API            bool
	Socket         string // path of a unix socket; empty: none
	SocketMode     uint32
	TLS            *TLS // nil: none
	Tokens         []AdminToken
	TokenFile      string // empty: none
	Certificates   []AdminCertificate
	AllowPlainHTTP bool
	Hosts          []string
	PProf          bool
}

func (a *Admin) keys() []*node {
	nodes := []*node{
		key("address", &a.Address, "127.0.0.1:8081", hostPort, "where /metrics, /livez, /readyz, /health and /api/v1 are"),
		key("socket", &a.Socket, "", maybeFile, "a unix socket where the same is; who may open it may do everything. Empty: none"),
		key("socket_mode", &a.SocketMode, 0o600, fileMode, "who may open it"),
		optional("tls", &a.TLS, (*TLS).keys, "TLS in front of the address; client_ca is for certificates below"),
		key("allow_plain_http", &a.AllowPlainHTTP, false, boolean, "tokens at an address that others reach, without TLS: whoever is on the way can take them"),
		key("pprof", &a.PProf, false, boolean, "add /debug/pprof/, for the role write"),
	}
	return append(nodes, reloads(
		maybe("allow_anonymous", &a.AllowAnonymous, "as the key of this name at the top", boolean,
			"whether /metrics and /health may be read by anybody who reaches the address. The API never is, but on loopback where nobody has a token or certificate"),
		key("api", &a.API, true, boolean, "false leaves only metrics and health at the address"),
		listOf("tokens", &a.Tokens, (*AdminToken).keys, "who may use the API, by a token; loopmq ctl token makes one"),
		key("token_file", &a.TokenFile, "", maybeFile, "more of them, one a line: NAME ROLE SHA256; SIGHUP reads it again. Empty: none"),
		listOf("certificates", &a.Certificates, (*AdminCertificate).keys, "who may use the API, by a client certificate of tls.client_ca"),
		keyList("hosts", &a.Hosts, text, "what the Host header may be, beside localhost and addresses, where the address is a loopback one: such as the name of a proxy in front"),
	)...)
}

// AdminToken is a token, of which only the hash is known here.
type AdminToken struct {
	Name   string
	Role   string // of Roles
	SHA256 string // 64 hexadecimal digits
}

// Roles are the words for what a caller of the admin API may do.
var Roles = []string{"read", "write"}

func (t *AdminToken) keys() []*node {
	return reloads(
		key("name", &t.Name, "", listenerName, "what the log calls its bearer"),
		key("role", &t.Role, Roles[0], oneOf(Roles...), "read, or write, which includes it"),
		key("sha256", &t.SHA256, "", sha256Hex, "SHA-256 of the token").secrets(),
	)
}

var sha256Hex = kind[string]{
	name: "hash", allowed: "64 hexadecimal digits, as loopmq ctl token prints them", takes: takesText | takesInteger,
	parse: func(s string) (string, bool) {
		b, err := hex.DecodeString(s)
		return s, err == nil && len(b) == 32
	},
	format: same,
}

// AdminCertificate gives a role to a client whose certificate has a name.
type AdminCertificate struct {
	Field string // cn, dns, email, uri
	Name  string
	Role  string // of Roles
}

func (a *AdminCertificate) keys() []*node {
	required := text
	required.allowed, required.parse = "a name", func(s string) (string, bool) { return s, s != "" && isText(s) }
	return reloads(
		key("field", &a.Field, "cn", oneOf("cn", "dns", "email", "uri"), "where its name is: the subject's CN, or a kind of Subject Alternative Name"),
		key("name", &a.Name, "", required, "the name"),
		key("role", &a.Role, Roles[0], oneOf(Roles...), "read, or write, which includes it"),
	)
}

// Authenticates reports whether callers of the API say who they are.
func (a *Admin) Authenticates() bool {
	return len(a.Tokens)+len(a.Certificates) > 0 || a.TokenFile != ""
}

// OpenMonitoring reports whether anybody who reaches the admin listener may read metrics
// and health.
func (c *Config) OpenMonitoring() bool {
	return or(c.Admin.AllowAnonymous, or(c.AllowAnonymous, IsLoopback(c.Admin.Address)))
}

func (c *Config) checkAdmin() {
	a := &c.Admin
	if a.TLS != nil {
		c.checkTLS(a.TLS, "admin.tls")
	}
	names := map[string]bool{}
	for i := range a.Tokens {
		if name := a.Tokens[i].Name; names[name] {
			c.wrong(element("admin.tokens", i)+".name", fmt.Sprintf("%q: there is another token of this name: allowed: a name of its own", name))
		} else {
			names[name] = true
		}
	}
	if len(a.Certificates) > 0 && (a.TLS == nil || a.TLS.ClientCA == "") {
		c.wrong("admin.certificates", "nothing verifies them: allowed: with admin.tls.client_ca")
	}
	if IsLoopback(a.Address) {
		return
	}
	switch {
	case !a.Authenticates() && !c.OpenMonitoring():
		c.wrong("admin.address", c.open(a.Address, "admin.address", "admin.allow_anonymous"))
	case a.API && !a.Authenticates():
		c.wrong("admin.address", fmt.Sprintf("%q: anybody who reaches this address could end connections and delete sessions: "+
			"allowed: a loopback address, or with admin.tokens, admin.token_file or admin.certificates, or with admin.api: false", a.Address))
	case a.TLS == nil && a.Authenticates() && !a.AllowPlainHTTP:
		c.wrong("admin.address", fmt.Sprintf("%q: tokens could be read on their way here: allowed: with admin.tls, or with admin.allow_plain_http: true", a.Address))
	}
}
