package webhooks

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// special are networks that aren't the public internet: what is there may trust whoever reaches it. A server of metadata
// in a cloud hands out credentials. (IANA's registries of special-purpose addresses, and what clouds use.)
var special = prefixes(
	"0.0.0.0/8",        // this host
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // shared by carriers; 100.100.100.200 is a server of metadata
	"127.0.0.0/8",      // loopback
	"169.254.0.0/16",   // link-local; 169.254.169.254 is a server of metadata
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments; 192.0.0.192 is a server of metadata
	"192.0.2.0/24",     // documentation
	"192.88.99.0/24",   // relays of 6to4
	"192.168.0.0/16",   // private
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, broadcast
	"168.63.129.16/32", // a cloud's own services

	"::/64",          // unspecified, loopback, IPv4 in other notations
	"64:ff9b:1::/48", // NAT64 within a network
	"100::/64",       // discard
	"2001::/23",      // protocol assignments, Teredo
	"2001:db8::/32",  // documentation
	"3fff::/20",      // documentation
	"5f00::/16",      // segment routing
	"fc00::/7",       // private; fd00:ec2::254 is a server of metadata
	"fe80::/10",      // link-local
	"fec0::/10",      // site-local
	"ff00::/8",       // multicast
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// The networks of IPv6 in which an address of IPv4 is, and where in its bytes.
var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4 = netip.MustParsePrefix("2002::/16")
)

// unmapped is the address that packets to a get to in the end: of IPv4, if a wraps one.
func unmapped(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:]))
	case sixTo4.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return a
}

// addressError is an address that requests don't go to.
type addressError struct{ addr netip.Addr }

func (e *addressError) Error() string {
	return fmt.Sprintf("%s is not a public address; allow says which others requests may go to", e.addr)
}

// allows reports whether requests may go to an address.
func (e *Endpoint) allows(a netip.Addr) bool {
	if e.AllowPrivate {
		return true
	}
	a = unmapped(a)
	for _, p := range e.Allow {
		if p.Contains(a) {
			return true
		}
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// control looks at the address that a connection is about to go to. That is after names were resolved, so whoever has a
// name can't choose another address when it is looked up again.
func (e *Endpoint) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if !e.allows(a.Addr()) {
		return &addressError{a.Addr()}
	}
	return nil
}

func (e *Endpoint) dialer() *net.Dialer {
	return &net.Dialer{Timeout: e.Timeout, KeepAlive: keepAlive, ControlContext: e.control}
}
