//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"loopmq/benchmarks/process"
)

// brief is how long most rounds of these tests measure.
const brief = 60 * time.Millisecond

// mustGenerate runs s once, for length, against the broker on port and returns what came of it.
func mustGenerate(t *testing.T, port int, target process.Process, version byte, s scenario, length time.Duration) (sample, error) {
	t.Helper()
	var stop atomic.Bool
	g, err := newGenerator(version, port, &stop)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	g.patience = time.Second
	return s.run(g, target, timing{warmUp: 20 * time.Millisecond, length: length, settled: 10 * time.Millisecond})
}

// small are the real scenarios with few clients, so that both tests and the fake broker stay quick.
func small() []scenario {
	all := append([]scenario(nil), scenarios...)
	for i := range all {
		all[i].publishers = min(all[i].publishers, 8)
		all[i].subscribers = min(all[i].subscribers, 8)
		if all[i].shape == connects {
			all[i].subscribers = 3 * connectsMax
		}
		all[i].rate = min(all[i].rate, 2000)
		all[i].lengths = min(all[i].lengths, 1)
	}
	return all
}

func TestEveryScenarioCountsWhatArrives(t *testing.T) {
	for _, version := range []byte{4, 5} {
		for _, s := range small() {
			t.Run(fmt.Sprintf("%s/version=%d", s.name, version), func(t *testing.T) {
				t.Parallel()
				got, err := mustGenerate(t, startFake(t, noFault), process.Process(os.Getpid()), version, s, brief)
				if err != nil {
					t.Fatal(err)
				}
				checkSample(t, s, got)
			})
		}
	}
}

// checkSample fails unless a round of s without errors has figures that can be.
func checkSample(t *testing.T, s scenario, got sample) {
	t.Helper()
	if got.Delivered == 0 || got.Delivered != got.Expected {
		t.Errorf("got %d of %d deliveries, want all", got.Delivered, got.Expected)
	}
	// A kernel may count a process's time when a tick or a switch comes, and a round may be shorter; 8 clients can fit into pages
	// that are there.
	if got.Rate <= 0 || got.BrokerMicros < 0 || got.GenMicros < 0 || got.GenCalls <= 0 || got.Value < 0 {
		t.Errorf("got %+v, want a rate, and costs that are not below 0", got)
	}
	if s.rate > 0 && (got.P50Micros <= 0 || got.P50Micros > got.P99Micros || got.P99Micros > got.P999Micros) {
		t.Errorf("got percentiles %v, %v, %v", got.P50Micros, got.P99Micros, got.P999Micros)
	}
}

