package eventloop

import (
	"bytes"
	"slices"
	"sync"
	"testing"
)

func TestPost_Order(t *testing.T) {
	const goroutines, each = 8, 5000
	e, _ := mustStart(t, Config{Loops: 2, Handler: &handler{}})
	l := e.Loops()[1]
	got := make([][]int, goroutines) // owned by the loop
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				l.Post(func() { got[g] = append(got[g], i) })
			}
		})
	}
	wg.Wait()
	onLoop(l, func() {
		for g := range got {
			if len(got[g]) != each || !slices.IsSorted(got[g]) {
				t.Errorf("goroutine %d: %d of %d functions ran, in order: %v", g, len(got[g]), each, slices.IsSorted(got[g]))
			}
		}
	})
}

func TestPost_FromItsLoop(t *testing.T) {
	e, _ := mustStart(t, Config{Loops: 1, Handler: &handler{}})
	l := e.Loops()[0]
	order := make(chan int, 2)
	l.Post(func() {
		l.Post(func() { order <- 2 })
		order <- 1
	})
	if a, b := receive(t, "first", order), receive(t, "second", order); a != 1 || b != 2 {
		t.Errorf("got %d, %d", a, b)
	}
}

// lateMailbox posts a function when the loop looks whether there is more to do, after it has looked for functions: the
// moment in which a wake could get lost.
type lateMailbox struct {
	loop *Loop
	post func()
}

func (m *lateMailbox) Len() int {
	if f := m.post; f != nil && m.loop.controls.Load() == 0 {
		m.post = nil
		m.loop.Post(f)
	}
	return 0
}

func (*lateMailbox) deliver() {}
func (*lateMailbox) close()   {}

func TestPost_WakesAlways(t *testing.T) {
	e, err := New(Config{Engine: testEngine(), Loops: 1, Handler: &handler{}})
	if err != nil {
		t.Fatal(err)
	}
	l := e.Loops()[0]
	ran := make(chan struct{})
	l.addMailbox(&lateMailbox{l, func() { close(ran) }})
	l.scheduled.Store(true) // as it is while the loop is awake
	if l.fallAsleep() && !l.scheduled.Load() {
		t.Error("a function waits, the loop sleeps, and nobody woke it")
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestTurn_GivesWay keeps a loop busy with posts from itself and from others, and expects it to read still.
func TestTurn_GivesWay(t *testing.T) {
	e, addr := mustStart(t, Config{Loops: 1, Handler: &handler{data: echo}})
	l := e.Loops()[0]
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	var again func()
	again = func() {
		if !stopped() {
			l.Post(again)
		}
	}
	l.Post(again)
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stopped() {
			onLoop(l, func() {})
		}
	})
	c := mustDial(t, addr)
	for range 50 {
		_, _ = c.Write([]byte("heard"))
		mustRead(t, c, "heard")
	}
	close(stop)
	wg.Wait()
}

func TestAtTurnEnd_Order(t *testing.T) {
	opened := make(chan *Conn, 1)
	e, addr := mustStart(t, Config{Loops: 1, Handler: &handler{open: func(c *Conn) { opened <- c }}})
	l := e.Loops()[0]
	nc := mustDial(t, addr)
	c := receive(t, "OnOpen", opened)
	before := e.Stats().Writes

	m := NewMailbox(l, 10, func(batch []string) {
		for _, s := range batch {
			c.Write([]byte(s))
		}
	})
	onLoop(l, func() {
		l.AtTurnEnd(func() { c.Write([]byte("end1 ")) })
		l.AtTurnEnd(func() { c.Write([]byte("end2")) })
		m.Push("mailbox ")
		c.Write([]byte("function "))
	})
	mustRead(t, nc, "function mailbox end1 end2")
	onLoop(l, func() {}) // the turn is over
	if got := e.Stats().Writes - before; got != 1 {
		t.Errorf("%d writes for one turn", got)
	}
}

