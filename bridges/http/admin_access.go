package httpbridge

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"loopmq/metrics"
)

// Role is what a caller of the admin API may do.
type Role uint8

// The roles. Who may write may read.
const (
	// RoleRead is for what changes nothing.
	RoleRead Role = iota + 1
	// RoleWrite is for what does, and for profiles.
	RoleWrite

	roleAnybody Role = 0
	// roleMonitor is what metrics and health take: nothing, or RoleRead.
	roleMonitor Role = 255
)

// String returns the name of a role: read or write.
func (r Role) String() string {
	if r == RoleWrite {
		return "write"
	}
	return "read"
}

// Access says who may use an [Admin]. The zero value asks nobody for anything, and has
// no API unless the listener is on a loopback address.
type Access struct {
	// APIOff leaves only metrics and health; the unix socket has the API nevertheless.
	APIOff bool
	// OpenMonitoring lets anybody read /metrics and /health. Without it they take
	// RoleRead, where callers have to say who they are. /livez and /readyz are always open:
	// load balancers have no tokens.
	OpenMonitoring bool
	// Required: callers of the API have to say who they are on a loopback address, too,
	// even while there are no Tokens or Certificates.
	Required bool
	// Tokens are what callers present as Authorization: Bearer TOKEN.
	Tokens []Token
	// Certificates are the names of clients whose certificate AdminOptions.TLS has
	// verified.
	Certificates []CertificateName
	// Hosts are names that the Host header may have, beside addresses and localhost,
	// where the listener is on a loopback address.
	Hosts []string
}

// CertificateName gives a role to a client whose certificate has a name.
type CertificateName struct {
	// Field says where the name is: cn, the subject's Common Name, or one of the Subject
	// Alternative Names: dns, email or uri.
	Field string
	Name  string
	Role  Role
}

// authenticates reports whether callers have to say who they are, wherever they are.
func (x *Access) authenticates() bool {
	return x.Required || len(x.Tokens)+len(x.Certificates) > 0
}

// SetAccess replaces who may do what, for requests that come from now on.
func (a *Admin) SetAccess(x Access) { a.access.Store(&x) }

// meant answers and returns false if a browser was made to send the request by a page
// of another site.
func (a *Admin) meant(w *answer, r *http.Request, x *Access) bool {
	if isUnix(r) {
		return true
	}
	if a.loopback.Load() && !hostAllowed(r, x.Hosts) {
		a.refuse(w, http.StatusForbidden, metrics.AdminHost, "the Host header is "+strconv.Quote(r.Host)+": allowed: an address, localhost, or a name that admin.hosts lists")
		return false
	}
	if err := a.origins.Check(r); err != nil {
		a.refuse(w, http.StatusForbidden, metrics.AdminOrigin, "a page of another site may not change anything here")
		return false
	}
	return true
}

func isUnix(r *http.Request) bool {
	_, ok := r.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr)
	return ok
}

// admit returns who sent the request, or answers why they may not do what takes a role.
func (a *Admin) admit(w *answer, r *http.Request, x *Access, needed Role) (who string, ok bool) {
	switch {
	case isUnix(r):
		return "unix socket", true
	case needed == roleAnybody:
		return "anybody", true
	case needed == roleMonitor && (x.OpenMonitoring || !x.authenticates()):
		return "anybody", true
	case needed == roleMonitor:
		needed = RoleRead
	case x.APIOff:
		writeProblem(w, http.StatusNotFound, "this listener has no API: admin.api is false")
		return "", false
	case !x.authenticates() && a.loopback.Load():
		return "local", true
	}
	return a.authenticate(w, r, x, needed)
}

