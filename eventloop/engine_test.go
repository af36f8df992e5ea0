package eventloop

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"loopmq/metrics"
)

// handler is a Handler made of functions; nil ones do nothing.
type handler struct {
	open  func(*Conn)
	data  func(*Conn, []byte)
	close func(*Conn, error)
	drain func(*Conn)
}

func (h *handler) OnOpen(c *Conn) {
	if h.open != nil {
		h.open(c)
	}
}

func (h *handler) OnData(c *Conn, in []byte) {
	if h.data != nil {
		h.data(c, in)
	}
}

func (h *handler) OnClose(c *Conn, err error) {
	if h.close != nil {
		h.close(c, err)
	}
}

func (h *handler) OnDrain(c *Conn) {
	if h.drain != nil {
		h.drain(c)
	}
}

// testEngine is the engine that is tested: scripts/test.sh runs the tests with each.
func testEngine() string { return os.Getenv("LOOPMQ_TEST_ENGINE") }

func echo(c *Conn, in []byte) { c.Write(in) }

// mustStart starts an engine that listens on a free port and is stopped with the test.
func mustStart(t testing.TB, cfg Config) (*Engine, string) {
	t.Helper()
	cfg.Engine = cmp.Or(cfg.Engine, testEngine())
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	addr, err := e.Listen(Listener{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	return e, addr.String()
}

func mustDial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

func TestEcho(t *testing.T) {
	_, addr := mustStart(t, Config{Loops: 2, Handler: &handler{data: echo}})
	for range 8 {
		c := mustDial(t, addr)
		want := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
		go func() { _, _ = c.Write(want) }()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatal("echo differs")
		}
	}
}

// onLoop runs f on the loop and waits for it.
func onLoop(l *Loop, f func()) {
	done := make(chan struct{})
	l.Post(func() {
		f()
		close(done)
	})
	<-done
}

// await fails the test unless the condition becomes true within half a minute.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// receive fails the test unless ch yields a value within half a minute.
func receive[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(30 * time.Second):
		t.Fatalf("not in time: %s", what)
		panic("unreachable")
	}
}

func mustRead(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("read: %v, want %.40q", err, want)
	}
	if string(got) != want {
		t.Fatalf("got %.40q, want %.40q", got, want)
	}
}

func TestNew_Defaults(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Fatal("New took a Config without a Handler")
	}
	e, err := New(Config{Engine: testEngine(), Handler: &handler{}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(e.Loops()), runtime.GOMAXPROCS(0); got != want {
		t.Errorf("got %d loops, want %d", got, want)
	}
	for i, l := range e.Loops() {
		if l.Index() != i || l.Engine() != e {
			t.Errorf("loop %d has index %d", i, l.Index())
		}
	}
	if e.MaxConnections() < 1 {
		t.Errorf("MaxConnections is %d", e.MaxConnections())
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Errorf("Stop of an engine that never ran: %v", err)
	}
	if err := e.Start(); err == nil {
		t.Error("a stopped engine started")
	}
}

func TestSizes(t *testing.T) {
	if got := unsafe.Sizeof(Conn{}); got > 80 {
		t.Errorf("a Conn takes %d bytes", got)
	}
	if got := unsafe.Sizeof(Timer{}); got > 48 {
		t.Errorf("a Timer takes %d bytes", got)
	}
}

func TestListen_Errors(t *testing.T) {
	e, addr := mustStart(t, Config{Loops: 1, Handler: &handler{}})
	_, err := e.Listen(Listener{Address: addr})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("got %v, want EADDRINUSE", err)
	}
	if got, want := err.Error(), "listen on "+addr+": address already in use"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := e.Listen(Listener{Network: "udp", Address: "127.0.0.1:0"}); err == nil {
		t.Error("Listen took udp")
	}
	if _, err := e.Listen(Listener{Address: "127.0.0.1:notaport"}); err == nil {
		t.Error("Listen took a port that isn't one")
	}
}

