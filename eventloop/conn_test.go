package eventloop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"loopmq/internal/invariants"
)

// mustConnect starts an engine with one loop, connects to it and returns both ends.
func mustConnect(t testing.TB, cfg Config) (*Engine, *Conn, *net.TCPConn) {
	t.Helper()
	opened := make(chan *Conn, 1)
	h := cfg.Handler.(*handler)
	h.open = func(c *Conn) { opened <- c }
	cfg.Loops = 1
	e, addr := mustStart(t, cfg)
	nc := mustDial(t, addr)
	return e, receive(t, "OnOpen", opened), nc
}

// TestWrite_Coalesces counts the system calls of a turn.
func TestWrite_Coalesces(t *testing.T) {
	const peers, packets = 10, 64
	opened := make(chan *Conn, peers)
	e, addr := mustStart(t, Config{Loops: 1, Handler: &handler{open: func(c *Conn) { opened <- c }}})
	var ncs []*net.TCPConn
	var cs []*Conn
	for range peers {
		ncs = append(ncs, mustDial(t, addr))
		cs = append(cs, receive(t, "OnOpen", opened))
	}
	before := e.Stats()
	onLoop(e.Loops()[0], func() {
		for i := range packets {
			for _, c := range cs {
				b := c.BeginWrite()
				b = append(b, 'p', byte(i))
				c.EndWrite(b)
			}
		}
	})
	var want []byte
	for i := range packets {
		want = append(want, 'p', byte(i))
	}
	for _, nc := range ncs {
		mustRead(t, nc, string(want))
	}
	onLoop(e.Loops()[0], func() {}) // the turn is over
	after := e.Stats()
	if got := after.Writes - before.Writes; got != peers {
		t.Errorf("%d packets for %d peers took %d writes, want %d", packets, peers, got, peers)
	}
	if got := after.BytesOut - before.BytesOut; got != peers*2*packets {
		t.Errorf("%d bytes were counted", got)
	}
	for i, c := range cs {
		onLoop(e.Loops()[0], func() {
			if c.out != nil || c.Buffered() != 0 {
				t.Errorf("idle connection %d owns a buffer", i)
			}
		})
	}
}

func TestWrite_Large(t *testing.T) {
	e, c, nc := mustConnect(t, Config{Handler: &handler{}, MaxOutputBytes: 64 << 20})
	payload := make([]byte, 32<<20)
	for i := range len(payload) / 8 {
		binary.LittleEndian.PutUint64(payload[8*i:], uint64(i))
	}
	go onLoop(e.Loops()[0], func() {
		c.Write([]byte("head"))
		c.Write(payload)
		c.Write([]byte("tail"))
		c.Close(nil)
	})
	got, err := io.ReadAll(nc)
	want := "head" + string(payload) + "tail"
	if err != nil || string(got) != want {
		t.Errorf("got %d bytes and %v, want %d", len(got), err, len(want))
	}
}

func TestWrite_Nothing(t *testing.T) {
	e, c, _ := mustConnect(t, Config{Handler: &handler{}})
	before := e.Stats().Writes
	onLoop(e.Loops()[0], func() {
		c.EndWrite(c.BeginWrite())
		c.Write(nil)
	})
	onLoop(e.Loops()[0], func() {
		if c.out != nil {
			t.Error("a buffer is kept for nothing")
		}
	})
	if got := e.Stats().Writes - before; got != 0 {
		t.Errorf("%d system calls for nothing", got)
	}
}

