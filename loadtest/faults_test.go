//go:build linux

package loadtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/loadtest"
)

// TestFaultsOfABroker has each fault of a broker found, and called by its name.
func TestFaultsOfABroker(t *testing.T) {
	t.Parallel()
	again := func(p *codec.Publish) [][]byte {
		b := p.Append(nil, codec.V5)
		return [][]byte{b, b}
	}
	every := func(n int, spoil func(p *codec.Publish) [][]byte) func(p *codec.Publish) [][]byte {
		count := 0
		return func(p *codec.Publish) [][]byte {
			if count++; count%n == 0 {
				return spoil(p)
			}
			return [][]byte{p.Append(nil, codec.V5)}
		}
	}
	// overtaken has every fifth message come behind the next.
	overtaken := func() func(p *codec.Publish) [][]byte {
		count, held := 0, []byte(nil)
		return func(p *codec.Publish) [][]byte {
			packets := [][]byte{p.Append(nil, codec.V5)}
			if count++; count%5 == 0 {
				held = packets[0]
				return nil
			}
			if held != nil {
				packets, held = append(packets, held), nil
			}
			return packets
		}
	}
	for name, test := range map[string]struct {
		fake  *fake
		qos   byte
		audit func(*loadtest.Audit) bool // nil: nothing is broken
		err   string                     // of the run
		what  string                     // an ErrorGroup
		lost  bool                       // a client, for good
	}{
		"in order":           {},
		"in order, QoS 1":    {qos: 1},
		"refused":            {fake: &fake{connack: codec.Connack{ReasonCode: 0x87}}, err: "CONNACK 0x87"},
		"subscription fails": {fake: &fake{suback: 0x80}, what: "protocol: SUBACK with code 0x80 for QoS 0", lost: true},
		"doubles at QoS 0": {fake: &fake{deliver: every(5, again)}, audit: func(a *loadtest.Audit) bool {
			return a.QoS[0].Promised.Duplicated > 0 && a.QoS[0].MayDrop.Lost == 0
		}},
		"doubles at QoS 1": {qos: 1, fake: &fake{deliver: every(5, again)}, audit: func(a *loadtest.Audit) bool {
			return a.QoS[1].Promised.Duplicated > 0 && a.QoS[1].Promised.Lost == 0
		}},
		"loses at QoS 1": {qos: 1, fake: &fake{deliver: every(5, func(*codec.Publish) [][]byte { return nil })}, audit: func(a *loadtest.Audit) bool {
			return a.QoS[1].Promised.Lost > 0 && a.QoS[1].Promised.Duplicated == 0
		}},
		"reorders at QoS 0": {fake: &fake{deliver: overtaken()}, audit: func(a *loadtest.Audit) bool {
			return a.QoS[0].Promised.Reordered > 0 && a.QoS[0].Promised.Duplicated == 0
		}},
		"reorders at QoS 1": {qos: 1, fake: &fake{deliver: overtaken()}, audit: func(a *loadtest.Audit) bool {
			return a.QoS[1].Promised.Reordered > 0 && a.QoS[1].Promised.Duplicated == 0
		}},
		"changes content": {fake: &fake{deliver: every(5, func(p *codec.Publish) [][]byte {
			p.Payload = append(bytes.Clone(p.Payload[:len(p.Payload)-1]), '!')
			return [][]byte{p.Append(nil, codec.V5)}
		})}, audit: func(a *loadtest.Audit) bool { return a.QoS[0].Promised.Corrupted > 0 }, what: "a payload that nobody sent"},
		"changes the publisher": {fake: &fake{deliver: every(5, func(p *codec.Publish) [][]byte {
			p.Payload = bytes.Clone(p.Payload)
			p.Payload[0] ^= 0x40
			return [][]byte{p.Append(nil, codec.V5)}
		})}, audit: func(a *loadtest.Audit) bool { return a.QoS[0].Promised.Corrupted > 0 }, what: "a payload that nobody sent"},
		"changes the QoS": {qos: 1, fake: &fake{deliver: func(p *codec.Publish) [][]byte {
			p.QoS, p.PacketID = 0, 0
			return [][]byte{p.Append(nil, codec.V5)}
		}}, what: "delivered with QoS 0"},
		"refuses messages":       {qos: 1, fake: &fake{puback: 0x97, refuses: true}, what: "PUBACK 0x97"},
		"malformed":              {fake: &fake{deliver: every(5, func(*codec.Publish) [][]byte { return [][]byte{{0x30, 1, 0}} })}, what: "the broker sent a malformed packet", lost: true},
		"too large":              {fake: &fake{deliver: every(5, func(*codec.Publish) [][]byte { return [][]byte{{0x30, 0xFF, 0xFF, 0xFF, 0x7F}} })}, what: "the broker sent a malformed packet", lost: true},
		"unexpected":             {fake: &fake{deliver: every(5, func(*codec.Publish) [][]byte { return [][]byte{{0x40, 2, 0, 1}} })}, what: "protocol: unexpected packet type 4", lost: true},
		"disconnects":            {fake: &fake{deliver: every(5, func(*codec.Publish) [][]byte { return [][]byte{{0xE0, 1, 0x8B}} })}, what: "DISCONNECT 0x8B by the broker", lost: true},
		"doesn't answer PINGREQ": {fake: &fake{mute: true}, what: "no PINGRESP", lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := test.fake
			if f == nil {
				f = new(fake)
			}
			if f.suback == 0 {
				f.suback = codec.ReasonCode(test.qos)
			}
			s := &loadtest.Scenario{
				Shape: loadtest.P2P, Pairs: 1, QoS: test.qos, Rate: 200, Version: 5, Duration: 500 * time.Millisecond, Drain: time.Second,
				Targets: []string{f.start(t)},
			}
			if test.audit == nil && !test.lost { // nothing is missing, which a slow machine may need time for
				s.Drain = 20 * time.Second
			}
			if f.mute { // both for the interval of the pings and the wait for their answers
				s.KeepAlive, s.Duration, s.Rate = time.Second, 4*time.Second, 0.5
			}
			r, err := loadtest.Run(t.Context(), s, loadtest.Options{})
			if test.err != "" {
				if !errors.Is(err, loadtest.ErrConnect) || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want something about %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if broken := test.audit != nil; r.Broken() != broken || broken && !test.audit(&r.Audit) {
				t.Errorf("broken %v, audit %+v", r.Broken(), r.Audit)
			}
			found := test.what == "" && len(r.Errors) == 0
			for _, g := range r.Errors {
				found = found || g.What == test.what && g.Count > 0 && g.Example != ""
			}
			if !found {
				t.Errorf("errors: %v, want %q", r.Errors, test.what)
			}
			if got := slices.Contains(r.Failures(), fmt.Sprintf("%d clients were lost for good", r.Totals.Gone)); got != test.lost {
				t.Errorf("%d clients are gone, failures %q: want that %v", r.Totals.Gone, r.Failures(), test.lost)
			}
		})
	}
}

