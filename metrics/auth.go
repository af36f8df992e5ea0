package metrics

import (
	"fmt"
	"slices"

	vm "github.com/VictoriaMetrics/metrics"
)

// Duration is a histogram of seconds that any goroutine may update, for what isn't
// timed per message.
type Duration = vm.PrometheusHistogram

// AuthMethod is a way to find out who a client is, or what it may do.
type AuthMethod uint8

// The methods. Each is a value of the label `method`.
const (
	// AuthPassword: the password file.
	AuthPassword AuthMethod = iota
	// AuthScram: SCRAM, by enhanced authentication.
	AuthScram
	// AuthJWT: a JSON Web Token.
	AuthJWT
	// AuthHTTP: an HTTP service is asked who a client is.
	AuthHTTP
	// AuthCertificate: the certificate of mutual TLS.
	AuthCertificate
	// AuthAnonymous: no method decided, and whether that is enough.
	AuthAnonymous
	// AuthBan: the list of bans.
	AuthBan
	// AuthACL: the ACL file.
	AuthACL
	// AuthClaims: what a token, or the answer of an HTTP service, allows its client.
	AuthClaims
	// AuthHTTPACL: an HTTP service is asked what a client may do.
	AuthHTTPACL

	// NumAuthMethods is the number of methods.
	NumAuthMethods = int(iota)
)

var authMethods = [NumAuthMethods]string{
	AuthPassword:    "password_file",
	AuthScram:       "scram",
	AuthJWT:         "jwt",
	AuthHTTP:        "http",
	AuthCertificate: "certificate",
	AuthAnonymous:   "anonymous",
	AuthBan:         "ban",
	AuthACL:         "acl_file",
	AuthClaims:      "claims",
	AuthHTTPACL:     "http_acl",
}

// String returns the value of the label, such as "jwt". It doesn't allocate.
func (m AuthMethod) String() string { return label(authMethods[:], uint8(m)) }

// AuthMethodNamed returns the method with a name, and whether there is one.
func AuthMethodNamed(name string) (AuthMethod, bool) {
	i := slices.Index(authMethods[:], name)
	return AuthMethod(max(i, 0)), i >= 0
}

// AuthResult is what a method decided.
type AuthResult uint8

// The results. Each is a value of the label `result`.
const (
	// AuthAccepted: who the client is, or that it may.
	AuthAccepted AuthResult = iota
	// AuthRejected: it is not who it says, or may not.
	AuthRejected
	// AuthNext: the method has nothing to say; the next one is asked.
	AuthNext
	// AuthFailed: the method could not find out. What follows is its configuration's.
	AuthFailed

	// NumAuthResults is the number of results.
	NumAuthResults = int(iota)
)

var authResults = [NumAuthResults]string{
	AuthAccepted: "accept",
	AuthRejected: "reject",
	AuthNext:     "next",
	AuthFailed:   "error",
}

// String returns the value of the label, such as "accept". It doesn't allocate.
func (r AuthResult) String() string { return label(authResults[:], uint8(r)) }

// BanSource says who banned.
type BanSource uint8

// The sources of bans. Each is a value of the label `source`.
const (
	// BanFile: it stands in the file.
	BanFile BanSource = iota
	// BanOperator: an operator, or the application, at run time.
	BanOperator
	// BanFlapping: the client disconnected too often.
	BanFlapping
	// BanCredentials: too many wrong credentials came from an address.
	BanCredentials

	// NumBanSources is the number of sources.
	NumBanSources = int(iota)
)

var banSources = [NumBanSources]string{
	BanFile:        "file",
	BanOperator:    "operator",
	BanFlapping:    "flapping",
	BanCredentials: "credentials",
}

// String returns the value of the label, such as "flapping". It doesn't allocate.
func (s BanSource) String() string { return label(banSources[:], uint8(s)) }