// TestOutputOverflow has a reader that doesn't read among others that do.
func TestOutputOverflow(t *testing.T) {
	const limit = 1 << 20
	closes := make(chan error, 1)
	opened := make(chan *Conn, 1)
	e, addr := mustStart(t, Config{Loops: 1, MaxOutputBytes: limit, Handler: &handler{
		open:  func(c *Conn) { opened <- c },
		close: func(c *Conn, err error) { closes <- err },
	}})
	l := e.Loops()[0]
	slowEnd := mustDial(t, addr)
	slow := receive(t, "OnOpen", opened)
	fastEnd := mustDial(t, addr)
	fast := receive(t, "OnOpen", opened)

	chunk := bytes.Repeat([]byte("x"), 8<<10)
	read := make(chan int)
	go func() {
		n, _ := io.Copy(io.Discard, fastEnd)
		read <- int(n)
	}()
	written, most := 0, 0
	for len(closes) == 0 {
		onLoop(l, func() {
			for range 8 {
				slow.Write(chunk)
			}
			most = max(most, slow.Buffered())
			if fast.Room(len(chunk)) {
				fast.Write(chunk)
				written += len(chunk)
			}
		})
	}
	if err := receive(t, "OnClose", closes); !errors.Is(err, ErrOutputOverflow) {
		t.Errorf("OnClose: %v", err)
	}
	if most > limit+64<<10 {
		t.Errorf("%d bytes were buffered, the limit is %d", most, limit)
	}
	await(t, "the file is closed", func() bool { return e.Stats().Connections == 1 })
	if got := e.Stats().OutputOverflows; got != 1 {
		t.Errorf("%d overflows were counted", got)
	}
	onLoop(l, func() {
		if slow.out != nil {
			t.Error("the buffer was not given back")
		}
		fast.Close(nil)
	})
	if got := receive(t, "EOF", read); got != written {
		t.Errorf("the fast reader got %d bytes of %d", got, written)
	}
	// The kernel was told not to keep what it has for the slow one.
	if _, err := io.Copy(io.Discard, slowEnd); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the slow reader got %v, want a reset", err)
	}
}

func TestOutputOverflow_SmallLimit(t *testing.T) {
	closes := make(chan error, 1)
	e, c, _ := mustConnect(t, Config{MaxOutputBytes: 1000, Handler: &handler{close: func(_ *Conn, err error) { closes <- err }}})
	for len(closes) == 0 {
		onLoop(e.Loops()[0], func() { c.Write(make([]byte, 600)) })
	}
	if err := receive(t, "OnClose", closes); !errors.Is(err, ErrOutputOverflow) {
		t.Errorf("OnClose: %v", err)
	}
}

// TestRoom_Drain fills the output as far as Room allows, and goes on at OnDrain: nothing is lost, nothing overflows.
func TestRoom_Drain(t *testing.T) {
	const total = 24 << 20
	sent := 0 // owned by the loop
	drains := 0
	more := func(c *Conn) {
		for sent < total && c.Room(8) {
			c.EndWrite(binary.BigEndian.AppendUint64(c.BeginWrite(), uint64(sent)))
			sent += 8
		}
		if sent == total {
			c.Close(nil)
		}
	}
	e, c, nc := mustConnect(t, Config{MaxOutputBytes: 256 << 10, Handler: &handler{drain: func(c *Conn) {
		drains++
		more(c)
	}}})
	onLoop(e.Loops()[0], func() { more(c) })
	got, err := io.ReadAll(nc)
	if err != nil || len(got) != total {
		t.Fatalf("got %d bytes and %v, want %d", len(got), err, total)
	}
	for i := range total / 8 {
		if v := binary.BigEndian.Uint64(got[8*i:]); v != uint64(8*i) {
			t.Fatalf("got %d at %d", v, 8*i)
		}
	}
	onLoop(e.Loops()[0], func() {
		if drains == 0 {
			t.Error("OnDrain was not called")
		}
		if c.Room(1) {
			t.Error("a closed connection has room")
		}
	})
}

// TestRoom_FlushesFirst writes more than the bound in one turn, which the socket takes.
func TestRoom_FlushesFirst(t *testing.T) {
	e, c, nc := mustConnect(t, Config{MaxOutputBytes: 10_000, Handler: &handler{}})
	onLoop(e.Loops()[0], func() {
		for i := range 30 {
			if !c.Room(1000) {
				t.Errorf("no room after %d messages", i)
				return
			}
			c.EndWrite(append(c.BeginWrite(), make([]byte, 1000)...))
		}
	})
	mustRead(t, nc, string(make([]byte, 30_000)))
	if got := e.Stats().OutputOverflows; got != 0 {
		t.Errorf("%d overflows", got)
	}
}

