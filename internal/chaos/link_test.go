package chaos

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"
)

// mustEcho starts a server that sends back what it gets.
func mustEcho(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func TestLink(t *testing.T) {
	t.Parallel()
	l, err := NewLink(mustEcho(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	say := func(line string) { _, _ = conn.Write([]byte(line + "\n")) }
	hear := func(want string) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if got, err := r.ReadString('\n'); err != nil || got != want+"\n" {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	say("whole")
	hear("whole")

	l.Cut()
	say("cut")
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if got, err := r.ReadString('\n'); !isTimeout(err) {
		t.Errorf("got %q, %v of a link that is cut", got, err)
	}
	l.Heal()
	hear("cut")

	l.Slow(30 * time.Millisecond)
	began := time.Now()
	say("slow")
	hear("slow")
	if d := time.Since(began); d < 60*time.Millisecond {
		t.Errorf("there and back in %v", d)
	}
	l.Heal()

	l.Reset()
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := r.ReadByte(); err == nil || isTimeout(err) {
		t.Errorf("after Reset: %v", err)
	}
}
