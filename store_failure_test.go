package loopmq_test

import (
	"errors"
	"strings"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
	"loopmq/store/memory"
)

// publishesWill reports whether a batch publishes a Will.
func publishesWill(b *store.Batch) bool {
	for i := range b.Ops {
		if b.Ops[i].WillOf != nil {
			return true
		}
	}
	return false
}

// hasOp returns a function that reports whether a batch has an operation of a kind.
func hasOp(k store.OpKind) func(*store.Batch) bool {
	return func(b *store.Batch) bool {
		for i := range b.Ops {
			if b.Ops[i].Kind == k {
				return true
			}
		}
		return false
	}
}

// startWithClockAndFaults starts a broker whose store has a clock of its own and can fail.
func startWithClockAndFaults(t testing.TB) (*brokertest.Server, *clock, *faultyStore) {
	t.Helper()
	c := &clock{}
	f := &faultyStore{Store: memory.New(memory.Options{Now: c.Now})}
	t.Cleanup(func() { _ = f.Close() })
	return brokertest.Start(t, func(o *loopmq.Options) { o.Store = f }), c, f
}

// A Will whose publication can't be stored has not been published: nobody sees it before it is, and then it comes once.
func TestWillComesOnceAfterFailures(t *testing.T) {
	t.Parallel()
	for name, will := range map[string]brokertest.ConnectOption{
		"at once": brokertest.Will("will", "w", 1, false),
		"delayed": brokertest.Will("will", "w", 1, false, codec.PropWillDelayInterval, 5),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, clock, f := startWithClockAndFaults(t)
			var watchers []*brokertest.Client
			for qos := range byte(3) {
				w := brokertest.Connect(t, s.Addr, codec.V5)
				w.Subscribe("will", qos)
				watchers = append(watchers, w)
			}
			group := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("group"))
			group.Subscribe("$share/g/will", 1)
			group.Disconnect()
			c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"), will)
			tries := make(chan struct{}, 100)
			f.failCommits(func(b *store.Batch) bool {
				if publishesWill(b) {
					tries <- struct{}{}
					return true
				}
				return false
			})
			c.Close()
			expectMetric(t, s.Broker, "loopmq_clients_connected", 3)
			clock.advance(10e9)
			brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("x")).Close() // so that the broker looks
			for range 9 {                                                            // a batch is tried four times
				<-tries
			}
			for _, w := range watchers {
				w.ExpectNothing()
			}
			if n := metricsOf(t, s.Broker)["loopmq_wills_published_total"]; n != 0 {
				t.Errorf("%v Wills count as published", n)
			}
			f.failCommits(nil)
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			for _, w := range watchers {
				w.Acknowledge(w.ExpectPublish("will", "w"))
				w.ExpectNothingFrom(pub, 0)
			}
			expectMetric(t, s.Broker, "loopmq_wills_published_total", 1)
			expectCountersAddUp(t, s.Broker, [3]float64{1: 1}) // the group's
		})
	}
}

// A Will for which the store has no room comes once there is some, and meanwhile the broker does not try it all the time.
func TestWillWaitsForRoom(t *testing.T) {
	t.Parallel()
	st := memory.New(memory.Options{MaxBytes: 2000})
	t.Cleanup(func() { _ = st.Close() })
	tries := make(chan struct{}, 1000)
	f := &faultyStore{Store: st, fail: func(b *store.Batch) bool {
		if publishesWill(b) {
			tries <- struct{}{}
		}
		return false
	}}
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store = f })
	d := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("d"))
	d.Subscribe("fill", 1)
	d.Subscribe("will", 1)
	d.Disconnect()
	watcher := brokertest.Connect(t, s.Addr, codec.V5)
	watcher.Subscribe("will", 0)
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Will("will", strings.Repeat("w", 100), 1, false))
	brokertest.Connect(t, s.Addr, codec.V5).Publish("fill", strings.Repeat("f", 1800), 1)
	// Another Will, since those are never refused.
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Will("other", strings.Repeat("w", 1000), 1, false))
	c.Close()
	<-tries
	<-tries
	<-tries // a second after the one before
	watcher.ExpectNothing()
	if n := len(tries); n > 5 {
		t.Errorf("the broker tried %d times more at once", n)
	}
	d = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("d"))
	d.Acknowledge(d.ExpectPublish("fill", strings.Repeat("f", 1800)))
	watcher.ExpectPublish("will", strings.Repeat("w", 100))
	d.Acknowledge(d.ExpectPublish("will", strings.Repeat("w", 100)))
	expectCountersAddUp(t, s.Broker, [3]float64{})
	for len(tries) > 0 {
		<-tries
	}
}

