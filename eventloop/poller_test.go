package eventloop

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// mustStartBare starts loops without the engine's ticker, so that nothing wakes them but what the test does.
func mustStartBare(t *testing.T, loops int) []*Loop {
	t.Helper()
	e, err := New(Config{Engine: testEngine(), Loops: loops, Handler: &handler{}})
	if err != nil {
		t.Fatal(err)
	}
	e.mu.state = engineRunning
	for _, l := range e.loops {
		e.wg.Go(l.run)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return e.loops
}

// TestWake_NeverLost hands a token to and fro between two loops: what wakes one comes while it is about to fall asleep,
// having just woken the other. With one token nothing else would wake them, so a single wake that gets lost ends it.
func TestWake_NeverLost(t *testing.T) {
	for name, tokens := range map[string]int{"one": 1, "many": 16} {
		t.Run(name, func(t *testing.T) {
			const hops = 200_000
			type token struct{ left int }
			loops := mustStartBare(t, 2)
			var boxes [2]*Mailbox[*token]
			done := make(chan struct{}, tokens)
			var hop func(at *Loop, k *token)
			hop = func(at *Loop, k *token) {
				if k.left--; k.left < 0 {
					done <- struct{}{}
					return
				}
				next := loops[1-at.index]
				if k.left/2%2 == 0 {
					next.Post(func() { hop(next, k) })
				} else if !boxes[next.index].Push(k) {
					t.Error("Push was refused")
				}
			}
			for i, l := range loops {
				boxes[i] = NewMailbox(l, tokens, func(batch []*token) {
					for _, k := range batch {
						hop(l, k)
					}
				})
			}
			for range tokens {
				loops[0].Post(func() { hop(loops[0], &token{hops / tokens}) })
			}
			for range tokens {
				receive(t, "a token", done)
			}
		})
	}
}

// TestWake_FromGoroutines is the same for those who are on no loop, and wait at random moments.
func TestWake_FromGoroutines(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for name, goroutines := range map[string]int{"one": 1, "many": 8} {
		t.Run(name, func(t *testing.T) {
			const posts = 100_000
			l := mustStartBare(t, 1)[0]
			box := NewMailbox(l, goroutines, func(batch []chan int) {
				for _, heard := range batch {
					heard <- 0
				}
			})
			var wg sync.WaitGroup
			for g := range goroutines {
				wg.Go(func() {
					random := rand.New(rand.NewPCG(seed, uint64(g)))
					heard := make(chan int, 1)
					timeout := time.NewTimer(30 * time.Second)
					for i := range posts / goroutines {
						for range random.IntN(500) { // some of what the loop needs to fall asleep
						}
						if i%2 == 0 {
							l.Post(func() { heard <- 0 })
						} else if !box.Push(heard) {
							t.Error("Push was refused")
						}
						timeout.Reset(30 * time.Second)
						select {
						case <-heard:
						case <-timeout.C:
							t.Errorf("wake %d of goroutine %d was lost", i, g)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestTurn_OwnWorkWakesNobody has a loop do all that is put off to the end of a turn, and expects a turn to follow
// without a wake.
func TestTurn_OwnWorkWakesNobody(t *testing.T) {
	asleep := make(chan bool, 10)
	_, addr := mustStart(t, Config{Loops: 1, Handler: &handler{
		data: func(c *Conn, in []byte) {
			l := c.Loop()
			note := func() { asleep <- !l.scheduled.Load() }
			note()
			l.Post(note)
			l.AtTurnEnd(note)
			c.Write(in)
			c.Close(nil)
		},
		close: func(c *Conn, _ error) { asleep <- !c.Loop().scheduled.Load() },
	}})
	c := mustDial(t, addr)
	_, _ = c.Write([]byte("x"))
	mustRead(t, c, "x")
	for range 4 {
		if receive(t, "note", asleep) {
			t.Error("a loop at work would be woken by what it leaves to its turn")
		}
	}
}

// TestTurn_ComesAmongEvents keeps a socket readable all the time, by writing to its other end whenever it was read, and
// expects that turns come nevertheless.
func TestTurn_ComesAmongEvents(t *testing.T) {
	var feeder net.Conn // owned by the loop
	e, addr := mustStart(t, Config{Loops: 1, Handler: &handler{data: func(c *Conn, in []byte) {
		if feeder != nil {
			_, _ = feeder.Write(in)
		}
	}}})
	l, nc := e.Loops()[0], mustDial(t, addr)
	onLoop(l, func() { feeder = nc })
	_, _ = nc.Write([]byte("x"))
	for range 50 {
		before := e.Stats().Reads
		await(t, "events", func() bool { return e.Stats().Reads > before })
		ran := make(chan struct{})
		l.Post(func() { close(ran) })
		receive(t, "a turn", ran)
	}
	onLoop(l, func() { feeder = nil })
}