// TestRoom_Oversized admits one message that exceeds the bound by itself, written in two parts.
func TestRoom_Oversized(t *testing.T) {
	const limit = 64 << 10
	closes := make(chan error, 1)
	e, c, nc := mustConnect(t, Config{MaxOutputBytes: limit, Handler: &handler{
		close: func(_ *Conn, err error) { closes <- err },
	}})
	_ = nc.SetReadBuffer(64 << 10) // else the kernel may raise it until it takes the whole payload
	l := e.Loops()[0]
	payload := bytes.Repeat([]byte("oversize"), 2<<20)
	onLoop(l, func() {
		if !c.Room(4 + len(payload)) {
			t.Error("an idle connection has no room for one message")
		}
		c.EndWrite(append(c.BeginWrite(), "head"...))
		c.Write(payload)
		if c.Room(1) || c.Room(1+len(payload)) {
			t.Error("there is room for more while it waits")
		}
	})
	mustRead(t, nc, "head"+string(payload))
	onLoop(l, func() {}) // drained
	onLoop(l, func() {
		if c.Buffered() != 0 || c.out != nil {
			t.Errorf("%d bytes wait, output %+v", c.Buffered(), c.out)
		}
		if !c.Room(1 + len(payload)) { // of which nothing comes
			t.Error("no room when all is sent")
		}
	})
	onLoop(l, func() {
		if c.out != nil {
			t.Error("the bound is raised for a message that never came")
		}
		c.Write(payload) // without asking
	})
	if err := receive(t, "OnClose", closes); !errors.Is(err, ErrOutputOverflow) {
		t.Errorf("OnClose: %v", err)
	}
}

// TestPause pauses and resumes at random while the peer sends, and expects each byte once and in order. It does so too
// in the way of a poller that can't pause.
func TestPause(t *testing.T) {
	for name, can := range map[string]bool{"poller": true, "stash": false} {
		t.Run(name, func(t *testing.T) {
			setPollerCanPause(t, can)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))

			const total = 4 << 20
			var got []byte
			ended := make(chan error, 1)
			h := &handler{
				data: func(c *Conn, in []byte) {
					if c.state&paused != 0 {
						t.Error("OnData while paused")
					}
					got = append(got, in...)
					c.Write(in[:1]) // output on the side
					if r.IntN(3) == 0 {
						c.Pause()
						c.Pause() // changes nothing
					}
				},
				close: func(_ *Conn, err error) { ended <- err },
			}
			e, c, nc := mustConnect(t, Config{Handler: h, ReadBufferBytes: 8 << 10})
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = io.Copy(io.Discard, nc) })
			wg.Go(func() {
				for n := 0; n < total; n += 4096 {
					b := make([]byte, 4096)
					for i := range b {
						b[i] = byte((n + i) >> 3)
					}
					if _, err := nc.Write(b); err != nil {
						t.Error(err)
						return
					}
					if !can { // what is stashed is bounded, so the peer waits
						await(t, "input was taken", func() bool {
							var have int
							onLoop(e.Loops()[0], func() {
								if c.state&closing == 0 {
									c.Resume()
									c.Resume()
								}
								have = len(got)
							})
							return have >= n-stashLimit/2
						})
					}
				}
				_ = nc.CloseWrite()
			})
			done := make(chan struct{})
			var resumer sync.WaitGroup
			resumer.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						onLoop(e.Loops()[0], c.Resume)
					}
				}
			})
			if err := receive(t, "OnClose", ended); err != nil {
				t.Errorf("OnClose: %v", err)
			}
			close(done)
			resumer.Wait()
			wg.Wait()
			if len(got) != total {
				t.Fatalf("got %d bytes, want %d", len(got), total)
			}
			for i, b := range got {
				if b != byte(i>>3) {
					t.Fatalf("byte %d is %d, want %d", i, b, byte(i>>3))
				}
			}
		})
	}
}

