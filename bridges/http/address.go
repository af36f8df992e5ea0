package httpbridge

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/pires/go-proxyproto"
)

// clientAddr returns the address that a request comes from: that of the connection,
// or of the client behind it that proxies in Options.Forwarders tell of.
func (b *Bridge) clientAddr(r *http.Request) (netip.AddrPort, error) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return peer, fmt.Errorf("address of a connection: %w", err)
	}
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	if len(b.opts.Forwarders) == 0 {
		return peer, nil
	}
	// From the last hop on, for as long as those who told of them are to be believed.
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !contains(b.opts.Forwarders, peer.Addr()) {
			break
		}
		told, ok := parseHop(strings.TrimSpace(hop))
		if !ok {
			break
		}
		peer = told
	}
	return peer, nil
}

func parseHop(s string) (netip.AddrPort, bool) {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()), true
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return netip.AddrPortFrom(a.Unmap().WithZone(""), 0), err == nil
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// proxyPolicy demands a PROXY header of those who may send one, and refuses others.
func (b *Bridge) proxyPolicy(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
	if a, ok := o.Upstream.(*net.TCPAddr); ok && contains(b.opts.ProxyProtocol, a.AddrPort().Addr()) {
		return proxyproto.REQUIRE, nil
	}
	return proxyproto.REJECT, proxyproto.ErrInvalidUpstream
}
