//go:build linux

package loadtest_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// A fake is a broker for one subscriber that can misbehave. Unset functions do what a broker does at QoS 0 and 1, in MQTT 5.0.
type fake struct {
	listener net.Listener
	connack  codec.Connack
	suback   codec.ReasonCode
	puback   codec.ReasonCode
	refuses  bool                            // a PUBLISH whose PUBACK has a code isn't passed on
	deliver  func(p *codec.Publish) [][]byte // what the subscriber gets for a message
	mute     bool                            // no PINGRESP

	mu         sync.Mutex
	subscriber net.Conn // guarded by mu
	conns      []net.Conn
}

func (f *fake) start(t *testing.T) string {
	t.Helper()
	var err error
	if f.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := f.listener.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, conn)
			f.mu.Unlock()
			served.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = f.listener.Close()
		f.mu.Lock()
		for _, conn := range f.conns {
			_ = conn.Close()
		}
		f.mu.Unlock()
		served.Wait()
	})
	return "tcp://" + f.listener.Addr().String()
}

func (f *fake) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	var b []byte
	for {
		part := make([]byte, 4096)
		n, err := r.Read(part)
		if b = append(b, part[:n]...); err != nil {
			return
		}
		for {
			h, ok, err := codec.DecodeFixedHeader(b, codec.V5)
			if err != nil || !ok || len(b) < h.Size {
				break
			}
			if !f.packet(conn, h, b[h.HeaderSize:h.Size]) {
				return
			}
			b = b[h.Size:]
		}
	}
}

func (f *fake) packet(conn net.Conn, h codec.FixedHeader, body []byte) bool {
	switch h.Type {
	case codec.TypeConnect:
		_, _ = conn.Write(f.connack.Append(nil, codec.V5))
	case codec.TypeSubscribe:
		var s codec.Subscribe
		if s.Decode(codec.V5, h.Flags, body) != nil {
			return false
		}
		f.mu.Lock()
		f.subscriber = conn
		f.mu.Unlock()
		_, _ = conn.Write((&codec.Suback{PacketID: s.PacketID, ReasonCodes: []codec.ReasonCode{f.suback}}).Append(nil, codec.V5))
	case codec.TypePublish:
		var p codec.Publish
		if p.Decode(codec.V5, h.Flags, body) != nil {
			return false
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.refuses {
			packets := [][]byte{p.Append(nil, codec.V5)}
			if f.deliver != nil {
				packets = f.deliver(&p)
			}
			for _, packet := range packets {
				_, _ = f.subscriber.Write(packet)
			}
		}
		if p.QoS == 1 {
			ack := []byte{0x40, 2, byte(p.PacketID >> 8), byte(p.PacketID)}
			if f.puback != 0 {
				ack = []byte{0x40, 3, byte(p.PacketID >> 8), byte(p.PacketID), byte(f.puback)}
			}
			_, _ = conn.Write(ack)
		}
	case codec.TypePingreq:
		if !f.mute {
			_, _ = conn.Write([]byte{0xD0, 0})
		}
	case codec.TypeDisconnect:
		return false
	}
	return true
}

// certificate is one that clients can be made to trust.
type certificate struct {
	pair tls.Certificate
	cert string // its file
}

func newCertificate(t *testing.T) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate{pair: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, cert: filepath.Join(t.TempDir(), "cert.pem")}
	if err := os.WriteFile(c.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// brokerRetained counts the retained messages of a broker.
func brokerRetained(s *brokertest.Server, n *int) error {
	page, err := s.Broker.RetainedMessages(context.Background(), "#", "", 1000)
	*n = len(page.Messages)
	return err
}