func setPollerCanPause(t *testing.T, can bool) {
	before := pollerCanPause
	if can && !before {
		t.Skip("the poller can't pause")
	}
	pollerCanPause = can
	t.Cleanup(func() { pollerCanPause = before })
}

// TestPause_BackPressure expects a paused peer to get stuck, while output to it flows.
func TestPause_BackPressure(t *testing.T) {
	setPollerCanPause(t, true)
	e, c, nc := mustConnect(t, Config{Handler: &handler{data: func(*Conn, []byte) { t.Error("OnData while paused") }}})
	onLoop(e.Loops()[0], c.Pause)
	_ = nc.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	n, err := nc.Write(make([]byte, 64<<20))
	if !errors.Is(err, syscall.ETIMEDOUT) && !isTimeout(err) {
		t.Fatalf("wrote %d bytes: %v", n, err)
	}
	if got := e.Stats(); got.BytesIn != 0 {
		t.Errorf("%d bytes were read", got.BytesIn)
	}
	payload := bytes.Repeat([]byte("down"), 2<<20/4)
	half := len(payload) / 2
	onLoop(e.Loops()[0], func() { c.Write(payload[:half]) })
	onLoop(e.Loops()[0], func() { c.Write(payload[half:]) })
	mustRead(t, nc, string(payload))
	onLoop(e.Loops()[0], func() { c.Close(nil) })
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// TestPause_StashOrder has input between Resume and the delivery of what was stashed, which happens when the handler of
// another connection resumes this one.
func TestPause_StashOrder(t *testing.T) {
	setPollerCanPause(t, false)
	var got []byte
	var ended bool
	e, c, _ := mustConnect(t, Config{Engine: Gnet, Handler: &handler{
		data: func(c *Conn, in []byte) {
			if got = append(got, in...); string(got) == "12" {
				c.Pause() // again, within the delivery
			}
		},
		close: func(*Conn, error) { ended = true },
	}})
	l := e.Loops()[0]
	onLoop(l, func() {
		c.Pause()
		l.input(c, []byte("1"))
		c.Resume()
		l.input(c, []byte("2"))
	})
	onLoop(l, func() {
		l.input(c, []byte("3"))
		c.Resume()
		l.input(c, []byte("4"))
		l.endOfInput(c)
		if c.state&closing != 0 {
			t.Error("closed before the stash was delivered")
		}
	})
	onLoop(l, func() {
		if string(got) != "1234" || !ended {
			t.Errorf("got %q, ended: %v", got, ended)
		}
	})
}

func TestPause_StashBound(t *testing.T) {
	setPollerCanPause(t, false)
	closes := make(chan error, 1)
	e, c, nc := mustConnect(t, Config{Engine: Gnet, Handler: &handler{close: func(_ *Conn, err error) { closes <- err }}})
	onLoop(e.Loops()[0], c.Pause)
	_, _ = nc.Write(make([]byte, 2*stashLimit))
	if err := receive(t, "OnClose", closes); !errors.Is(err, ErrInputOverflow) {
		t.Errorf("OnClose: %v", err)
	}
	if got := e.Stats().InputOverflows; got != 1 {
		t.Errorf("%d overflows were counted", got)
	}
	onLoop(e.Loops()[0], func() {
		if len(e.Loops()[0].stashes) != 0 {
			t.Error("the stash was not dropped")
		}
	})
}

// TestClose_Rules checks what OnClose gets, that it comes once and not from inside a call, and that nothing is
// delivered or sent after Close.
func TestClose_Rules(t *testing.T) {
	errFirst, errSecond := errors.New("first"), errors.New("second")
	inside := false
	closes := make(chan error, 2)
	h := &handler{data: func(c *Conn, in []byte) {
		inside = true
		c.Write([]byte("bye"))
		c.Close(errFirst)
		c.Close(errSecond)
		c.Write([]byte("not sent"))
		c.Write(make([]byte, 2*copyLimit))
		c.Pause()
		c.Resume()
		inside = false
	}}
	h.close = func(c *Conn, err error) {
		if inside {
			t.Error("OnClose was called from inside OnData")
		}
		if c.Context() != "mine" {
			t.Errorf("Context is %v", c.Context())
		}
		c.Write([]byte("not sent either"))
		c.Close(errSecond)
		closes <- err
	}
	e, c, nc := mustConnect(t, Config{Handler: h})
	onLoop(e.Loops()[0], func() { c.SetContext("mine") })
	_, _ = nc.Write([]byte("x"))
	got, err := io.ReadAll(nc)
	if string(got) != "bye" || err != nil {
		t.Errorf("got %q and %v", got, err)
	}
	if err := receive(t, "OnClose", closes); !errors.Is(err, errFirst) {
		t.Errorf("OnClose: %v", err)
	}
	_, _ = nc.Write([]byte("more"))
	_ = nc.Close()
	await(t, "the file is closed", func() bool { return e.Stats().Connections == 0 })
	onLoop(e.Loops()[0], func() {
		if c.Context() != nil {
			t.Error("the context outlives OnClose")
		}
	})
	if len(closes) != 0 {
		t.Error("OnClose was called twice")
	}
}

func TestClose_ByPeer(t *testing.T) {
	closes := make(chan error, 1)
	e, addr := mustStart(t, Config{Loops: 1, Handler: &handler{
		data:  echo,
		close: func(_ *Conn, err error) { closes <- err },
	}})
	c := mustDial(t, addr)
	_ = c.Close()
	if err := receive(t, "OnClose", closes); err != nil {
		t.Errorf("end of stream: %v", err)
	}
	c = mustDial(t, addr)
	_, _ = c.Write([]byte("x"))
	mustRead(t, c, "x")
	_ = c.SetLinger(0)
	_ = c.Close()
	if err := receive(t, "OnClose", closes); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: %v", err)
	}
	await(t, "files are closed", func() bool { return e.Stats().Connections == 0 })
}

