package opcuaserver_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
)

// raw is a connection that says what it likes.
type raw struct {
	t       testing.TB
	conn    net.Conn
	channel uint32
	token   uint32
	number  uint32
}

func dialRaw(t testing.TB, url string) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "opc.tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &raw{t: t, conn: conn}
}

// idle opens a connection that says nothing.
func idle(t testing.TB, url string) { dialRaw(t, url) }

func numbers(all ...uint32) (b []byte) {
	for _, n := range all {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

// send writes a message with its header.
func (r *raw) send(kind string, parts ...[]byte) {
	body := bytes.Join(parts, nil)
	b := append([]byte(kind), numbers(uint32(8+len(body)))...)
	_, _ = r.conn.Write(append(b, body...)) // it may be closed
}

// receive reads a message; nil: the connection is closed.
func (r *raw) receive() []byte {
	r.t.Helper()
	head := make([]byte, 8)
	if _, err := io.ReadFull(r.conn, head); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			r.t.Fatal("the server says nothing")
		}
		return nil
	}
	body := make([]byte, binary.LittleEndian.Uint32(head[4:])-8)
	if _, err := io.ReadFull(r.conn, body); err != nil {
		return nil
	}
	return append(head, body...)
}

// expectEnd expects an error, and then the end.
func (r *raw) expectEnd(what string) {
	r.t.Helper()
	for {
		b := r.receive()
		if b == nil {
			return
		}
		if !bytes.HasPrefix(b, []byte("ERRF")) {
			r.t.Errorf("%s: got %.4s", what, b)
		}
	}
}

var hello = append(numbers(0, 65535, 65535, 0, 0), numbers(0xffffffff)...)

// open opens a secure channel without a policy.
func (r *raw) open() *raw {
	r.t.Helper()
	r.send("HELF", hello)
	if b := r.receive(); !bytes.HasPrefix(b, []byte("ACKF")) {
		r.t.Fatalf("hello: %q", b)
	}
	r.number++
	r.send("OPNF", opening(r.number))
	b := r.receive()
	if !bytes.HasPrefix(b, []byte("OPNF")) {
		r.t.Fatalf("open: %q", b)
	}
	r.channel, r.token = binary.LittleEndian.Uint32(b[8:]), 1
	return r
}

func opening(number uint32) []byte {
	policy := ua.SecurityPolicyURINone
	return bytes.Join([][]byte{
		numbers(0, uint32(len(policy))), []byte(policy), numbers(0xffffffff, 0xffffffff), numbers(number, 1),
		{1, 0, 0xbe, 1},
		header(), numbers(0, 0, 1), numbers(0xffffffff, 60000),
	}, nil)
}

// header is that of a request.
func header() []byte {
	return bytes.Join([][]byte{{0, 0}, make([]byte, 8), numbers(1, 0, 0xffffffff, 0), {0, 0, 0}}, nil)
}

// request sends the body of a request with the id of its type.
func (r *raw) request(kind string, service uint16, body ...[]byte) {
	r.number++
	r.send(kind, numbers(r.channel, r.token, r.number, r.number), []byte{1, 0, byte(service), byte(service >> 8)}, bytes.Join(body, nil))
}

