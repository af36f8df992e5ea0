package eventloop_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"loopmq/eventloop"
)

// upper answers in capital letters.
type upper struct{}

func (upper) OnOpen(c *eventloop.Conn) { c.Write([]byte("hello ")) }

func (upper) OnData(c *eventloop.Conn, in []byte) {
	out := c.BeginWrite()
	for _, b := range in {
		out = append(out, b-'a'+'A')
	}
	c.EndWrite(out)
	c.Close(nil)
}

func (upper) OnClose(*eventloop.Conn, error) {}

func Example() {
	engine, err := eventloop.New(eventloop.Config{Loops: 1, Handler: upper{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := engine.Start(); err != nil {
		fmt.Println(err)
		return
	}
	addr, err := engine.Listen(eventloop.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}

	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = c.Write([]byte("world"))
	var answer []byte
	for b := make([]byte, 100); ; {
		n, err := c.Read(b)
		answer = append(answer, b[:n]...)
		if err != nil {
			break
		}
	}
	_ = c.Close()
	fmt.Println(string(answer))

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	fmt.Println("stopped:", engine.Stop(ctx))
	// Output:
	// hello WORLD
	// stopped: <nil>
}

// A mailbox carries values from one loop to another, and Post functions from anywhere.
func ExampleNewMailbox() {
	engine, err := eventloop.New(eventloop.Config{Loops: 2, Handler: upper{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan struct{})
	mailbox := eventloop.NewMailbox(engine.Loops()[1], 1000, func(batch []int) {
		sum := 0
		for _, v := range batch {
			sum += v
		}
		fmt.Println(len(batch), "values, sum", sum)
		close(done)
	})
	mailbox.PushAll([]int{1, 2, 3})
	if err := engine.Start(); err != nil {
		fmt.Println(err)
		return
	}
	<-done
	_ = engine.Stop(context.Background())
	// Output: 3 values, sum 6
}

// session closes its connection after a second without input. Input costs one assignment.
type session struct {
	conn     *eventloop.Conn
	timer    eventloop.Timer
	lastData int64
}

func (s *session) OnTimer(t *eventloop.Timer) {
	idle := time.Duration(s.conn.Loop().Nanotime() - s.lastData)
	if idle >= time.Second {
		s.conn.Close(context.DeadlineExceeded)
		return
	}
	s.conn.Loop().Schedule(t, time.Second-idle)
}

type guard struct{ closed chan error }

func (guard) OnOpen(c *eventloop.Conn) {
	s := &session{conn: c, lastData: c.Loop().Nanotime()}
	s.timer.Init(s)
	c.SetContext(s)
	c.Loop().Schedule(&s.timer, time.Second)
}

func (guard) OnData(c *eventloop.Conn, _ []byte) {
	c.Context().(*session).lastData = c.Loop().Nanotime()
}

func (g guard) OnClose(c *eventloop.Conn, err error) {
	c.Context().(*session).timer.Stop()
	g.closed <- err
}

func ExampleTimer() {
	g := guard{closed: make(chan error)}
	engine, err := eventloop.New(eventloop.Config{Handler: g})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := engine.Start(); err != nil {
		fmt.Println(err)
		return
	}
	addr, err := engine.Listen(eventloop.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(<-g.closed)
	_ = c.Close()
	_ = engine.Stop(context.Background())
	// Output: context deadline exceeded
}