// authenticate is admit for who has to say who they are.
func (a *Admin) authenticate(w *answer, r *http.Request, x *Access, needed Role) (who string, ok bool) {
	now, from := time.Now(), addressOf(r)
	if hasToken(r) { // A certificate can't be guessed: others' wrong tokens are not its concern.
		if wait := a.failures.wait(from, now); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
			a.refuse(w, http.StatusTooManyRequests, metrics.AdminRate, "too many wrong tokens came from this address: try again later")
			return "", false
		}
	}
	who, role, err := x.identify(r)
	switch {
	case err != nil:
		if errors.Is(err, errWrongToken) {
			a.failures.add(from, now)
		}
		if !errors.Is(err, errNoToken) {
			a.log.Warn("admin_refused", "remote_addr", r.RemoteAddr, "method", r.Method, "path", r.URL.EscapedPath(), "error", err)
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="loopmq"`)
		a.refuse(w, http.StatusUnauthorized, metrics.AdminCredentials, err.Error())
	case role < needed:
		a.log.Warn("admin_refused", "actor", who, "remote_addr", r.RemoteAddr, "method", r.Method, "path", r.URL.EscapedPath(), "error", "the role is read")
		a.refuse(w, http.StatusForbidden, metrics.AdminRole, who+" has the role "+role.String()+"; this takes "+needed.String())
	default:
		return who, true
	}
	return "", false
}

func (a *Admin) refuse(w http.ResponseWriter, status int, reason metrics.AdminReason, detail string) {
	a.opts.Metrics.AdminRefused[reason].Inc()
	writeProblem(w, status, detail)
}

var (
	errNoToken    = errors.New("say who you are: Authorization: Bearer TOKEN, or a client certificate that has a role")
	errWrongToken = errors.New("no such token")
)

// hasToken reports whether a request says with a token who sent it, right or wrong.
func hasToken(r *http.Request) bool { return r.Header.Get("Authorization") != "" }

// identify returns who sent the request, and their role: that of the token, if there is
// one, else that of the certificate.
func (x *Access) identify(r *http.Request) (who string, role Role, err error) {
	if hasToken(r) {
		scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		hash := sha256.Sum256([]byte(strings.TrimSpace(secret)))
		for i := range x.Tokens { // each, so that the time says nothing of which it was
			if t := &x.Tokens[i]; subtle.ConstantTimeCompare(hash[:], t.SHA256[:]) == 1 {
				who, role = "token "+t.Name, max(role, t.Role)
			}
		}
		if role == 0 || !strings.EqualFold(scheme, "Bearer") {
			return "", 0, errWrongToken
		}
		return who, role, nil
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", 0, errNoToken
	}
	cert := r.TLS.PeerCertificates[0]
	for _, c := range x.Certificates {
		if c.Role > role && slices.Contains(namesOf(cert, c.Field), c.Name) {
			who, role = "certificate "+c.Name, c.Role
		}
	}
	if role == 0 {
		return "", 0, errors.New("the certificate of " + cert.Subject.String() + " has no role: admin.certificates lists none of its names")
	}
	return who, role, nil
}

func namesOf(c *x509.Certificate, field string) []string {
	switch field {
	case "cn":
		return []string{c.Subject.CommonName}
	case "dns":
		return c.DNSNames
	case "email":
		return c.EmailAddresses
	}
	var uris []string
	for _, u := range c.URIs {
		uris = append(uris, u.String())
	}
	return uris
}

// addressOf returns where a request comes from: of IPv6 the network, since one host
// may have all of it.
func addressOf(r *http.Request) netip.Addr {
	at, _ := netip.ParseAddrPort(r.RemoteAddr)
	addr := at.Addr().Unmap()
	if addr.Is6() {
		p, _ := addr.WithZone("").Prefix(64)
		return p.Addr()
	}
	return addr
}

// Wrong tokens from one address: after so many, one more in a while. An address that
// was too fast is refused without its token being looked at, however right that is: else
// it could go on guessing. Requests without a token, such as those with a certificate
// only, neither wait nor count.
const (
	failuresAtOnce    = 10
	failuresEvery     = 6 * time.Second
	failuresAddresses = 4096
)

// failures remember where wrong tokens come from. It is safe for concurrent use.
type failures struct {
	limits *lru.Cache[netip.Addr, *rate.Limiter]
}

func newFailures() *failures {
	c, _ := lru.New[netip.Addr, *rate.Limiter](failuresAddresses) // fails for sizes below 1 only
	return &failures{c}
}

// wait returns how long an address has to wait until it may try again.
func (f *failures) wait(from netip.Addr, now time.Time) time.Duration {
	l, ok := f.limits.Get(from)
	if !ok {
		return 0
	}
	if left := l.TokensAt(now); left < 1 {
		return time.Duration((1 - left) * float64(failuresEvery))
	}
	return 0
}

func (f *failures) add(from netip.Addr, now time.Time) {
	l := rate.NewLimiter(rate.Every(failuresEvery), failuresAtOnce)
	if before, ok, _ := f.limits.PeekOrAdd(from, l); ok {
		l = before
	}
	l.AllowN(now, 1)
}