// What no client should send ends its own connection, and nothing else. The process stays the same.
func TestHostileBytes(t *testing.T) {
	t.Parallel()
	f := mustStart(t, open("plant/#"))
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "1", 1, brokertest.Retained)
	c := f.mustDial()
	f.await(c, topic("plant/a"), int64(1))
	pid := f.server.PID()

	huge := numbers(0x7fffffff)
	before := f.refused(metrics.OPCUAServerProtocol)
	attacks := map[string]func(){
		"no hello":         func() { dialRaw(t, f.url).send("OPNF", opening(1)) },
		"another protocol": func() { _, _ = dialRaw(t, f.url).conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")) },
		"a huge chunk":     func() { _, _ = dialRaw(t, f.url).conn.Write(append([]byte("HELF"), huge...)) },
		"small buffers":    func() { dialRaw(t, f.url).send("HELF", numbers(0, 1, 1, 0, 0), numbers(0xffffffff)) },
		"a long URL":       func() { dialRaw(t, f.url).send("HELF", numbers(0, 65535, 65535, 0, 0), huge) },
		"an unknown type":  func() { dialRaw(t, f.url).open().send("XYZF", numbers(0)) },
		"another policy": func() {
			r := dialRaw(t, f.url)
			r.send("HELF", hello)
			r.receive()
			r.send("OPNF", numbers(0, 1), []byte("x"), huge, huge)
		},
		"another channel": func() {
			r := dialRaw(t, f.url).open()
			r.channel++
			r.request("MSGF", id.GetEndpointsRequest_Encoding_DefaultBinary, header())
		},
		"another token": func() {
			r := dialRaw(t, f.url).open()
			r.token = 9
			r.request("MSGF", id.GetEndpointsRequest_Encoding_DefaultBinary, header())
		},
		"a number twice": func() {
			r := dialRaw(t, f.url).open()
			r.number--
			r.request("MSGF", id.GetEndpointsRequest_Encoding_DefaultBinary, header())
		},
		"a short chunk":       func() { r := dialRaw(t, f.url).open(); r.send("MSGF", numbers(r.channel)) },
		"half a chunk header": func() { r := dialRaw(t, f.url).open(); r.send("MSGF", numbers(r.channel, r.token, 5)) },
		"a huge list": func() {
			dialRaw(t, f.url).open().request("MSGF", id.GetEndpointsRequest_Encoding_DefaultBinary, header(), huge)
		},
		"a huge list of structures": func() {
			dialRaw(t, f.url).open().request("MSGF", id.ReadRequest_Encoding_DefaultBinary, header(), make([]byte, 8), numbers(0), huge)
		},
		"deep values": func() {
			dialRaw(t, f.url).open().request("MSGF", id.WriteRequest_Encoding_DefaultBinary, header(), numbers(1), []byte{0, 0}, numbers(13, 0xffffffff), []byte{1}, bytes.Repeat([]byte{24}, 60000))
		},
		"many chunks": func() {
			r := dialRaw(t, f.url).open()
			for range 200 {
				r.request("MSGC", id.ReadRequest_Encoding_DefaultBinary, make([]byte, 8000))
			}
		},
		"an array whose dimensions overflow": func() {
			dialRaw(t, f.url).open().request("MSGF", id.WriteRequest_Encoding_DefaultBinary, header(), numbers(1), []byte{0, 0}, numbers(13, 0xffffffff), []byte{1, 0xc1}, numbers(0), numbers(2, 1<<16, 1<<16))
		},
		"a body of another type": func() {
			dialRaw(t, f.url).open().request("MSGF", id.ActivateSessionRequest_Encoding_DefaultBinary, header(), bytes.Repeat([]byte{0xff}, 200))
		},
	}
	for _, attack := range attacks {
		attack()
	}
	f.eventually(func() bool { return f.refused(metrics.OPCUAServerProtocol)-before == uint64(len(attacks)) }, func() string {
		return fmt.Sprintf("%d of %d were refused", f.refused(metrics.OPCUAServerProtocol)-before, len(attacks))
	})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var all sync.WaitGroup
	for i := range 20 {
		r := dialRaw(t, f.url)
		if i%2 == 0 {
			r.open()
		}
		noise := make([]byte, 4096)
		for j := range noise {
			noise[j] = byte(rng.Uint32())
		}
		all.Go(func() {
			r.send("MSGF", numbers(r.channel, 1, 2, 2), noise)
			r.expectEnd("noise")
		})
	}
	all.Wait()
	// Services that there aren't, and sessions.
	r := dialRaw(t, f.url).open()
	for _, service := range []uint16{id.CallRequest_Encoding_DefaultBinary, id.HistoryReadRequest_Encoding_DefaultBinary, 65000} {
		r.request("MSGF", service, header(), []byte("whatever comes then"))
		if b := r.receive(); !bytes.HasPrefix(b, []byte("MSGF")) || !bytes.Contains(b, numbers(uint32(ua.StatusBadServiceUnsupported))) {
			t.Errorf("service %d: got %q", service, b)
		}
	}
	r.request("MSGF", id.ReadRequest_Encoding_DefaultBinary, header(), make([]byte, 8), numbers(0, 0))
	if b := r.receive(); !bytes.Contains(b, numbers(uint32(ua.StatusBadSessionIDInvalid))) {
		t.Errorf("without a session: %q", b)
	}
	r.send("CLOF", numbers(r.channel, 1, 9, 9))
	if b := r.receive(); b != nil {
		t.Errorf("after the end: %q", b)
	}
	f.await(c, topic("plant/a"), int64(1))
	if now := f.server.PID(); now != pid {
		t.Errorf("the process was %d and is %d", pid, now)
	}
}

// A client that asks and never reads costs a few responses, and others notice nothing.
func TestAClientThatDoesntRead(t *testing.T) {
	t.Parallel()
	f := mustServe(t, open("plant/#"))
	r := dialRaw(t, f.url).open()
	_ = r.conn.(*net.TCPConn).SetReadBuffer(4096)
	_ = r.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for range 20_000 {
		before := r.number
		r.number++
		b := append([]byte("MSGF"), numbers(0, r.channel, r.token, r.number, r.number)...)
		b = append(b, 1, 0, byte(id.GetEndpointsRequest_Encoding_DefaultBinary&0xff), byte(id.GetEndpointsRequest_Encoding_DefaultBinary>>8))
		b = append(append(b, header()...), numbers(0xffffffff, 0, 0)...)
		binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
		if _, err := r.conn.Write(b); err != nil {
			r.number = before
			break // it isn't read any more
		}
	}
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "1", 1, brokertest.Retained)
	f.await(f.mustDial(), topic("plant/a"), int64(1))
}