// TestClose_AnswersHalfClose has a peer that sends, shuts down its side and reads the answer.
func TestClose_AnswersHalfClose(t *testing.T) {
	_, _, nc := mustConnect(t, Config{MaxOutputBytes: 32 << 20, Handler: &handler{data: func(c *Conn, in []byte) {
		c.Write(bytes.Repeat(in, 8<<20))
	}}})
	_, _ = nc.Write([]byte("a"))
	_ = nc.CloseWrite()
	got, err := io.ReadAll(nc)
	if len(got) != 8<<20 || err != nil {
		t.Errorf("got %d bytes and %v", len(got), err)
	}
}

// TestClose_Tells closes a peer that floods, and expects it to be able to read why.
func TestClose_Tells(t *testing.T) {
	for range 20 {
		_, _, nc := mustConnect(t, Config{ReadBufferBytes: 4096, Handler: &handler{data: func(c *Conn, in []byte) {
			c.Write([]byte("you talk too much"))
			c.Close(errors.New("flood"))
		}}})
		_, _ = nc.Write(make([]byte, 256<<10))
		got, err := io.ReadAll(nc)
		if string(got) != "you talk too much" || err != nil {
			t.Fatalf("got %q and %v", got, err)
		}
		_ = nc.Close()
	}
}

// TestClose_Timeouts checks that a peer can't hold a closed connection for long, whether it doesn't read or doesn't
// close.
func TestClose_Timeouts(t *testing.T) {
	t.Parallel()
	opened := make(chan *Conn, 2)
	closes := make(chan error, 2)
	e, addr := mustStart(t, Config{Loops: 1, MaxOutputBytes: 32 << 20, Handler: &handler{
		open:  func(c *Conn) { opened <- c },
		close: func(_ *Conn, err error) { closes <- err },
	}})
	errWhy := errors.New("why")
	begin := time.Now()
	fastest := time.Hour
	for range 5 {
		mustDial(t, addr)
		c := receive(t, "OnOpen", opened)
		asked := time.Now()
		onLoop(e.Loops()[0], func() {
			c.Close(errWhy) // and the peer doesn't close
		})
		if err := receive(t, "OnClose", closes); !errors.Is(err, errWhy) {
			t.Errorf("OnClose: %v", err)
		}
		fastest = min(fastest, time.Since(asked))
	}
	if fastest > lingerTimeout/2 {
		t.Errorf("OnClose took %v", fastest)
	}
	mustDial(t, addr)
	c := receive(t, "OnOpen", opened)
	onLoop(e.Loops()[0], func() {
		c.Write(make([]byte, 16<<20)) // and the peer doesn't read
		c.Close(nil)
	})
	receive(t, "OnClose", closes)
	await(t, "the others are closed", func() bool { return e.Stats().Connections == 1 })
	if since := time.Since(begin); since < lingerTimeout {
		t.Errorf("closed after %v, want %v", since, lingerTimeout)
	}
	await(t, "the second is closed", func() bool { return e.Stats().Connections == 0 })
	if since := time.Since(begin); since < closeTimeout {
		t.Errorf("closed after %v, want %v", since, closeTimeout)
	}
}