func TestFaultsOfABrokerFailTheRound(t *testing.T) {
	byName := map[string]scenario{}
	for _, s := range small() {
		byName[s.name] = s
	}
	for _, c := range []struct {
		fault    fault
		scenario string
		want     string
	}{
		{dropDelivery, "p2p-qos0", "lost, doubled or out of order"},
		{dropDelivery, "p2p-qos1", "lost, doubled or out of order"},
		{dropDelivery, "p2p-qos2", "lost, doubled or out of order"},
		{dropDelivery, "p2p-qos0-single", "no progress"},
		{dropDelivery, "fan-in-qos0", "lost, doubled or out of order"},
		{dropDelivery, "fan-out-qos0", "lost, doubled or out of order"},
		{dropDelivery, "fan-out-qos1", "lost, doubled or out of order"},
		{dropDelivery, "shared-qos1", "no progress"},
		{dropDelivery, "latency-10k", "lost, doubled or out of order"},
		{doubleIt, "p2p-qos0", "lost, doubled or out of order"},
		{doubleIt, "shared-qos1", "publisher"},
		{swapIt, "p2p-qos0", "lost, doubled or out of order"},
		{changeQoS, "p2p-qos1", "PUBLISH with QoS 2"},
		{shorten, "p2p-qos0", "and 63 bytes"},
		{stranger, "p2p-qos0", "nobody sent"},
		{noAck, "p2p-qos1", "no progress"},
		{noAck, "p2p-qos2", "no progress"},
		{extraAck, "p2p-qos1", "unexpected packet type 4"},
		{failAck, "p2p-qos1", "Reason Code 0x97"},
		{hangUp, "p2p-qos0", "ended the connection"},
		{garbage, "p2p-qos0", "malformed"},
		{odd, "p2p-qos0", "unexpected packet type 1"},
		{refuse, "idle", "CONNACK with code 0x05"},
		{refuseSub, "idle", "SUBACK with code 0x80"},
		{mute, "connect", "didn't get through CONNECT"},
		{early, "connect", "before the session was set up"},
	} {
		t.Run(fmt.Sprintf("%s/%s", c.fault, c.scenario), func(t *testing.T) {
			t.Parallel()
			s := byName[c.scenario]
			if c.fault == doubleIt && s.shape == shared {
				s.publishers, s.window = 1, 1 // the second copy then has nothing that it could pass for
			}
			if c.fault == swapIt || s.window == 1 {
				s.publishers, s.subscribers = 1, 1 // the next message is the same publisher's, or there is none
			}
			_, err := mustGenerate(t, startFake(t, c.fault), process.Process(os.Getpid()), 4, s, brief)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// A broker that stands still must be charged for all messages that were due meanwhile, not just for the one that it held.
func TestOpenLoopCountsFromTheTimeAMessageWasDue(t *testing.T) {
	for _, s := range small() {
		if s.rate == 0 {
			continue
		}
		got, err := mustGenerate(t, startFake(t, stall), process.Process(os.Getpid()), 4, s, 3*stallTime)
		if err != nil {
			t.Fatal(err)
		}
		// stallAt is due at the end of the warm-up: a third of the messages measured came due during the stall.
		if want := stallTime.Seconds() * 1e6 / 2; got.P99Micros < want {
			t.Errorf("got p99 %v µs, want at least %v", got.P99Micros, want)
		}
	}
}

func TestReceiveMaximumBoundsTheWindow(t *testing.T) {
	var stop atomic.Bool
	g, err := newGenerator(5, startFake(t, noFault), &stop)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	f, err := newFlow(g, scenario{shape: p2p, publishers: 1, subscribers: 1, qos: 1, window: 32})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.publishers[0].window; got != 7 {
		t.Errorf("got a window of %d, want the 7 of CONNACK", got)
	}
}

func TestStopEndsARound(t *testing.T) {
	var stop atomic.Bool
	g, err := newGenerator(4, startFake(t, noFault), &stop)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	f, err := newFlow(g, small()[0])
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { stop.Store(true) })
	if _, err := f.run(process.Process(os.Getpid()), time.Minute, time.Minute); !errors.Is(err, errStopped) {
		t.Errorf("got error %v, want %v", err, errStopped)
	}
}

func TestVerifyComparesNumbersWithWhatWasSent(t *testing.T) {
	f := &flow{perMessage: 2, publishers: []publisher{{}, {number: 3, delivered: 6, sum: 6}, {number: 4, delivered: 8, sum: 12}}}
	if err := f.verify(); err != nil {
		t.Fatal(err)
	}
	f.publishers[2].sum++ // one came twice instead of another
	if err := f.verify(); err == nil {
		t.Error("got no error for a wrong sum")
	}
	f.publishers[2].sum--
	f.publishers[1].delivered--
	if err := f.verify(); err == nil {
		t.Error("got no error for a missing delivery")
	}
}

// A message costs the generator no allocation, so that no collection of its own garbage disturbs a round.
func TestMessageAllocatesNothing(t *testing.T) {
	for qos := range byte(3) {
		g := &generator{version: 4}
		f := &flow{scenario: scenario{shape: p2p, qos: qos, window: 1}, g: g, publishers: make([]publisher, 1), perMessage: 1}
		p, sub := &f.publishers[0], &conn{}
		p.conn, p.window = &conn{client: client{publisher: p}}, 1
		p.template, p.idAt, p.payloadAt = publishTemplate(4, qos, "t", payloadBytes)
		binary.BigEndian.PutUint32(p.template[p.payloadAt:], 0)
		exchange := func() {
			f.wake(p)
			f.turn()
			first, body, _, err := nextPacket(p.conn.out)
			if err == nil {
				err = f.packet(sub, first, body)
			}
			if err == nil && qos > 0 {
				err = f.packet(p.conn, []byte{0, typePuback, typePubcomp}[qos], body[:2])
			}
			if err == nil && qos == 2 {
				err = f.packet(sub, typePubrel, body[:2])
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range g.dirty {
				c.dirty, c.out = false, c.out[:0]
			}
			g.dirty = g.dirty[:0]
		}
		if got := testing.AllocsPerRun(100, exchange); got != 0 {
			t.Errorf("QoS %d: got %v allocations per message, want 0", qos, got)
		}
		if f.delivered != 101 || f.unacked != 0 {
			t.Errorf("QoS %d: got %d deliveries and %d open handshakes, want 101 and 0", qos, f.delivered, f.unacked)
		}
	}
}

// recorder is a handler that keeps what it is given.
type recorder struct{ packets []string }

func (r *recorder) packet(_ *conn, first byte, body []byte) error {
	r.packets = append(r.packets, string(first)+string(body))
	return nil
}

func (r *recorder) turn() {}

func TestReadJoinsAPacketThatCameInPieces(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	var got recorder
	g := &generator{version: 4, buffer: make([]byte, readBytes), handler: &got}
	c := &conn{fd: pair[0], state: ready}
	sent := appendAck(appendAck(appendAck(nil, typePuback, []byte{0, 1}), typePuback, []byte{0, 2}), typePuback, []byte{0, 3})
	for _, b := range [][]byte{sent[:1], sent[1:7], sent[7:8], sent[8:]} {
		if _, err := unix.Write(pair[1], b); err != nil {
			t.Fatal(err)
		}
		if err := g.read(c); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"@\x00\x01", "@\x00\x02", "@\x00\x03"}; !slices.Equal(got.packets, want) {
		t.Errorf("got packets %q, want %q", got.packets, want)
	}
}

// A socket that takes only a part gets the rest when it has room, in order.
func TestFlushGoesOnWithAPartialWrite(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	var stop atomic.Bool
	g, err := newGenerator(4, 0, &stop)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	c := &conn{fd: pair[0], state: ready}
	g.conns = append(g.conns, c)
	if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 4<<20)
	for i := range want {
		want[i] = byte(i >> 8)
	}
	c.out = append(c.out, want...)
	g.markDirty(c)
	var got []byte
	chunk := make([]byte, 64<<10)
	for deadline := g.now() + int64(10*time.Second); len(got) < len(want); {
		if err := g.turn(turnMax); err != nil {
			t.Fatal(err)
		}
		n, err := unix.Read(pair[1], chunk)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		got = append(got, chunk[:max(n, 0)]...)
		if g.now() > deadline {
			t.Fatalf("got %d of %d bytes", len(got), len(want))
		}
	}
	if !bytes.Equal(got, want) || c.blocked || len(c.out) != 0 {
		t.Errorf("got other bytes, or %d left", len(c.out))
	}
}

// A generator that comes late sends what is due at once, each message with its own time.
func TestLateMessagesKeepTheTimeTheyWereDue(t *testing.T) {
	g := &generator{version: 4}
	f := &flow{g: g, publishers: make([]publisher, 1), perMessage: 1, period: int64(time.Second)}
	p := &f.publishers[0]
	p.conn = &conn{}
	p.template, p.idAt, p.payloadAt = publishTemplate(4, 0, "t", payloadBytes)
	first := g.now() - 3*f.period - f.period/2
	f.due = first
	f.turn()
	size := len(p.template)
	if got := len(p.conn.out); got != 4*size {
		t.Fatalf("got %d bytes, want 4 messages of %d", got, size)
	}
	for i := range 4 {
		at := p.conn.out[i*size+p.payloadAt+dueAt:]
		if got, want := int64(binary.BigEndian.Uint64(at)), first+int64(i)*f.period; got != want {
			t.Errorf("message %d: got due %d, want %d", i, got, want)
		}
	}
}
