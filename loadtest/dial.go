//go:build linux

package loadtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// portsPerSource is how many connections of one source address to one target there are at most. Linux's default range has 28,232
// ports, of which connect takes those of one parity first; when these run out, each connect searches them all: 19,000 connections
// from one address cost 277 µs each, and 59 µs from two.
const portsPerSource = 10_000

// loopbackSources is how many addresses of 127.0.0.0/8 connections are spread over at most.
const loopbackSources = 250

// An endpoint is a target with its address.
type endpoint struct {
	target
	remote  unix.Sockaddr
	family  int
	sources []unix.Sockaddr
	next    int // source
	config  *tls.Config

	loopback bool // any address of 127.0.0.0/8 can be a source
}

// open starts a connection. Its error is of the system call. Where the ports of an address have run out, it goes on to the next.
func (p *endpoint) open() (int, error) {
	for tries := 0; ; tries++ {
		fd, err := p.openFrom()
		if err != unix.EADDRNOTAVAIL { //nolint:errorlint // a bare Errno
			return fd, err
		}
		if p.loopback && len(p.sources) == 0 {
			p.sources = loopback(loopbackSources)
		}
		if tries >= len(p.sources) {
			return fd, err
		}
	}
}

// openFrom opens one from the next source.
func (p *endpoint) openFrom() (int, error) {
	fd, err := unix.Socket(p.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if len(p.sources) > 0 {
		// The port is chosen at connect, so that one serves for several targets.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		p.next = (p.next + 1) % len(p.sources)
		err = unix.Bind(fd, p.sources[p.next])
	}
	if err == nil {
		err = unix.Connect(fd, p.remote)
	}
	if err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// endpoint is where a client connects to.
func (r *run) endpoint(c *client) *endpoint {
	l := c.section.loop
	if f := c.section.flow; f.byHTTP(c.role) {
		return &f.endpoints[l.index][0]
	}
	return &r.endpoints[l.index][c.number%len(r.endpoints[l.index])]
}

// resolve finds the addresses of the targets, a set of endpoints for each loop. connections is how many there may be at a time in all.
func resolve(ctx context.Context, s *Scenario, connections, loops int) ([][]endpoint, error) {
	var all []endpoint
	config, err := s.TLS.config()
	if err != nil {
		return nil, err
	}
	for _, text := range s.Targets {
		t, err := parseTarget(text)
		if err != nil {
			return nil, err
		}
		host, portText, err := net.SplitHostPort(t.address)
		if err != nil {
			return nil, err
		}
		port, _ := strconv.Atoi(portText)
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", host, err)
		}
		e := endpoint{target: t}
		address := found[0].Unmap()
		e.remote, e.family = sockaddr(address, port)
		for _, text := range s.Sources {
			source, err := netip.ParseAddr(text)
			if err != nil {
				return nil, err
			}
			if source.Unmap().Is4() == address.Is4() {
				from, _ := sockaddr(source.Unmap(), 0)
				e.sources = append(e.sources, from)
			}
		}
		if len(s.Sources) > 0 && len(e.sources) == 0 {
			return nil, fmt.Errorf("no source address can reach %s", address)
		}
		if len(s.Sources) == 0 && address.Is4() && address.IsLoopback() {
			e.loopback = true
			// Other processes that take part connect from the same addresses.
			e.sources = loopbackFor(connections*max(1, s.Share.Of)/len(s.Targets), s.revolving())
		}
		if t.tls {
			e.config = config.Clone()
			if e.config.ServerName == "" {
				e.config.ServerName = t.host
			}
		}
		all = append(all, e)
	}
	sets := make([][]endpoint, loops)
	for i := range sets {
		for _, e := range all {
			sets[i] = append(sets[i], e.clone())
		}
	}
	return sets, nil
}

// clone returns a copy for another loop: a Sockaddr has room in it that system calls write to.
func (p *endpoint) clone() endpoint {
	c := *p
	c.remote = cloneSockaddr(p.remote)
	c.sources = nil
	for _, s := range p.sources {
		c.sources = append(c.sources, cloneSockaddr(s))
	}
	return c
}

func cloneSockaddr(s unix.Sockaddr) unix.Sockaddr {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return &unix.SockaddrInet4{Port: s.Port, Addr: s.Addr}
	case *unix.SockaddrInet6:
		return &unix.SockaddrInet6{Port: s.Port, Addr: s.Addr, ZoneId: s.ZoneId}
	}
	return s
}

// loopbackFor returns as many addresses of this machine as connections need; none if the kernel's choice will do. Where connections
// come and go, those in TIME_WAIT need ports too.
func loopbackFor(connections int, revolving bool) []unix.Sockaddr {
	n := (connections + portsPerSource - 1) / portsPerSource
	if revolving {
		n = max(n, 8)
	}
	if n < 2 {
		return nil
	}
	return loopback(min(n, loopbackSources))
}

// loopback returns n addresses of 127.0.0.0/8.
func loopback(n int) []unix.Sockaddr {
	var sources []unix.Sockaddr
	for i := range n {
		sources = append(sources, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + i)}})
	}
	return sources
}

// revolving says whether connections come and go all the time.
func (s *Scenario) revolving() bool {
	for _, p := range s.Parts {
		if p.revolving() {
			return true
		}
	}
	return s.Shape == Connects || s.Shape == Takeover
}

func sockaddr(a netip.Addr, port int) (unix.Sockaddr, int) {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}, unix.AF_INET
	}
	s := &unix.SockaddrInet6{Port: port, Addr: a.As16()}
	if zone := a.Zone(); zone != "" {
		if i, err := net.InterfaceByName(zone); err == nil {
			s.ZoneId = uint32(i.Index)
		}
	}
	return s, unix.AF_INET6
}

// config returns what connections with TLS have in common.
func (t *TLS) config() (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, InsecureSkipVerify: t.Insecure, ClientSessionCache: nil}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read authorities: no certificate in %s", t.CAFile)
		}
	}
	if t.CertFile != "" {
		certificate, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{certificate}
	}
	return c, nil
}
