package httpbridge

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// hostAllowed reports whether a request that came by a loopback address was meant for
// this server. A page of another site may have its own name resolve to 127.0.0.1 (DNS
// rebinding): to the visitor's browser what it reads there is the page's own, but the
// Host header still has the page's name. An address can't be made to mean another one,
// so any is allowed, and so are localhost, names below it, and those in names.
func hostAllowed(r *http.Request, names []string) bool {
	host := r.Host
	if host == "" { // HTTP/1.0, which no browser speaks
		return true
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.ContainsFunc(names, func(name string) bool {
		return strings.EqualFold(name, host)
	})
}
