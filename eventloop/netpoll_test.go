package eventloop

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// numbered returns bytes of which no two neighbouring kilobytes are the same.
func numbered(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return p
}

// TestNetpoll_PausedInputIsBounded has a peer send all it can to a connection that is paused, and end the stream when it
// goes on. What netpoll takes meanwhile has a bound, and nothing gets lost or out of order when the connection is given
// back to it, again and again.
func TestNetpoll_PausedInputIsBounded(t *testing.T) {
	const total = 16 << 20
	want := numbered(total)
	var got []byte
	closes := make(chan error, 1)
	e, c, nc := mustConnect(t, Config{Engine: Netpoll, Handler: &handler{
		data: func(c *Conn, in []byte) {
			got = append(got, in...)
			if len(got)%7 == 0 { // in the middle of what was taken, too
				c.Pause()
				c.Loop().Post(c.Resume)
			}
		},
		close: func(_ *Conn, err error) { closes <- err },
	}})
	l := e.Loops()[0]
	onLoop(l, c.Pause)
	sent := make(chan error, 1)
	go func() {
		_, err := nc.Write(want)
		sent <- errors.Join(err, nc.CloseWrite())
	}()
	var s *inlet
	onLoop(l, func() { s = l.inlets[c] })
	taken := func() (waiting int, attached bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.mu.waiting, s.mu.attached != nil
	}
	await(t, "detached", func() bool { waiting, attached := taken(); return waiting > 0 && !attached }) // to begin with it isn't either
	if waiting, _ := taken(); waiting < inletLimit || waiting > 4*inletLimit {
		t.Errorf("%d bytes were taken of a connection that is paused, the limit is %d", waiting, inletLimit)
	}
	select {
	case err := <-sent:
		t.Fatalf("all was sent: %v", err)
	default:
	}
	onLoop(l, func() {
		if len(got) != 0 {
			t.Error("OnData while paused")
		}
		c.Resume()
	})
	if err := receive(t, "all to be sent", sent); err != nil {
		t.Error(err)
	}
	if err := receive(t, "OnClose", closes); err != nil {
		t.Errorf("OnClose: %v", err)
	}
	onLoop(l, func() {
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes that aren't the %d that were sent", len(got), len(want))
		}
	})
}

// TestNetpoll_EndWhilePaused expects the end behind the bytes, and an answer to reach a peer that has ended its half.
func TestNetpoll_EndWhilePaused(t *testing.T) {
	closes := make(chan error, 1)
	e, c, nc := mustConnect(t, Config{Engine: Netpoll, Handler: &handler{data: echo, close: func(_ *Conn, err error) { closes <- err }}})
	l := e.Loops()[0]
	onLoop(l, c.Pause)
	_, _ = nc.Write([]byte("question"))
	_ = nc.CloseWrite()
	var s *inlet
	onLoop(l, func() { s = l.inlets[c] })
	await(t, "the end", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.mu.ended
	})
	if len(closes) != 0 {
		t.Error("closed while paused")
	}
	onLoop(l, c.Resume)
	if got, err := io.ReadAll(nc); string(got) != "question" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := receive(t, "OnClose", closes); err != nil {
		t.Errorf("OnClose: %v", err)
	}
}

// TestNetpoll_Churn has connections of two engines come and go in all ways at once, so that file numbers are soon used
// again: each peer gets its own bytes and nobody else's, and nothing is left.
func TestNetpoll_Churn(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var engines [2]*Engine
	var addrs [2]string
	for i := range engines {
		engines[i], addrs[i] = mustStart(t, Config{Engine: Netpoll, Loops: 2, Handler: &handler{data: func(c *Conn, in []byte) {
			c.Write(in)
			if in[len(in)-1] == 'x' {
				c.Close(nil)
			}
		}}})
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 200 {
				nc, err := net.Dial("tcp", addrs[random.IntN(2)])
				if err != nil {
					t.Error(err)
					return
				}
				want := bytes.Repeat([]byte{'A' + byte(g)}, 1+random.IntN(3*inletLimit))
				if way := random.IntN(4); way == 0 {
					want[len(want)-1] = 'x' // it closes
				} else if way == 1 { // we go without an answer
					_, _ = nc.Write(want)
					_ = nc.(*net.TCPConn).SetLinger(random.IntN(2) - 1)
					_ = nc.Close()
					continue
				}
				go func() { _, _ = nc.Write(want) }()
				got := make([]byte, len(want))
				_ = nc.SetReadDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.ReadFull(nc, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("goroutine %d: %v, or foreign bytes", g, err)
				}
				_ = nc.Close()
			}
		})
	}
	wg.Wait()
	for _, e := range engines {
		await(t, "no connections", func() bool { return e.Stats().Connections == 0 })
		for _, l := range e.Loops() {
			onLoop(l, func() {
				if len(l.inlets) != 0 {
					t.Errorf("%d inlets are left", len(l.inlets))
				}
			})
		}
	}
}

// TestNetpoll_Refuses has netpoll fail to watch a file: its connection ends with the reason, and nobody closes the file
// again, which netpoll has closed.
func TestNetpoll_Refuses(t *testing.T) {
	closes := make(chan error, 1)
	e, c, _ := mustConnect(t, Config{Engine: Netpoll, Handler: &handler{close: func(_ *Conn, err error) { closes <- err }}})
	before := slog.Default()
	var log lockedBuffer
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })

	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Open(name, syscall.O_RDONLY, 0) // of a regular file, which epoll doesn't take
	if err != nil {
		t.Fatal(err)
	}
	s := &inlet{reader: e.netpoll, conn: c, fd: fd}
	s.mu.wanted = true
	s.reader.do(s.attach)
	s.reader.do(s.close)
	s.reader.settle()
	if err := receive(t, "OnClose", closes); err == nil || !strings.Contains(err.Error(), "operation not permitted") {
		t.Errorf("OnClose: %v", err)
	}
	if !s.mu.lost || !strings.Contains(log.String(), "msg=netpoll") {
		t.Errorf("lost: %v; logged: %s", s.mu.lost, log.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestNetpoll_StopsReadingTheClosed closes a connection with an error, which reads and drops what its peer still sends.
func TestNetpoll_StopsReadingTheClosed(t *testing.T) {
	e, c, nc := mustConnect(t, Config{Engine: Netpoll, Handler: &handler{data: func(*Conn, []byte) { t.Error("OnData after Close") }}})
	onLoop(e.Loops()[0], func() {
		c.Write([]byte("bye"))
		c.Close(errors.New("why"))
	})
	mustRead(t, nc, "bye")
	if _, err := nc.Write(numbered(4 * inletLimit)); err != nil {
		t.Error(err)
	}
	_ = nc.Close()
	await(t, "the file to be closed", func() bool { return e.Stats().Connections == 0 })
}

func TestEngine_Unknown(t *testing.T) {
	if _, err := New(Config{Engine: "epoll", Handler: &handler{}}); err == nil || !strings.Contains(err.Error(), `engine "epoll" is not known`) {
		t.Errorf("got %v", err)
	}
}