// Auth holds the metrics of authentication, authorization and bans.
type Auth struct {
	// Decisions counts the decisions of each method.
	Decisions [NumAuthMethods][NumAuthResults]*Count
	// HTTPSeconds times the calls of HTTP services: AuthHTTP and AuthHTTPACL are 0 and 1.
	HTTPSeconds [2]*Duration
	// CacheHits counts decisions that were known already.
	CacheHits [NumAuthMethods]*Count
	// BreakersOpen is the number of HTTP services that aren't asked, or hardly,
	// because they failed too often; BreakersOpened counts how often that began.
	BreakersOpen, BreakersOpened *Count
	// KeyRefreshFailures counts times that the keys for JWTs could not be read again.
	KeyRefreshFailures *Count
	// Bans is the number of bans in force, BansAdded counts those that began, and
	// BansNotKept those that found the table full.
	Bans, BansAdded [NumBanSources]*Count
	BansNotKept     *Count
}

// httpBounds are the upper bounds of the buckets of Auth.HTTPSeconds, in seconds.
var httpBounds = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// authFamilies are the names of Auth.
var authFamilies = []Family{
	{
		"loopmq_auth_decisions_total", TypeCounter, "method,result",
		"Decisions on who a client is and what it may do, by method and result.",
		func(s *Set, name string) {
			for m := range NumAuthMethods {
				for r := range NumAuthResults {
					s.Auth.Decisions[m][r] = s.vm.NewCounter(fmt.Sprintf("%s{method=%q,result=%q}", name, AuthMethod(m), AuthResult(r)))
				}
			}
		},
	},
	{
		"loopmq_auth_cache_hits_total", TypeCounter, "method",
		"Decisions that were known already, by method.",
		func(s *Set, name string) {
			for m := range NumAuthMethods {
				s.Auth.CacheHits[m] = s.vm.NewCounter(fmt.Sprintf("%s{method=%q}", name, AuthMethod(m)))
			}
		},
	},
	{
		"loopmq_auth_http_seconds", TypeHistogram, "method",
		"Time that calls of HTTP services took, by method.",
		func(s *Set, name string) {
			for i, m := range []AuthMethod{AuthHTTP, AuthHTTPACL} {
				s.Auth.HTTPSeconds[i] = s.vm.NewPrometheusHistogramExt(fmt.Sprintf("%s{method=%q}", name, m), httpBounds)
			}
		},
	},
	{
		"loopmq_auth_breakers_open", TypeGauge, "",
		"HTTP services for authentication or authorization that failed so often that they aren't asked for a while.",
		once(func(s *Set, c *Count) { s.Auth.BreakersOpen = c }),
	},
	{
		"loopmq_auth_breakers_opened_total", TypeCounter, "",
		"Times that such a service failed so often.",
		once(func(s *Set, c *Count) { s.Auth.BreakersOpened = c }),
	},
	{
		"loopmq_auth_key_refresh_failures_total", TypeCounter, "",
		"Times that the keys for JSON Web Tokens could not be fetched; those from before stay.",
		once(func(s *Set, c *Count) { s.Auth.KeyRefreshFailures = c }),
	},
	{
		"loopmq_bans", TypeGauge, "source",
		"Bans in force, by who banned.",
		byBanSource(func(s *Set) *[NumBanSources]*Count { return &s.Auth.Bans }),
	},
	{
		"loopmq_bans_added_total", TypeCounter, "source",
		"Bans that began, by who banned.",
		byBanSource(func(s *Set) *[NumBanSources]*Count { return &s.Auth.BansAdded }),
	},
	{
		"loopmq_bans_not_kept_total", TypeCounter, "",
		"Bans at run time that the full table did not take.",
		once(func(s *Set, c *Count) { s.Auth.BansNotKept = c }),
	},
}

func byBanSource(counts func(*Set) *[NumBanSources]*Count) func(*Set, string) {
	return func(s *Set, name string) {
		for b := range NumBanSources {
			counts(s)[b] = s.vm.NewCounter(fmt.Sprintf("%s{source=%q}", name, BanSource(b)))
		}
	}
}
