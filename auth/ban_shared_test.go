package auth

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/redistest"
	"loopmq/metrics"
	"loopmq/redisstore"
	"loopmq/store"
	"loopmq/store/memory"
	"loopmq/store/pebble"
)

func enforce(t *testing.T, b *Bans, broker *loopmq.Broker) {
	t.Helper()
	if err := b.Enforce(t.Context(), broker); err != nil {
		t.Fatal(err)
	}
}

// lift removes a ban, and reports whether there was one.
func lift(t *testing.T, b *Bans, kind BanKind, value string) bool {
	t.Helper()
	removed, err := b.Remove(t.Context(), kind, value)
	if err != nil {
		t.Fatal(err)
	}
	return removed
}

func banSoon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("it doesn't come: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// nodes are two brokers on one store, each with Bans of its own.
type banNode struct {
	*brokertest.Server
	bans *Bans
	set  *metrics.Set
}

func startBanNode(t *testing.T, st store.Store, o BansOptions) banNode {
	t.Helper()
	n := banNode{set: metrics.New(2)}
	o.Metrics, o.Logger = n.set, slog.New(slog.DiscardHandler)
	n.bans = mustBans(t, o)
	n.Server = brokertest.Start(t, func(o *loopmq.Options) {
		o.Store, o.Metrics, o.Loops = st, n.set, 2
		o.Recorder, o.RefuseAddress = n.bans.Recorder(), n.bans.Banned
		o.Settings.Authenticator = n.bans.Authenticator(nil)
	})
	enforce(t, n.bans, n.Broker)
	return n
}

func TestBansOfAllNodes(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) [2]store.Store{
		"memory": func(*testing.T) [2]store.Store {
			h := memory.NewHub(memory.Options{})
			return [2]store.Store{h.Open(), h.Open()}
		},
		"redis": func(t *testing.T) (views [2]store.Store) {
			url := redistest.Start(t).URL() + "?lease=3s"
			for i := range views {
				s, err := redisstore.NewStore(t.Context(), url, redisstore.Options{Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				views[i] = s
			}
			return views
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			views := open(t)
			early := Ban{Kind: BanUsername, Value: "early", Reason: "before the others came"}
			a := startBanNode(t, views[0], BansOptions{Max: 4})
			if err := a.bans.Add(t.Context(), early); err != nil {
				t.Fatal(err)
			}
			b := startBanNode(t, views[1], BansOptions{Max: 4, Flapping: BanRule{Times: 2, Window: time.Hour, For: time.Hour}})
			if l := b.bans.List(); len(l) != 1 || l[0].Value != "early" || l[0].Reason != early.Reason || l[0].Source != metrics.BanOperator {
				t.Errorf("a node that starts has %+v", l)
			}

			// A client of one node is banned at the other.
			c := brokertest.Connect(t, b.Addr, codec.V5, brokertest.ClientID("c"))
			until := time.Now().Add(time.Hour)
			if err := a.bans.Add(t.Context(), Ban{Kind: BanClientID, Value: "c", Until: until}); err != nil {
				t.Fatal(err)
			}
			c.ExpectDisconnect(codec.AdministrativeAction)
			for _, n := range []banNode{a, b} {
				c := brokertest.Dial(t, n.Addr, codec.V5)
				c.SendConnect(brokertest.ClientID("c"))
				c.ExpectConnack(codec.Banned)
				if l := n.bans.List(); len(l) != 2 || l[0].Until.UnixMilli() != until.UnixMilli() {
					t.Errorf("got %+v", l)
				}
				if added := n.set.Auth.BansAdded[metrics.BanOperator].Get(); added > 2 {
					t.Errorf("%d bans were counted", added)
				}
			}
			if !lift(t, b.bans, BanClientID, "c") {
				t.Error("there was nothing to remove")
			}
			banSoon(t, "the other node knows", func() bool { return len(a.bans.List()) == 1 })
			if lift(t, a.bans, BanClientID, "c") {
				t.Error("removed twice")
			}
			brokertest.Connect(t, a.Addr, codec.V5, brokertest.ClientID("c"))

			// What a rule of one node finds.
			for range 2 {
				brokertest.Connect(t, b.Addr, codec.V5, brokertest.ClientID("flaps")).Close()
			}
			banSoon(t, "the other node bans it too", func() bool {
				l := a.bans.List()
				return len(l) == 2 && l[0].Value == "flaps" && l[0].Source == metrics.BanFlapping
			})

			// An address: nothing is said any more, nor is a handshake made.
			if err := a.bans.Add(t.Context(), Ban{Kind: BanAddress, Value: "127.0.0.0/8"}); err != nil {
				t.Fatal(err)
			}
			banSoon(t, "the address is banned at the other", func() bool { return b.bans.Banned(netip.MustParseAddr("127.0.0.1")) })
			for _, n := range []banNode{a, b} {
				brokertest.Dial(t, n.Addr, codec.V5).ExpectClosed()
			}
			if err := a.bans.Add(t.Context(), Ban{Kind: BanUsername, Value: "fourth"}); err != nil {
				t.Fatal(err)
			}
			if err := b.bans.Add(t.Context(), Ban{Kind: BanUsername, Value: "fifth"}); !errors.Is(err, ErrBansFull) {
				t.Errorf("one too many: %v", err)
			}
		})
	}
}

// Bans are in force again when a node has been declared dead and is back.
func TestBansAfterExpulsion(t *testing.T) {
	t.Parallel()
	h := memory.NewHub(memory.Options{})
	a, b := startBanNode(t, h.Open(), BansOptions{}), startBanNode(t, h.Open(), BansOptions{})
	former := b.Broker.Health().Node
	h.Pause() // it doesn't hear
	if err := a.bans.Add(t.Context(), Ban{Kind: BanUsername, Value: "u"}); err != nil {
		t.Fatal(err)
	}
	h.Expel(former)
	h.Resume()
	banSoon(t, "it is back, and knows", func() bool { return b.Broker.Health().Node != former && len(b.bans.List()) == 1 })
}

func TestBansSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clock := newClock()
	for run := range 3 {
		st, err := pebble.Open(pebble.Options{Dir: dir, Now: clock.now})
		if err != nil {
			t.Fatal(err)
		}
		b := mustBans(t, BansOptions{Now: clock.now})
		broker, err := loopmq.New(loopmq.Options{Store: st, Logger: discard, SysInterval: -1})
		if err == nil {
			err = broker.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		enforce(t, b, broker)
		switch l := b.List(); run {
		case 0:
			for _, ban := range []Ban{{Kind: BanUsername, Value: "u"}, {Kind: BanClientID, Value: "c", Until: clock.now().Add(time.Minute)}} {
				if err := b.Add(t.Context(), ban); err != nil {
					t.Fatal(err)
				}
			}
		case 1:
			if len(l) != 2 {
				t.Errorf("after a restart there are %+v", l)
			}
			clock.advance(time.Minute)
		case 2:
			if stored, err := st.Bans().List(t.Context(), "", 10); len(l) != 1 || err != nil || len(stored) != 1 || stored[0].Value != "u" {
				t.Errorf("when one is over there are %+v, and stored %+v, %v", l, stored, err)
			}
		}
		if err := errors.Join(broker.Shutdown(t.Context()), st.Close()); err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
}

// What is over is removed from the store too, unless it was put again.
func TestBansThatAreOverLeaveTheStore(t *testing.T) {
	t.Parallel()
	clock := newClock()
	st := memory.New(memory.Options{Now: clock.now})
	b := mustBans(t, BansOptions{Now: clock.now})
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store = st })
	enforce(t, b, s.Broker)
	for i := range 3 {
		if err := b.Add(t.Context(), Ban{Kind: BanUsername, Value: fmt.Sprint(i), Until: clock.now().Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
	}
	again := store.Ban{Kind: "username", Value: "1", Until: clock.now().Add(time.Hour), Source: "operator"}
	if err := st.Bans().Put(t.Context(), again, 10); err != nil {
		t.Fatal(err)
	}
	clock.advance(time.Minute)
	b.sweep()
	left, err := st.Bans().List(t.Context(), "", 10)
	if err != nil || len(left) != 1 || left[0] != again || len(b.List()) != 0 {
		t.Errorf("left are %+v, %v; here %+v", left, err, b.List())
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Add(t.Context(), Ban{Kind: BanUsername, Value: "late"}); err == nil {
		t.Error("it was added though the store is closed")
	}
	if _, err := b.Remove(t.Context(), BanUsername, "late"); err == nil {
		t.Error("it was removed though the store is closed")
	}
}