// The end of a connection that the store did not take is told again: else its Will would never come, and its session never end.
func TestEndOfConnectionIsToldAgain(t *testing.T) {
	t.Parallel()
	s, clock, f := startWithClockAndFaults(t)
	watcher := brokertest.Connect(t, s.Addr, codec.V5)
	watcher.Subscribe("will", 0)
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"), brokertest.Will("will", "w", 1, false, codec.PropWillDelayInterval, 5))
	failed := make(chan struct{}, 100)
	offline := hasOp(store.OpOffline)
	f.failCommits(func(b *store.Batch) bool {
		if offline(b) {
			failed <- struct{}{}
			return true
		}
		return false
	})
	c.Close()
	for range 4 {
		<-failed
	}
	f.failCommits(nil)
	expectSession(t, f, "c", func(se store.Session) bool { return se.Owner == "" && !se.Due.IsZero() })
	clock.advance(10e9)
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("x")).Close()
	watcher.ExpectPublish("will", "w")
}

// The same for a session that ends with its connection.
func TestEndOfSessionIsToldAgain(t *testing.T) {
	t.Parallel()
	s, f := startWithFaults(t)
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	c.Subscribe("t", 1)
	failed := make(chan struct{}, 100)
	ends := hasOp(store.OpEndSession)
	f.failCommits(func(b *store.Batch) bool {
		if ends(b) {
			failed <- struct{}{}
			return true
		}
		return false
	})
	c.Send(&codec.Disconnect{Properties: brokertest.Properties(codec.PropSessionExpiryInterval, 0)})
	for range 4 {
		<-failed
	}
	f.failCommits(nil)
	expectMetric(t, s.Broker, "loopmq_sessions", 0)
	if _, err := f.Sessions().Lookup(t.Context(), "c"); !errors.Is(err, store.ErrGone) {
		t.Errorf("the session is in the store: %v", err)
	}
}

// A takeover that is not carried through does not cancel the Will of the connection that it ended.
func TestAbortedTakeoverLeavesWill(t *testing.T) {
	t.Parallel()
	s, clock, f := startWithClockAndFaults(t)
	watcher := brokertest.Connect(t, s.Addr, codec.V5)
	watcher.Subscribe("will", 0)
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"), brokertest.Will("will", "w", 0, false, codec.PropWillDelayInterval, 5))
	f.failClaims(errInjected)
	c := brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.Durable("c"))
	c.ExpectConnack(codec.ServerUnavailable)
	f.failClaims(nil)
	clock.advance(10e9)
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("x")).Close()
	watcher.ExpectPublish("will", "w")
	// One that is carried through does [MQTT-3.1.3-9].
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"), brokertest.Will("will", "w", 0, false, codec.PropWillDelayInterval, 5))
	c = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"))
	clock.advance(10e9)
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("x")).Close()
	watcher.ExpectNothingFrom(c, 0)
}

// A claim that was made, but whose answer is lost, is given up: the session is offline, or ends, as if the connection had come and gone.
func TestClaimWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	s, f := startWithFaults(t)
	watcher := brokertest.Connect(t, s.Addr, codec.V5)
	watcher.Subscribe("will", 1)
	will := brokertest.Will("will", "w", 1, false) // of a client that was refused
	resume := func(p *codec.Connect) { p.CleanStart = false }
	// before is a session that the claim resumes, or ends.
	before := func(clientID string) {
		c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable(clientID))
		c.Subscribe("t", 1)
		c.Disconnect()
		expectMetric(t, s.Broker, "loopmq_clients_connected", 1)
	}
	refused := func(options ...brokertest.ConnectOption) {
		f.loseClaims(errInjected)
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect(options...)
		c.ExpectConnack(codec.ServerUnavailable)
		f.loseClaims(nil)
	}
	gone := func(clientID string) {
		t.Helper()
		eventually(t, "the end of "+clientID, func() bool {
			_, err := f.Sessions().Lookup(t.Context(), clientID)
			return errors.Is(err, store.ErrGone)
		})
	}
	offline := func(se store.Session) bool { return se.Owner == "" && !se.Due.IsZero() }

	refused(brokertest.Durable("new"), will)
	expectSession(t, f, "new", offline)
	refused(brokertest.ClientID("new, without a session"), will)
	gone("new, without a session")

	before("resumed")
	refused(brokertest.Durable("resumed"), will)
	expectSession(t, f, "resumed", offline)
	c := brokertest.Dial(t, s.Addr, codec.V5)
	if p := c.Connect(brokertest.Durable("resumed")); !p.SessionPresent {
		t.Error("the session is gone")
	}
	c.Disconnect()

	before("resumed, to end")
	refused(brokertest.ClientID("resumed, to end"), resume, will)
	gone("resumed, to end")
	before("ended")
	refused(brokertest.ClientID("ended"), will)
	gone("ended")
	eventually(t, "no subscriptions but the watcher's and one that was resumed", func() bool { return s.Broker.Health().Subscriptions == 2 })
	if p := brokertest.Dial(t, s.Addr, codec.V5).Connect(brokertest.Durable("resumed, to end")); p.SessionPresent {
		t.Error("the session is there")
	}

	// One that has been claimed again meanwhile is left alone.
	refused(brokertest.Durable("again"))
	again := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("again"))
	refused(brokertest.Durable("other")) // whose end comes later than that of the first would have
	expectSession(t, f, "other", offline)
	expectSession(t, f, "again", func(se store.Session) bool { return se.Owner != "" })
	again.Ping()
	watcher.ExpectNothingFrom(again, 1)
}