func TestListen_BeforeStart(t *testing.T) {
	e, err := New(Config{Engine: testEngine(), Loops: 1, Handler: &handler{data: echo}})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := e.Listen(Listener{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	c := mustDial(t, addr.String())
	_, _ = c.Write([]byte("early"))
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	mustRead(t, c, "early")
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Listen(Listener{Address: "127.0.0.1:0"}); !errors.Is(err, ErrStopped) {
		t.Errorf("Listen after Stop: %v", err)
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

func TestCloseListeners(t *testing.T) {
	for _, running := range []bool{true, false} {
		e, err := New(Config{Engine: testEngine(), Loops: 2, Handler: &handler{data: echo}})
		if err != nil {
			t.Fatal(err)
		}
		if running {
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
		}
		addr, err := e.Listen(Listener{Address: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		var c *net.TCPConn
		if running {
			c = mustDial(t, addr.String())
			_, _ = c.Write([]byte("a"))
			mustRead(t, c, "a")
		}
		e.CloseListeners()
		if nc, err := net.Dial("tcp", addr.String()); err == nil {
			_ = nc.Close()
			t.Error("connected after CloseListeners")
		}
		if running { // connections stay
			_, _ = c.Write([]byte("b"))
			mustRead(t, c, "b")
		}
		if err := e.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddresses(t *testing.T) {
	type addrs struct{ local, remote string }
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		opened, closed := make(chan addrs, 1), make(chan addrs, 1)
		h := &handler{
			open: func(c *Conn) { opened <- addrs{c.LocalAddr().String(), c.RemoteAddr().String()} },
			close: func(c *Conn, _ error) {
				c.Loop().Post(func() { closed <- addrs{fmt.Sprint(c.LocalAddr()), c.RemoteAddr().String()} })
			},
		}
		e, _ := mustStart(t, Config{Loops: 1, Handler: h})
		addr, err := e.Listen(Listener{Address: listen})
		if err != nil {
			t.Logf("skip %s: %v", listen, err)
			continue
		}
		target := addr.String()
		if listen == ":0" {
			target = fmt.Sprintf("127.0.0.1:%d", addr.(*net.TCPAddr).Port)
		}
		c := mustDial(t, target)
		want := addrs{c.RemoteAddr().String(), c.LocalAddr().String()}
		if got := receive(t, "OnOpen", opened); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		_ = c.Close()
		if got := receive(t, "OnClose", closed); got != (addrs{"<nil>", want.remote}) {
			t.Errorf("after close: got %v", got)
		}
	}
}

func TestConnectionLimit(t *testing.T) {
	e, addr := mustStart(t, Config{Loops: 2, MaxConnections: 2, Handler: &handler{data: echo}})
	var cs []*net.TCPConn
	for range 2 {
		c := mustDial(t, addr)
		_, _ = c.Write([]byte("in"))
		mustRead(t, c, "in")
		cs = append(cs, c)
	}
	for range 3 {
		c := mustDial(t, addr)
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("a third connection was served")
		}
	}
	if got := e.Stats(); got.Refused[metrics.RefuseLimit] != 3 || got.Connections != 2 || got.Accepted != 2 {
		t.Errorf("got %+v", got)
	}
	_ = cs[0].Close()
	await(t, "a place is free", func() bool { return e.Stats().Connections == 1 })
	c := mustDial(t, addr)
	_, _ = c.Write([]byte("in"))
	mustRead(t, c, "in")
}

func TestConnectStorm(t *testing.T) {
	const clients, rounds = 32, 25
	var opened, closed atomic.Int64
	e, addr := mustStart(t, Config{Loops: 2, Handler: &handler{
		open:  func(*Conn) { opened.Add(1) },
		data:  echo,
		close: func(*Conn, error) { closed.Add(1) },
	}})
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for n := range rounds {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				switch (i + n) % 3 {
				case 0: // gone at once
				case 1:
					_ = c.(*net.TCPConn).SetLinger(0)
				default:
					_, _ = c.Write([]byte("x"))
					_, _ = c.Read(make([]byte, 1))
				}
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	// A connection that was reset before it was accepted may or may not be reported by the kernel.
	await(t, "all are closed", func() bool {
		s := e.Stats()
		return s.Connections == 0 && opened.Load() == closed.Load() && s.Accepted == uint64(opened.Load()) &&
			opened.Load() >= clients*rounds/3
	})
	for i, l := range e.Stats().Loops {
		if l.Connections != 0 {
			t.Errorf("loop %d counts %d connections", i, l.Connections)
		}
	}
}

// TestAccept_Paused looks at a listener that is short of something: it leaves connections alone until it tries again, with
// longer and longer waits, and closing it ends the shortage.
func TestAccept_Paused(t *testing.T) {
	e, addr := mustStart(t, Config{Loops: 1, Handler: &handler{data: echo}})
	l := e.Loops()[0]
	ln := e.mu.listeners[0]
	onLoop(l, func() {
		for _, want := range []time.Duration{50, 100, 200, 400, 800, 1000, 1000} {
			if ln.pause(syscall.ENFILE); ln.backoff != want*time.Millisecond {
				t.Errorf("waits %v, want %v", ln.backoff, want*time.Millisecond)
			}
		}
	})
	mustDial(t, addr)
	for range 3 { // turns of the loop
		onLoop(l, func() {})
	}
	if got := e.Stats(); got.AcceptPaused != 1 || got.AcceptPauses != 1 || got.Accepted != 0 {
		t.Errorf("got %+v", got)
	}
	e.CloseListeners()
	if got := e.Stats().AcceptPaused; got != 0 {
		t.Errorf("%d listeners pause after they were closed", got)
	}
}

// TestAccept_Backlog has more connections waiting than are accepted at a time.
func TestAccept_Backlog(t *testing.T) {
	e, addr := mustStart(t, Config{Loops: 1, Handler: &handler{data: echo}})
	blocked, release := make(chan struct{}), make(chan struct{})
	e.Loops()[0].Post(func() {
		close(blocked)
		<-release
	})
	<-blocked
	var cs []*net.TCPConn
	for range 2*acceptBatch + 1 {
		cs = append(cs, mustDial(t, addr))
	}
	close(release)
	for _, c := range cs {
		_, _ = c.Write([]byte("x"))
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		mustRead(t, c, "x")
	}
}

func TestLeastLoaded(t *testing.T) {
	e, addr := mustStart(t, Config{Loops: 4, Handler: &handler{data: echo}})
	for range 40 {
		c := mustDial(t, addr)
		_, _ = c.Write([]byte("x"))
		mustRead(t, c, "x")
	}
	for i, l := range e.Stats().Loops {
		if l.Connections != 10 {
			t.Errorf("loop %d has %d connections, want 10", i, l.Connections)
		}
	}
}

func TestStop_Flushes(t *testing.T) {
	payload := bytes.Repeat([]byte("payload."), 1<<20) // 8 MiB, more than the sockets hold
	written := make(chan struct{})
	e, err := New(Config{Engine: testEngine(), Loops: 2, MaxOutputBytes: 16 << 20, Handler: &handler{open: func(c *Conn) {
		c.Write(payload)
		close(written)
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	addr, err := e.Listen(Listener{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	c := mustDial(t, addr.String())
	receive(t, "OnOpen", written)
	stopped := make(chan error, 1)
	go func() { stopped <- e.Stop(t.Context()) }()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, payload) {
		t.Errorf("got %d bytes and %v, want %d", len(got), err, len(payload))
	}
	_ = c.Close()
	if err := receive(t, "Stop", stopped); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

// TestStop_Tells stops while one peer is idle and another is sending: the idle one doesn't hold it up, and the other can
// read the last words.
func TestStop_Tells(t *testing.T) {
	fastest := map[string]time.Duration{"idle": time.Hour, "sending": time.Hour}
	for i := 0; i < 6 || i < 60 && fastest["idle"] >= stopLinger; i++ { // more where the machine is busy
		name, input := "idle", 0
		if i%2 == 1 {
			name, input = "sending", 100<<10
		}
		opened := make(chan *Conn, 1)
		e, err := New(Config{Engine: testEngine(), Loops: 1, Handler: &handler{open: func(c *Conn) {
			c.Pause()
			opened <- c
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		addr, err := e.Listen(Listener{Address: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		nc := mustDial(t, addr.String())
		c := receive(t, "OnOpen", opened)
		_, _ = nc.Write(make([]byte, input))
		onLoop(e.Loops()[0], func() { c.Write([]byte("last words")) })
		begin := time.Now()
		if err := e.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		fastest[name] = min(fastest[name], time.Since(begin))
		if got, err := io.ReadAll(nc); string(got) != "last words" || err != nil {
			t.Errorf("%s: got %q and %v", name, got, err)
		}
	}
	if fastest["idle"] >= stopLinger || fastest["sending"] < stopLinger {
		t.Errorf("Stop took %v, want %v only for those who are sending", fastest, stopLinger)
	}
}

func TestStop_CutsOffAtDeadline(t *testing.T) {
	closes := make(chan error, 2)
	opened := make(chan struct{})
	e, err := New(Config{Engine: testEngine(), Loops: 1, MaxOutputBytes: 32 << 20, Handler: &handler{
		open: func(c *Conn) {
			c.Write(make([]byte, 16<<20))
			close(opened)
		},
		close: func(_ *Conn, err error) { closes <- err },
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	addr, err := e.Listen(Listener{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	mustDial(t, addr.String()) // and never read
	receive(t, "OnOpen", opened)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := e.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stop: %v", err)
	}
	if err := receive(t, "OnClose", closes); !errors.Is(err, ErrStopped) {
		t.Errorf("OnClose: %v", err)
	}
	if len(closes) != 0 {
		t.Error("OnClose was called twice")
	}
}

// TestStop_LeavesNothing looks for goroutines and files that outlive their engine.
func TestStop_LeavesNothing(t *testing.T) {
	files := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := files()
	for range 10 {
		e, err := New(Config{Engine: testEngine(), Loops: 3, Handler: &handler{data: echo}})
		if err != nil {
			t.Fatal(err)
		}
		addr, err := e.Listen(Listener{Address: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			c, err := net.Dial("tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write([]byte("x"))
			mustRead(t, c, "x")
			defer func() { _ = c.Close() }()
		}
		stop := make(chan error)
		var wg sync.WaitGroup
		wg.Go(func() { // others may post until the last moment, and after it
			for {
				select {
				case <-stop:
					return
				default:
					for _, l := range e.Loops() {
						l.Post(func() {})
					}
				}
			}
		})
		if err := e.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		close(stop)
		wg.Wait()
	}
	await(t, "goroutines end", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return !bytes.Contains(stacks, []byte("eventloop.(*Loop)")) && !bytes.Contains(stacks, []byte("eventloop.(*Engine)"))
	})
	// The test's own ends of the connections are open still.
	await(t, "files are closed", func() bool { return files() <= before+10*4+4 })
}

func TestStats_Lag(t *testing.T) {
	e, _ := mustStart(t, Config{Loops: 1, Handler: &handler{}})
	release := make(chan struct{})
	e.Loops()[0].Post(func() { <-release })
	await(t, "a stalled loop shows", func() bool { return e.Stats().Loops[0].Lag > 10*time.Millisecond })
	close(release)
	await(t, "the lag is measured", func() bool { return e.Loops()[0].counters.lag.Load() > 0 })
}

const childEnv = "LOOPMQ_EVENTLOOP_CHILD"

// TestOutOfFiles runs in a process of its own, since it lowers the limit of open files.
func TestOutOfFiles(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestOutOfFiles$", "-test.v")
		cmd.Env = append(os.Environ(), childEnv+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestOutOfFiles")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}

	var log syncBuffer
	e, addr := mustStart(t, Config{Loops: 2, Handler: &handler{data: echo}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 128, Max: 128}); err != nil {
		t.Fatal(err)
	}
	first := mustDial(t, addr)
	_, _ = first.Write([]byte("before"))
	mustRead(t, first, "before")

	var filler []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		filler = append(filler, fd)
	}
	var waiting []*net.TCPConn
	for range 3 { // each takes the file that is freed for it, so that there is none to accept it with
		_ = unix.Close(filler[len(filler)-1])
		filler = filler[:len(filler)-1]
		waiting = append(waiting, mustDial(t, addr))
		_, _ = waiting[len(waiting)-1].Write([]byte("during"))
	}
	await(t, "accepting pauses", func() bool { return e.Stats().AcceptPaused == 1 })
	for range 100 {
		_, _ = first.Write([]byte("others don't notice"))
		mustRead(t, first, "others don't notice")
	}
	// Some attempts to go on must not be told as new episodes.
	await(t, "it tries again", func() bool { return e.Stats().Loops[0].Turns+e.Stats().Loops[1].Turns > 105 })
	for _, fd := range filler {
		_ = unix.Close(fd)
	}
	for _, c := range waiting {
		mustRead(t, c, "during")
	}
	await(t, "the end is told", func() bool { return e.Stats().AcceptPaused == 0 })
	if got := e.Stats().AcceptPauses; got != 1 {
		t.Errorf("%d pauses were counted, want 1", got)
	}
	for _, event := range []string{"accept_paused", "accept_resumed"} {
		if got := strings.Count(log.String(), event); got != 1 {
			t.Errorf("%s was logged %d times, want once:\n%s", event, got, log.String())
		}
	}
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
