package loopmq_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/internal/brokertest"
	"loopmq/store"
	"loopmq/store/memory"
)

// patience is how long tests wait for what must come: on a machine that does much else at the same time too.
const patience = 30 * time.Second

// eventually waits for a condition that other goroutines bring about.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("it doesn't come: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// receive takes a value that a callback or another goroutine sends.
func receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("it doesn't come: %s", what)
		panic("unreachable")
	}
}

// metricsOf returns the broker's metrics as a scraper sees them, by name with labels.
func metricsOf(t testing.TB, b *loopmq.Broker) map[string]float64 {
	t.Helper()
	var text bytes.Buffer
	b.Metrics().WritePrometheus(&text)
	values := make(map[string]float64)
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		values[line[:at]] = v
	}
	return values
}

// expectMetric waits until a metric has a value.
func expectMetric(t testing.TB, b *loopmq.Broker, name string, want float64) {
	t.Helper()
	got := math.NaN()
	for deadline := time.Now().Add(patience); got != want; {
		var ok bool
		if got, ok = metricsOf(t, b)[name]; !ok {
			t.Fatalf("there is no metric %s", name)
		}
		if got != want && time.Now().After(deadline) {
			t.Fatalf("%s: got %v, want %v", name, got, want)
		}
		<-time.After(time.Millisecond)
	}
}

// clock is a store's clock that a test sets ahead.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration // guarded by mu
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// startWithClock starts a broker whose store has a clock of its own. After it is set ahead, some client has to come or go for the broker to
// look at it at once.
func startWithClock(t testing.TB, options ...func(*loopmq.Options)) (*brokertest.Server, *clock) {
	t.Helper()
	c := &clock{}
	s := memory.New(memory.Options{Now: c.Now})
	t.Cleanup(func() { _ = s.Close() })
	return brokertest.Start(t, append([]func(*loopmq.Options){func(o *loopmq.Options) { o.Store = s }}, options...)...), c
}

// errInjected is what a faultyStore answers.
var errInjected = errors.New("injected fault")

// faultyStore is a store that can be told to fail, or to hold on, its commits and its claims.
type faultyStore struct {
	store.Store

	mu     sync.Mutex
	fail   func(*store.Batch) bool // guarded by mu; nil: none fails
	lose   func(*store.Batch) bool // guarded by mu; of which commits the answer is an error, though they are carried out
	claims error                   // guarded by mu
	lost   error                   // guarded by mu; the answer to claims, though they are made
	held   chan struct{}           // guarded by mu; commits wait until it is closed
}

func (s *faultyStore) failCommits(which func(*store.Batch) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = which
}

func (s *faultyStore) loseAnswers(which func(*store.Batch) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = which
}

func (s *faultyStore) failClaims(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims = err
}

// loseClaims makes err the answer to claims, though they are made.
func (s *faultyStore) loseClaims(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = err
}

// hold makes commits wait until release is called.
func (s *faultyStore) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := make(chan struct{})
	s.held = held
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held = nil
		close(held)
	})
}

func (s *faultyStore) NewWriter(name string) store.Writer {
	return &faultyWriter{Writer: s.Store.NewWriter(name), s: s}
}

func (s *faultyStore) Sessions() store.Sessions { return faultySessions{s.Store.Sessions(), s} }

type faultySessions struct {
	store.Sessions
	s *faultyStore
}

func (v faultySessions) Claim(ctx context.Context, c store.Claim) (store.Claimed, error) {
	v.s.mu.Lock()
	err, lost := v.s.claims, v.s.lost
	v.s.mu.Unlock()
	if err != nil {
		return store.Claimed{}, err
	}
	claimed, err := v.Sessions.Claim(ctx, c)
	if lost != nil {
		return store.Claimed{}, lost
	}
	return claimed, err
}

type faultyWriter struct {
	store.Writer
	s *faultyStore
}

func (w *faultyWriter) Commit(ctx context.Context, b *store.Batch) error {
	w.s.mu.Lock()
	held, fail, lose := w.s.held, w.s.fail, w.s.lose
	w.s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fail != nil && fail(b) {
		return errInjected
	}
	err := w.Writer.Commit(ctx, b)
	if err == nil && lose != nil && lose(b) {
		return errInjected
	}
	return err
}

// startWithFaults starts a broker whose store can fail.
func startWithFaults(t testing.TB, options ...func(*loopmq.Options)) (*brokertest.Server, *faultyStore) {
	t.Helper()
	f := &faultyStore{Store: memory.New(memory.Options{})}
	t.Cleanup(func() { _ = f.Close() })
	return brokertest.Start(t, append([]func(*loopmq.Options){func(o *loopmq.Options) { o.Store = f }}, options...)...), f
}

// newMemory returns a store that is closed when the test ends.
func newMemory(t testing.TB) store.Store {
	s := memory.New(memory.Options{})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// expectSession waits until what the store knows of a session is as wanted.
func expectSession(t testing.TB, s store.Store, clientID string, wanted func(store.Session) bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		se, err := s.Sessions().Lookup(t.Context(), clientID)
		if err == nil && wanted(se) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("session %s: %+v, %v", clientID, se, err)
		}
	}
}
