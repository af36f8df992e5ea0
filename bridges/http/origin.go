package httpbridge

import (
	"net/http"
	"slices"
	"strings"

	"loopmq/metrics"
)

// origin is a site whose pages may send requests.
type origin struct {
	any    bool
	below  bool // all hosts below host, which begins with a dot
	scheme string
	host   string
}

func parseOrigin(s string) origin {
	if s == "*" {
		return origin{any: true}
	}
	scheme, host, _ := strings.Cut(strings.ToLower(s), "://")
	if rest, ok := strings.CutPrefix(host, "*"); ok {
		return origin{below: true, scheme: scheme, host: rest}
	}
	return origin{scheme: scheme, host: host}
}

func (o *origin) allows(scheme, host string) bool {
	switch {
	case o.any:
		return true
	case o.below:
		return o.scheme == scheme && len(host) > len(o.host) && strings.HasSuffix(host, o.host)
	}
	return o.scheme == scheme && o.host == host
}

// corsHeaders are the request headers that pages may send, corsExposed those of the
// answer that they may read.
const (
	corsMethods = "GET, HEAD, POST, DELETE"
	corsHeaders = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Mqtt-Client-Id, X-API-Key, " +
		"Mqtt-Payload-Format-Indicator, Mqtt-Message-Expiry-Interval, Mqtt-Response-Topic, Mqtt-Correlation-Data, Mqtt-User-Property"
	corsExposed = "Retry-After, Idempotency-Replayed, Mqtt-Qos, Mqtt-Payload-Format-Indicator, Mqtt-Message-Expiry-Interval, " +
		"Mqtt-Content-Type, Mqtt-Response-Topic, Mqtt-Correlation-Data, Mqtt-User-Property"
	corsMaxAge = "600"
)

// cors refuses requests of pages of other sites that aren't listed, and tells browsers
// which ones may read the answer. Without it any page that a user visits could publish
// with the rights of whoever reaches the listener, since browsers send simple requests
// without asking. over: the request only asked what is allowed.
func (b *Bridge) cors(w http.ResponseWriter, r *http.Request) (over bool, err error) {
	from := r.Header["Origin"]
	if len(b.origins) > 0 {
		w.Header().Add("Vary", "Origin")
	}
	if len(from) == 0 {
		if r.Header.Get("Sec-Fetch-Site") == "cross-site" {
			return false, errOrigin
		}
		return false, nil
	}
	scheme, host, _ := strings.Cut(strings.ToLower(from[0]), "://")
	if len(from) > 1 {
		return false, errOrigin
	}
	if slices.ContainsFunc(b.origins, func(o origin) bool { return o.allows(scheme, host) }) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", from[0])
		if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			h.Set("Access-Control-Expose-Headers", corsExposed)
			return false, nil
		}
		h.Set("Access-Control-Allow-Methods", corsMethods)
		h.Set("Access-Control-Allow-Headers", corsHeaders)
		h.Set("Access-Control-Max-Age", corsMaxAge)
		w.WriteHeader(http.StatusNoContent)
		return true, nil
	}
	if host == strings.ToLower(r.Host) && (scheme == "https") == (r.TLS != nil) {
		return false, nil
	}
	return false, errOrigin
}

var errOrigin = faulty(http.StatusForbidden, metrics.HTTPOrigin, "pages of this site may not send requests: http.origins lists those that may")
