package eventloop

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime returns user and system time of this process, generator included.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// mustAdopt connects to addr and gives the connection to e, as if e had accepted it.
func mustAdopt(b *testing.B, e *Engine, addr string) {
	b.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	fd := -1
	if controlErr := raw.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); controlErr != nil || err != nil {
		b.Fatal(controlErr, err)
	}
	e.mu.Lock()
	ln := e.mu.listeners[0]
	e.mu.Unlock()
	if !ln.admit(fd) {
		b.Fatal("not admitted")
	}
	l := e.leastLoaded()
	l.counters.conns.Add(1)
	l.adopted.Push(adoption{fd: fd, remote: nc.RemoteAddr().(*net.TCPAddr).AddrPort(), listener: ln})
}

// BenchmarkEcho has peers that each keep a number of 64-byte messages in flight. Both ends are in this process: the
// peers are connections of a second engine, so half of the CPU time is theirs.
func BenchmarkEcho(b *testing.B) {
	for _, inflight := range []int{1, 32} {
		b.Run(fmt.Sprintf("peers=100/inflight=%d", inflight), func(b *testing.B) {
			_, addr := mustStart(b, Config{Handler: &handler{data: echo}})
			message := make([]byte, 64)
			target := (b.N + 99) / 100 * len(message) // bytes that each peer has to get back
			type peer struct{ sent, received int }
			var left sync.WaitGroup
			left.Add(100)
			send := func(c *Conn, p *peer) {
				for p.sent < target && p.sent < p.received+inflight*len(message) {
					c.Write(message)
					p.sent += len(message)
				}
			}
			begin := make(chan struct{})
			client, _ := mustStart(b, Config{Handler: &handler{
				open: func(c *Conn) {
					c.SetContext(new(peer))
					go func() {
						<-begin
						c.Loop().Post(func() { send(c, c.Context().(*peer)) })
					}()
				},
				data: func(c *Conn, in []byte) {
					p := c.Context().(*peer)
					if p.received += len(in); p.received == target {
						left.Done()
						return
					}
					send(c, p)
				},
			}})
			for range 100 {
				mustAdopt(b, client, addr)
			}
			before := cpuTime(b)
			b.ResetTimer()
			close(begin)
			left.Wait()
			b.StopTimer()
			b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkFanOut has one publisher, 64-byte messages with a window in flight, and subscribers on all loops, reached by
// one mailbox per loop. One op is one delivered message. The subscribers' ends discard in a second engine.
func BenchmarkFanOut(b *testing.B) {
	for _, window := range []int{1, 64} {
		b.Run(fmt.Sprintf("subscribers=1000/window=%d", window), func(b *testing.B) {
			const subscribers, size = 1000, 64
			messages := (b.N + subscribers - 1) / subscribers
			opened := make(chan *Conn, subscribers)
			server, addr := mustStart(b, Config{Handler: &handler{open: func(c *Conn) { opened <- c }}, MaxOutputBytes: 1 << 30})
			type reader struct{ received int }
			type progress struct{ messages int }
			// A loop of the client reports when all its readers have the next message.
			reports := make(chan progress, 1<<16)
			client, _ := mustStart(b, Config{Handler: &handler{open: func(c *Conn) { c.SetContext(new(reader)) }, data: func(c *Conn, in []byte) {
				r := c.Context().(*reader)
				before := r.received / size
				r.received += len(in)
				if n := r.received/size - before; n > 0 {
					reports <- progress{n}
				}
			}}})
			byLoop := make([][]*Conn, len(server.Loops()))
			for range subscribers {
				mustAdopt(b, client, addr)
				c := <-opened
				byLoop[c.Loop().Index()] = append(byLoop[c.Loop().Index()], c)
			}
			var boxes []*Mailbox[[]byte]
			for i, l := range server.Loops() {
				boxes = append(boxes, NewMailbox(l, 1024, func(batch [][]byte) {
					for _, m := range batch {
						for _, c := range byLoop[i] {
							c.EndWrite(append(c.BeginWrite(), m...))
						}
					}
				}))
			}
			message := make([]byte, size)
			before := cpuTime(b)
			writes := server.Stats().Writes
			b.ResetTimer()
			sent, delivered := 0, 0
			for delivered < messages*subscribers {
				for sent < messages && sent*subscribers < delivered+window*subscribers {
					for _, m := range boxes {
						m.Push(message)
					}
					sent++
				}
				delivered += (<-reports).messages
			}
			b.StopTimer()
			b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(delivered), "cpu-ns/op")
			b.ReportMetric(float64(server.Stats().Writes-writes)/float64(delivered), "writes/op")
		})
	}
}

// BenchmarkConnect connects, exchanges 16 bytes and closes. The clients are in this process.
func BenchmarkConnect(b *testing.B) {
	_, addr := mustStart(b, Config{Handler: &handler{data: echo}})
	before := cpuTime(b)
	b.SetParallelism(8)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 16)
		for pb.Next() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			_ = c.(*net.TCPConn).SetLinger(0) // or the ports run out
			_, _ = c.Write(buf)
			_, _ = io.ReadFull(c, buf)
			_ = c.Close()
		}
	})
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// BenchmarkIdleMemory reports what an idle connection costs in resident memory. The server is a process of its own; it
// is not told to collect garbage.
func BenchmarkIdleMemory(b *testing.B) {
	const connections = 10000
	for b.Loop() { // once is enough: run it with -benchtime 1x
		cmd := exec.Command(os.Args[0], "-test.run=^TestIdleServer$")
		cmd.Env = append(os.Environ(), childEnv+"=idle")
		in, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		var addr string
		var empty, full int
		if _, err := fmt.Fscan(out, &addr, &empty); err != nil {
			b.Fatal(err)
		}
		var cs []net.Conn
		for range connections {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = c.Write([]byte("x"))
			_, _ = io.ReadFull(c, make([]byte, 1))
			cs = append(cs, c)
		}
		_, _ = in.Write([]byte("measure\n"))
		if _, err := fmt.Fscan(out, &full); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(full-empty)/connections, "B/conn")
		_ = in.Close()
		for _, c := range cs {
			_ = c.Close()
		}
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestIdleServer is the server of BenchmarkIdleMemory.
func TestIdleServer(t *testing.T) {
	if os.Getenv(childEnv) != "idle" {
		t.Skip("runs as a child of BenchmarkIdleMemory")
	}
	e, err := New(Config{Engine: testEngine(), Handler: &handler{data: echo}})
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
	runtime.GC()
	fmt.Fprintln(os.Stdout, addr, residentBytes())
	_, _ = os.Stdin.Read(make([]byte, 16))
	fmt.Fprintln(os.Stdout, residentBytes())
	_, _ = os.Stdin.Read(make([]byte, 16))
}

func residentBytes() int {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := bytes.Cut(status, []byte("VmRSS:"))
	fields := strings.Fields(string(after[:min(len(after), 32)]))
	if len(fields) == 0 {
		return 0
	}
	kb, _ := strconv.Atoi(fields[0])
	return kb << 10
}