// TestLargeMessages sends more at a time than a socket takes.
func TestLargeMessages(t *testing.T) {
	t.Parallel()
	for qos := range byte(2) {
		f := &fake{suback: codec.ReasonCode(qos)}
		s := &loadtest.Scenario{
			Shape: loadtest.P2P, Pairs: 1, QoS: qos, Version: 5, Payload: 12 << 20, Window: 2, Targets: []string{f.start(t)}, Duration: 50 * time.Millisecond,
		}
		r := play(t, s, loadtest.Options{})
		clean(t, r)
		if r.Audit.QoS[qos].Promised.Expected+r.Audit.QoS[qos].MayDrop.Expected == 0 {
			t.Errorf("QoS %d: no message came", qos)
		}
	}
}

// TestReconnect has clients thrown out all the time, while the audit goes on.
func TestReconnect(t *testing.T) {
	t.Parallel()
	for _, durable := range []bool{false, true} {
		for _, qos := range []byte{1, 2} {
			for _, shape := range []loadtest.Shape{loadtest.P2P, loadtest.Shared, loadtest.Retained, loadtest.FanIn} {
				if qos == 2 && shape != loadtest.P2P {
					continue
				}
				t.Run(fmt.Sprintf("%s/durable=%v/qos=%d", shape, durable, qos), func(t *testing.T) {
					t.Parallel()
					reconnect(t, shape, durable, qos)
				})
			}
		}
	}
}

func reconnect(t *testing.T, shape loadtest.Shape, durable bool, qos byte) {
	broker := brokertest.Start(t)
	const clients = 4
	s := &loadtest.Scenario{
		Shape: shape, Pairs: clients, Publishers: clients, Subscribers: clients, Topics: 20, QoS: qos, Version: 5,
		Durable: durable, DurablePublishers: durable, Reconnect: true, ReconnectJitter: 20 * time.Millisecond, ClientID: "{role}-{i}",
		Duration: 200 * time.Millisecond, Targets: []string{"tcp://" + broker.Addr}, Window: 8,
	}
	if shape == loadtest.Shared || shape == loadtest.FanIn {
		s.Rate = 1000
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	begin := make(chan struct{})
	go func() {
		defer close(done)
		<-begin
		r := rand.New(rand.NewPCG(uint64(qos), 1))
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				_ = broker.Broker.Kick(ctx, fmt.Sprintf("%s-%d", []string{"pub", "sub"}[r.IntN(2)], r.IntN(clients)))
			}
		}
	}()
	if !durable {
		s.Drain = 3 * time.Second // something is always lost
	}
	r := play(t, s, loadtest.Options{
		Started: func(context.Context) (time.Time, error) { close(begin); return time.Time{}, nil },
		Progress: func(s loadtest.Second) {
			if s.Phase == "measure" { // no more from now on, so that all comes to an end
				cancel()
			}
		},
	})
	cancel()
	<-done
	if r.Broken() {
		t.Errorf("audit: %+v", r.Audit)
	}
	if r.Totals.Reconnects == 0 {
		t.Errorf("nobody connected again: %+v", r.Totals)
	}
	promised, free := r.Audit.Promised(), r.Audit.MayDrop()
	// When a member without a session is lost, what only it had is, and nobody knows what that was.
	if promised.Expected == 0 && (durable || shape != loadtest.Shared) {
		t.Errorf("nothing was promised: %+v", r.Audit)
	}
	if durable && (free.Expected > 0 || free.Lost > 0) && shape != loadtest.Retained {
		t.Errorf("with sessions that outlive connections: %+v", free)
	}
	for _, g := range r.Errors {
		if strings.Contains(g.What, "lost a durable session") || strings.Contains(g.What, "malformed") {
			t.Errorf("errors: %v", r.Errors)
		}
	}
}