// TestClose_WriteFails closes while a write fails, before and after OnClose.
func TestClose_WriteFails(t *testing.T) {
	closes := make(chan error, 2)
	e, c, nc := mustConnect(t, Config{MaxOutputBytes: 32 << 20, Handler: &handler{
		close: func(_ *Conn, err error) { closes <- err },
	}})
	l := e.Loops()[0]
	onLoop(l, func() {
		c.Write(make([]byte, 16<<20))
		c.Close(nil)
	})
	if err := receive(t, "OnClose", closes); err != nil {
		t.Errorf("OnClose: %v", err)
	}
	_ = nc.SetLinger(0)
	_ = nc.Close()
	await(t, "the file is closed", func() bool { return e.Stats().Connections == 0 })

	e, c, nc = mustConnect(t, Config{Handler: &handler{
		close: func(_ *Conn, err error) { closes <- err },
	}})
	onLoop(e.Loops()[0], func() {
		c.Pause() // so that the failure is seen by a write only
	})
	_ = nc.SetLinger(0)
	_ = nc.Close()
	for len(closes) == 0 {
		onLoop(e.Loops()[0], func() { c.Write(make([]byte, copyLimit)) })
	}
	if err := receive(t, "OnClose", closes); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("OnClose: %v", err)
	}
	await(t, "the file is closed", func() bool { return e.Stats().Connections == 0 })
	if len(closes) != 0 {
		t.Error("OnClose was called twice")
	}
}

func TestOnData_BufferIsOverwritten(t *testing.T) {
	if !invariants.Enabled {
		t.Skip("needs -tags invariants")
	}
	kept := make(chan []byte, 1)
	e, _, nc := mustConnect(t, Config{Handler: &handler{data: func(_ *Conn, in []byte) { kept <- in }}})
	_, _ = nc.Write([]byte("gone"))
	in := receive(t, "OnData", kept)
	onLoop(e.Loops()[0], func() {
		if !bytes.Equal(in, []byte{0xCC, 0xCC, 0xCC, 0xCC}) {
			t.Errorf("got %q", in)
		}
	})
}

// TestAllocations holds the path of a message: input, output to another connection, flush.
func TestAllocations(t *testing.T) {
	e, c, nc := mustConnect(t, Config{Handler: &handler{}})
	go func() { _, _ = io.Copy(io.Discard, nc) }()
	l := e.Loops()[0]
	packet := make([]byte, 64)
	m := NewMailbox(l, 16, func(batch []*Conn) {
		for _, c := range batch {
			c.Write(packet)
		}
	})
	onLoop(l, func() {
		got := testing.AllocsPerRun(1000, func() {
			m.Push(c)
			m.deliver()
			c.EndWrite(append(c.BeginWrite(), packet...))
			l.flushDirty()
		})
		if got != 0 {
			t.Errorf("%v allocations per message", got)
		}
	})
}
