package coapbridge

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// spoiler is a proxy of UDP that drops, doubles and holds back a fifth of the datagrams
// each, both ways.
type spoiler struct {
	front *net.UDPConn
	to    string

	mu      sync.Mutex
	r       *rand.Rand
	backs   map[string]net.Conn
	spoiled int
}

func mustSpoil(t *testing.T, to string, seed uint64) *spoiler {
	t.Helper()
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := &spoiler{front: front, to: to, r: rand.New(rand.NewPCG(seed, 1)), backs: make(map[string]net.Conn)}
	var wait sync.WaitGroup
	wait.Go(func() {
		buf := make([]byte, datagramMax)
		for {
			n, from, err := front.ReadFromUDP(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			back := s.backs[from.String()]
			if back == nil {
				if back, err = net.Dial("udp", to); err != nil {
					t.Error(err)
					s.mu.Unlock()
					return
				}
				s.backs[from.String()] = back
				wait.Go(func() {
					buf := make([]byte, datagramMax)
					for {
						n, err := back.Read(buf)
						if err != nil {
							return
						}
						s.pass(append([]byte{}, buf[:n]...), func(b []byte) { _, _ = front.WriteToUDP(b, from) })
					}
				})
			}
			s.mu.Unlock()
			s.pass(append([]byte{}, buf[:n]...), func(b []byte) { _, _ = back.Write(b) })
		}
	})
	t.Cleanup(func() {
		_ = front.Close()
		s.mu.Lock()
		for _, back := range s.backs {
			_ = back.Close()
		}
		s.mu.Unlock()
		wait.Wait()
	})
	return s
}

func (s *spoiler) pass(b []byte, send func([]byte)) {
	s.mu.Lock()
	fate, wait := s.r.IntN(5), time.Duration(s.r.IntN(30))*time.Millisecond
	if fate < 3 {
		s.spoiled++
	}
	s.mu.Unlock()
	switch fate {
	case 0:
	case 1:
		send(b)
		send(b)
	case 2:
		time.AfterFunc(wait, func() { send(b) })
	default:
		send(b)
	}
}

// TestEachPublishOnce has clients retransmit through a proxy that spoils three of five
// datagrams: what is answered 2.04 arrives once, and nothing arrives twice.
func TestEachPublishOnce(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	b := mustBridge(t, Options{})
	s := mustSpoil(t, b.addr, seed)
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("t/#", 1)
	const clients, each = 8, 25
	answered := make(chan string, clients*each)
	var wait sync.WaitGroup
	for c := range clients {
		d := dial(t, s.front.LocalAddr().String())
		wait.Go(func() {
			for i := range each {
				text := fmt.Sprintf("%d-%d", c, i)
				m := d.message(coap.Confirmable, codes.POST, fmt.Sprintf("t%d", i), "/ps/t/once", []byte(text))
				if d.confirm(m) == codes.Changed {
					answered <- text
				}
			}
		})
	}
	wait.Wait()
	close(answered)
	want := make(map[string]bool)
	for text := range answered {
		want[text] = true
	}
	if len(want) != clients*each {
		t.Errorf("%d of %d were answered", len(want), clients*each)
	}
	for range len(want) {
		p := sub.Receive().(*codec.Publish)
		if !want[string(p.Payload)] {
			t.Errorf("%q has come twice, or wasn't answered", p.Payload)
		}
		delete(want, string(p.Payload))
		sub.Acknowledge(p)
	}
	d := b.device()
	d.ask(codes.POST, "/ps/t/last", []byte("last"))
	sub.ExpectPublish("t/last", "last") // nothing came twice
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spoiled == 0 || b.metrics.CoAPDuplicates.Get() == 0 {
		t.Errorf("%d datagrams were spoiled, %d came again", s.spoiled, b.metrics.CoAPDuplicates.Get())
	}
}

// confirm sends a request until it is answered.
func (d *device) confirm(m coap.Message) codes.Code {
	buf := make([]byte, datagramMax)
	for range 100 {
		if _, err := d.conn.Write(encode(m)); err != nil {
			d.t.Error(err)
			return 0
		}
		_ = d.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		for {
			n, err := d.conn.Read(buf)
			if err != nil {
				break
			}
			if r, err := decode(buf[:n]); err == nil && r.Type == coap.Acknowledgement && r.MessageID == m.MessageID {
				return r.Code
			}
		}
	}
	return 0
}