func TestMailbox_Bound(t *testing.T) {
	e, _ := mustStart(t, Config{Loops: 1, Handler: &handler{}})
	l := e.Loops()[0]
	var batches [][]int // owned by the loop
	m := NewMailbox(l, 10, func(batch []int) { batches = append(batches, slices.Clone(batch)) })

	blocked, release := make(chan struct{}), make(chan struct{})
	l.Post(func() {
		close(blocked)
		<-release
	})
	<-blocked
	for i := range 4 {
		if !m.Push(i) {
			t.Fatalf("value %d was refused", i)
		}
	}
	if got := m.PushAll([]int{4, 5, 6, 7, 8, 9, 10, 11}); got != 6 {
		t.Errorf("PushAll took %d, want 6", got)
	}
	if m.Push(12) || m.PushAll([]int{13}) != 0 {
		t.Error("a full mailbox took more")
	}
	if got := m.Len(); got != 10 {
		t.Errorf("Len is %d", got)
	}
	close(release)
	onLoop(l, func() {}) // drained in the same turn, or in the one before
	onLoop(l, func() {
		if len(batches) != 1 || !slices.Equal(batches[0], []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}) {
			t.Errorf("got %v", batches)
		}
	})
	if !m.Push(14) {
		t.Error("a drained mailbox refused a value")
	}
}

func TestMailbox_AcrossLoops(t *testing.T) {
	const producers, each = 4, 20000
	e, _ := mustStart(t, Config{Loops: 2, Handler: &handler{}})
	type value struct{ producer, number int }
	next := make([]int, producers)
	done := make(chan struct{})
	drained := 0
	m := NewMailbox(e.Loops()[1], 256, func(batch []value) {
		for _, v := range batch {
			if next[v.producer] != v.number {
				t.Errorf("producer %d: got %d, want %d", v.producer, v.number, next[v.producer])
			}
			next[v.producer] = v.number + 1
		}
		if drained += len(batch); drained == producers*each {
			close(done)
		}
	})
	for p := range producers {
		go func() {
			for n := 0; n < each; {
				if p%2 == 0 {
					if m.Push(value{p, n}) {
						n++
					}
					continue
				}
				n += m.PushAll([]value{{p, n}, {p, n + 1}}[:min(2, each-n)])
			}
		}()
	}
	receive(t, "all values", done)
	if got := e.Stats().Loops[1].Turns; got > producers*each {
		t.Errorf("%d turns for %d values", got, producers*each)
	}
}

func TestMailbox_AfterStop(t *testing.T) {
	e, err := New(Config{Engine: testEngine(), Loops: 1, Handler: &handler{}})
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	m := NewMailbox(e.Loops()[0], 10, func(batch []int) { got += len(batch) })
	if !m.Push(1) {
		t.Error("Push was refused before Start")
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.Push(2) || m.PushAll([]int{3}) != 0 {
		t.Error("a stopped loop took a value")
	}
	if got != 1 {
		t.Errorf("%d values were drained, want 1", got)
	}
}

func TestLoop_Nanotime(t *testing.T) {
	times := make(chan int64, 1)
	_, addr := mustStart(t, Config{Loops: 1, Handler: &handler{
		data: func(c *Conn, in []byte) { times <- c.Loop().Nanotime() },
	}})
	c := mustDial(t, addr)
	last := int64(0)
	for range 10 {
		_, _ = c.Write([]byte("x"))
		now := receive(t, "OnData", times)
		if now <= last {
			t.Errorf("time went from %d to %d", last, now)
		}
		last = now
	}
}

// TestBuffers_Trimmed checks that buffers nobody needs are let go of.
func TestBuffers_Trimmed(t *testing.T) {
	e, _ := mustStart(t, Config{Loops: 1, Handler: &handler{}})
	l := e.Loops()[0]
	onLoop(l, func() {
		var borrowed []*output
		for range 100 {
			o := l.borrow()
			o.buf = append(o.buf, bytes.Repeat([]byte("x"), 1000)...)
			borrowed = append(borrowed, o)
		}
		for _, o := range borrowed {
			l.giveBack(o)
		}
		big := l.borrow()
		big.buf = make([]byte, 0, keepBuffer+1)
		l.giveBack(big)
		if len(l.free) != 99 {
			t.Errorf("%d buffers are kept, want 99", len(l.free))
		}
		l.freeLow = 0
		for range 20 {
			l.trim()
		}
		if len(l.free) != 0 || l.freeBytes != 0 {
			t.Errorf("%d buffers with %d bytes are kept", len(l.free), l.freeBytes)
		}
	})
}
