package loopmq_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// honestPair publishes and subscribes all the time while something bad happens, on every loop of the broker.
type honestPair struct {
	stop, done chan struct{}
	err        error         // set before done is closed
	slowest    time.Duration // of one message, as waited counts it
	messages   int
}

// startWait begins to count time, of which waited returns how much passed: no more than this process computed meanwhile. Else a machine that is
// busy with something else would look like a broker that is.
func startWait() (waited func() time.Duration) {
	computed := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			panic(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin, before := time.Now(), computed()
	return func() time.Duration { return min(time.Since(begin), computed()-before) }
}

// startHonest starts pairs of clients that send each other messages at all QoS, each after the last one has arrived.
func startHonest(t *testing.T, s *brokertest.Server) (stop func()) {
	t.Helper()
	pairs := make([]*honestPair, 4)
	for i := range pairs {
		p := &honestPair{stop: make(chan struct{}), done: make(chan struct{})}
		pairs[i] = p
		sub, pub := rawConnect(t, s.Addr, fmt.Sprintf("honest-sub%d", i)), rawConnect(t, s.Addr, fmt.Sprintf("honest-pub%d", i))
		topic := fmt.Sprintf("honest/%d", i)
		subscribe := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription(topic, 1)}}
		sub.write(subscribe.Append(nil, codec.V5))
		if h, _ := sub.read(); h.Type != codec.TypeSuback {
			t.Fatalf("got %v, want SUBACK", h.Type)
		}
		go p.run(sub, pub, topic)
	}
	return func() {
		t.Helper()
		for i, p := range pairs {
			close(p.stop)
			<-p.done
			if p.err != nil {
				t.Errorf("honest pair %d after %d messages: %v", i, p.messages, p.err)
			}
			if p.messages == 0 {
				t.Errorf("honest pair %d got nothing", i)
			}
			if p.slowest > 5*time.Second {
				t.Errorf("a message of honest pair %d took %v", i, p.slowest)
			}
		}
	}
}

func (p *honestPair) run(sub, pub *rawClient, topic string) {
	defer close(p.done)
	for {
		select {
		case <-p.stop:
			p.err = errors.Join(sub.err, pub.err)
			return
		default:
		}
		waited := startWait()
		qos := byte(p.messages % 2)
		m := codec.Publish{TopicName: []byte(topic), QoS: qos, PacketID: uint16(qos), Payload: []byte("honest")}
		pub.write(m.Append(nil, codec.V5))
		h, body := sub.read()
		if qos == 1 {
			if h, _ := pub.read(); h.Type != codec.TypePuback {
				p.err = fmt.Errorf("got %v, want PUBACK: %w", h.Type, errors.Join(sub.err, pub.err))
				return
			}
		}
		var got codec.Publish
		if h.Type != codec.TypePublish || got.Decode(codec.V5, h.Flags, body) != nil || got.QoS != qos {
			p.err = fmt.Errorf("got %v, want PUBLISH: %w", h.Type, errors.Join(sub.err, pub.err))
			return
		}
		if qos == 1 {
			ack := codec.Ack{Type: codec.TypePuback, PacketID: got.PacketID}
			sub.write(ack.Append(nil, codec.V5))
		}
		p.messages++
		p.slowest = max(p.slowest, waited())
	}
}

// rawClient is a 5.0 connection for use by any one goroutine. After an error its methods do nothing.
type rawClient struct {
	conn net.Conn
	in   []byte
	err  error
}

func rawDial(t testing.TB, addr string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &rawClient{conn: conn}
}

func rawConnect(t testing.TB, addr, clientID string, change ...brokertest.ConnectOption) *rawClient {
	t.Helper()
	c := rawDial(t, addr)
	p := &codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V5, CleanStart: true, ClientID: []byte(clientID)}
	for _, f := range change {
		f(p)
	}
	c.write(p.Append(nil, codec.V5))
	if h, _ := c.read(); h.Type != codec.TypeConnack {
		t.Fatalf("%s: got %v, want CONNACK: %v", clientID, h.Type, c.err)
	}
	return c
}

func (c *rawClient) write(b []byte) {
	if c.err != nil {
		return
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
	_, c.err = c.conn.Write(b)
}

// read returns the next packet; its body is valid until the next call.
func (c *rawClient) read() (h codec.FixedHeader, body []byte) {
	for c.err == nil {
		var ok bool
		if h, ok, c.err = codec.DecodeFixedHeader(c.in, codec.V5); ok && len(c.in) >= h.Size {
			body = c.in[h.HeaderSize:h.Size]
			c.in = c.in[h.Size:]
			return h, body
		}
		if c.err != nil {
			break
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if len(c.in) == cap(c.in) || cap(c.in) < 1024 { // what is left moves to the front
			c.in = append(make([]byte, 0, 2*len(c.in)+4096), c.in...)
		}
		var n int
		n, c.err = c.conn.Read(c.in[len(c.in):cap(c.in)])
		c.in = c.in[:len(c.in)+n]
	}
	return codec.FixedHeader{}, nil
}

// expectConnections waits until only these many network connections are open.
func expectConnections(t testing.TB, s *brokertest.Server, n int) {
	t.Helper()
	expectMetric(t, s.Broker, "loopmq_connections", float64(n))
}

// expectHeapBack waits until the heap is no larger than before by more than slack.
func expectHeapBack(t testing.TB, before, slack int) {
	t.Helper()
	var grown int
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if grown = heapBytes() - before; grown <= slack {
			return
		}
	}
	t.Errorf("the heap is larger than before by %d KiB", grown>>10)
}

// untilClosed throws away what comes until the broker has closed the connection, and reports whether it did.
func untilClosed(c *rawClient) bool {
	_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err := io.Copy(io.Discard, c.conn)
	var ne net.Error
	return !errors.As(err, &ne) || !ne.Timeout()
}

// honestConnections are those of startHonest.
const honestConnections = 8

// Garbage before and after CONNECT ends the connection that it comes from, and nothing else.
func TestGarbage(t *testing.T) {
	s := brokertest.Start(t, func(o *loopmq.Options) { o.ConnectTimeout = time.Second })
	stop := startHonest(t, s)
	before := heapBytes()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for i := range 200 {
		c := rawDial(t, s.Addr)
		if i%2 == 1 {
			c = rawConnect(t, s.Addr, fmt.Sprintf("bad%d", i))
		}
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			garbage := make([]byte, 1+r.IntN(100_000))
			for j := range garbage {
				garbage[j] = byte(r.Uint32())
			}
			if i%4 < 2 {
				garbage[0] = 0 // reserved: certainly malformed
			}
			c.write(garbage)
			_ = c.conn.(*net.TCPConn).CloseWrite()
			if !untilClosed(c) {
				t.Errorf("connection %d is still open", i)
			}
			_ = c.conn.Close()
		})
	}
	wg.Wait()
	expectConnections(t, s, honestConnections)
	stop()
	expectHeapBack(t, before, 2<<20)
}

// Whoever sends part of a packet and then nothing, or a byte now and then, is disconnected: before CONNECT when its time is over, later
// when its Keep Alive is. The memory that its part took comes back.
func TestHalfPackets(t *testing.T) {
	s := brokertest.Start(t, func(o *loopmq.Options) { o.ConnectTimeout = 2 * time.Second })
	stop := startHonest(t, s)
	before := heapBytes()
	large := codec.Publish{TopicName: []byte("large"), Payload: make([]byte, 3<<20)}
	half := large.Append(nil, codec.V5)[:2<<20]
	connect := codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V5, CleanStart: true, ClientID: make([]byte, 60_000)}
	copy(connect.ClientID, bytes.Repeat([]byte("x"), len(connect.ClientID)))
	halfConnect := connect.Append(nil, codec.V5)[:50_000]
	small := codec.Publish{TopicName: []byte("small"), Payload: make([]byte, 400)}
	slow := small.Append(nil, codec.V5)

	keepAlive := func(p *codec.Connect) { p.KeepAlive = 1 }
	var wg sync.WaitGroup
	for i := range 10 {
		for name, act := range map[string]func() *rawClient{
			"half a CONNECT": func() *rawClient {
				c := rawDial(t, s.Addr)
				c.write(halfConnect)
				return c
			},
			"nothing at all": func() *rawClient { return rawDial(t, s.Addr) },
			"half a PUBLISH": func() *rawClient {
				c := rawConnect(t, s.Addr, fmt.Sprintf("half%d", i), keepAlive)
				c.write(half)
				return c
			},
			"a byte now and then": func() *rawClient {
				c := rawConnect(t, s.Addr, fmt.Sprintf("slow%d", i), keepAlive)
				wg.Go(func() { trickle(c, slow) })
				return c
			},
			"a CONNECT, a byte now and then": func() *rawClient {
				c := rawDial(t, s.Addr)
				wg.Go(func() { trickle(c, halfConnect) })
				return c
			},
			"half a PUBLISH, and gone": func() *rawClient {
				c := rawConnect(t, s.Addr, fmt.Sprintf("gone%d", i))
				c.write(half)
				_ = c.conn.(*net.TCPConn).CloseWrite()
				return c
			},
		} {
			c := act()
			wg.Go(func() {
				if !untilClosed(c) {
					t.Errorf("%s: the connection is still open", name)
				}
				_ = c.conn.Close()
			})
		}
	}
	wg.Wait()
	expectConnections(t, s, honestConnections)
	stop()
	expectHeapBack(t, before, 2<<20)
	if n := metricsOf(t, s.Broker)[`loopmq_connections_closed_total{reason="keep_alive_timeout"}`]; n != 20 {
		t.Errorf("%v connections were closed for their Keep Alive, want 20", n)
	}
	if n := metricsOf(t, s.Broker)[`loopmq_connections_closed_total{reason="connect_timeout"}`]; n != 30 {
		t.Errorf("%v connections were closed for the time of their CONNECT, want 30", n)
	}
}

// Before a client has said who it is, it can't make the broker keep as much as later. The largest fields that a CONNECT can have are fine.
func TestSizeOfFirstPacket(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	large := bytes.Repeat([]byte("x"), 65535)
	c := brokertest.Dial(t, s.Addr, codec.V5)
	c.Connect(brokertest.ClientID(string(large)), brokertest.Credentials(string(large), string(large)), brokertest.Will(string(large), string(large), 1, false,
		codec.PropContentType, string(large), codec.PropResponseTopic, string(large), codec.PropCorrelationData, string(large),
		codec.PropUserProperty, [2]string{string(large), string(large)}))
	c.Disconnect()
	raw := rawDial(t, s.Addr)
	raw.write([]byte{0x10, 0x80, 0x80, 0x40}) // CONNECT with a Remaining Length of 1 MiB
	if !untilClosed(raw) {
		t.Error("the connection is still open")
	}
	if n := metricsOf(t, s.Broker)[`loopmq_protocol_errors_total{reason_code="0x95"}`]; n != 1 {
		t.Errorf("%v packets were refused for their size, want 1", n)
	}
}

// trickle sends bytes one by one until there are no more or the connection is closed.
func trickle(c *rawClient, b []byte) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range b {
		if _, err := c.conn.Write(b[i : i+1]); err != nil {
			return
		}
		<-tick.C
	}
}

// A large packet on a slow line isn't a silent client: its bytes keep it alive.
func TestLargePacketOnSlowLine(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("t", 0)
	c := rawConnect(t, s.Addr, "slow", func(p *codec.Connect) { p.KeepAlive = 2 })
	m := codec.Publish{TopicName: []byte("t"), Payload: bytes.Repeat([]byte("x"), 50_000)}
	b := m.Append(nil, codec.V5)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for len(b) > 0 { // 5 s in all
		n := min(len(b), 1000)
		c.write(b[:n])
		b = b[n:]
		<-tick.C
	}
	sub.ExpectPublish("t", string(m.Payload))
}

// A client that reads nothing costs a bounded amount of memory, which comes back when it goes, and loses QoS 0. One that makes the broker
// answer and doesn't read the answers is disconnected.
func TestClientsThatNeverRead(t *testing.T) {
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Limits.OutputBytes, o.Limits.QueueMessages, o.Limits.Inflight = 64<<10, 500, 100
	})
	stop := startHonest(t, s)
	before := heapBytes()
	const readers = 20
	var never []*rawClient
	for i := range readers {
		c := rawConnect(t, s.Addr, fmt.Sprintf("never%d", i), map[bool]brokertest.ConnectOption{
			true: members["durable"], false: members["in memory"],
		}[i%2 == 0])
		subscribe := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription("flood", byte(i%3))}}
		c.write(subscribe.Append(nil, codec.V5))
		if h, _ := c.read(); h.Type != codec.TypeSuback {
			t.Fatalf("got %v, want SUBACK", h.Type)
		}
		never = append(never, c)
	}
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	payload := strings.Repeat("x", 16<<10)
	const messages = 800
	for range messages { // 13 MB for each
		pub.Publish("flood", payload, 2)
	}
	// Outputs and socket buffers aside, one copy of each message that some queue holds.
	if grown := heapBytes() - before; grown > readers*(64+32)<<10+(1000+messages)*len(payload) {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	for qos, reason := range []string{"output_full", "queue_full", "queue_full"} {
		if c := countersOf(t, s.Broker, byte(qos)); c.dropped[reason] == 0 {
			t.Errorf("QoS %d: %v, want some dropped for %s", qos, c, reason)
		}
	}
	const pinging = 2 // each fills the buffers of its socket with answers of two bytes
	for _, c := range never[readers-pinging:] {
		ping := bytes.Repeat(codec.AppendPingreq(nil), 100_000)
		for range 40 { // the answers fill the socket's buffers, then the output
			_ = c.conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
			if _, err := c.conn.Write(ping); err != nil {
				break
			}
		}
	}
	expectMetric(t, s.Broker, `loopmq_connections_closed_total{reason="output_full"}`, pinging)
	for _, c := range never {
		_ = c.conn.Close()
	}
	pub.Disconnect()
	expectConnections(t, s, honestConnections)
	for i := 0; i < readers; i += 2 { // their sessions end
		c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(fmt.Sprintf("never%d", i)))
		c.Disconnect()
		c.Close()
	}
	stop()
	expectHeapBack(t, before, 4<<20)
}

// SUBSCRIBEs beyond the limit are refused one by one, and packets of absurd size end the connection; what the others made goes with them.
func TestSubscribeFlood(t *testing.T) {
	const limit = 2000
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.Subscriptions = limit })
	stop := startHonest(t, s)
	before := heapBytes()
	subscriptions := metricsOf(t, s.Broker)["loopmq_subscriptions"]
	var wg sync.WaitGroup
	for i := range 10 {
		c := rawConnect(t, s.Addr, fmt.Sprintf("flood%d", i))
		wg.Go(func() {
			granted, refused := 0, 0
			for n := range 20 {
				p := codec.Subscribe{PacketID: uint16(n + 1)}
				for j := range limit / 5 {
					p.Subscriptions = append(p.Subscriptions, brokertest.Subscription(fmt.Sprintf("flood/%d/+/%d/%d", i, n, j), 1))
				}
				c.write(p.Append(nil, codec.V5))
				h, body := c.read()
				var ack codec.Suback
				if h.Type != codec.TypeSuback || ack.Decode(codec.V5, h.Flags, body) != nil {
					t.Errorf("got %v, want SUBACK: %v", h.Type, c.err)
					return
				}
				for _, reason := range ack.ReasonCodes {
					switch reason {
					case 1:
						granted++
					case codec.QuotaExceeded:
						refused++
					default:
						t.Errorf("got reason code %v", reason)
					}
				}
			}
			if granted != limit || refused != 3*limit {
				t.Errorf("%d granted and %d refused, want %d and %d", granted, refused, limit, 3*limit)
			}
		})
	}
	wg.Wait()
	expectMetric(t, s.Broker, "loopmq_subscriptions", subscriptions+10*limit)

	absurd := rawConnect(t, s.Addr, "absurd")
	p := codec.Subscribe{PacketID: 1}
	for range 500_000 {
		p.Subscriptions = append(p.Subscriptions, brokertest.Subscription("x", 1))
	}
	absurd.write(p.Append(nil, codec.V5))
	h, body := absurd.read()
	var d codec.Disconnect
	if h.Type != codec.TypeDisconnect || d.Decode(codec.V5, h.Flags, body) != nil || d.ReasonCode != codec.QuotaExceeded {
		t.Errorf("got %v with %v, want DISCONNECT with 0x97", h.Type, d.ReasonCode)
	}
	_ = absurd.conn.Close()
	for i := range 10 { // takes over, and ends
		c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(fmt.Sprintf("flood%d", i)))
		c.Disconnect()
	}
	expectMetric(t, s.Broker, "loopmq_subscriptions", subscriptions)
	stop()
	expectHeapBack(t, before, 2<<20)
}

// A client that subscribes to what it publishes, at all QoS, and reads nothing, is slowed down or loses messages, and harms nobody.
func TestClientThatFansOutToItself(t *testing.T) {
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Limits.OutputBytes, o.Limits.QueueMessages = 64<<10, 1000
	})
	stop := startHonest(t, s)
	before := heapBytes()
	var clients []*rawClient
	for i := range 6 {
		c := rawConnect(t, s.Addr, fmt.Sprintf("self%d", i), map[bool]brokertest.ConnectOption{
			true: members["durable"], false: members["in memory"],
		}[i%2 == 0])
		p := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{
			brokertest.Subscription("#", 1), brokertest.Subscription("self/#", 2), brokertest.Subscription("self/+", 0),
		}}
		c.write(p.Append(nil, codec.V5))
		clients = append(clients, c)
	}
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			var b []byte
			for n := range 100 {
				p := codec.Publish{TopicName: []byte(fmt.Sprintf("self/%d", n)), QoS: byte(i / 2), Payload: make([]byte, 1000)}
				if p.QoS > 0 {
					p.PacketID = uint16(n + 1)
				}
				b = p.Append(b, codec.V5)
			}
			for range 60 { // the broker may end it for what it doesn't acknowledge
				_ = c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
				if _, err := c.conn.Write(b); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if grown := heapBytes() - before; grown > 32<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	for i, c := range clients {
		_ = c.conn.Close()
		end := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID(fmt.Sprintf("self%d", i)))
		end.Disconnect()
		end.Close()
	}
	expectConnections(t, s, honestConnections)
	stop()
	expectHeapBack(t, before, 6<<20) // the loops keep 2 to 4 MiB of buffers; the clients' queues held as much again, and more
}

// One of a thousand subscribers reads nothing for a while. The others get everything. It loses QoS 0, counted as such, and gets all of
// QoS 1 in the end.
func TestSlowReaderAmongAThousand(t *testing.T) {
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.OutputBytes = 64 << 10 })
	const subscribers, messages = 1000, 50
	subscribe := func(c *rawClient, filter string, qos byte) {
		t.Helper()
		p := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{brokertest.Subscription(filter, qos)}}
		c.write(p.Append(nil, codec.V5))
		if h, _ := c.read(); h.Type != codec.TypeSuback {
			t.Fatalf("got %v, want SUBACK: %v", h.Type, c.err)
		}
	}
	slow := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("slow"), brokertest.KeepAlive(0))
	slow.Subscribe("fill", 0)
	slow.Subscribe("fan/0", 0)
	slow.Subscribe("fan/1", 1)
	pub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.KeepAlive(0))
	lost := 0.0
	for size := 64 << 10; size > 0; size /= 16 { // to the last byte
		for before := lost; lost == before; {
			pub.Publish("fill", strings.Repeat("x", size), 0)
			pub.Ping()
			expectCountersAddUp(t, s.Broker, [3]float64{})
			lost = countersOf(t, s.Broker, 0).dropped["output_full"]
		}
	}

	clients := make([]*rawClient, subscribers-1)
	for i := range clients {
		clients[i] = rawConnect(t, s.Addr, fmt.Sprintf("fast%d", i))
		subscribe(clients[i], "fan/+", 1)
	}
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			var acks []byte
			for n := range 2 * messages {
				h, body := c.read()
				var p codec.Publish
				if h.Type != codec.TypePublish || p.Decode(codec.V5, h.Flags, body) != nil || string(p.Payload) != fmt.Sprint(n) {
					t.Errorf("subscriber %d got %v %q, want message %d: %v", i, h.Type, p.Payload, n, c.err)
					return
				}
				if p.QoS == 1 {
					ack := codec.Ack{Type: codec.TypePuback, PacketID: p.PacketID}
					acks = ack.Append(acks[:0], codec.V5)
					c.write(acks)
				}
			}
		})
	}
	begin := time.Now()
	for n := range messages {
		pub.Publish("fan/0", fmt.Sprint(2*n), 0)
		pub.Publish("fan/1", fmt.Sprint(2*n+1), 1)
	}
	wg.Wait()
	t.Logf("%d messages to %d subscribers in %v", 2*messages, subscribers, time.Since(begin))

	got := 0
	for got < messages {
		p := brokertest.Expect[*codec.Publish](slow)
		switch string(p.TopicName) {
		case "fan/1":
			if want := fmt.Sprint(2*got + 1); string(p.Payload) != want {
				t.Fatalf("got message %s at QoS 1, want %s", p.Payload, want)
			}
			got++
			slow.Acknowledge(p)
		case "fan/0":
			t.Errorf("message %s came at QoS 0 though the output was full", p.Payload)
		}
	}
	slow.Ping()
	expectCountersAddUp(t, s.Broker, [3]float64{})
	qos0, qos1 := countersOf(t, s.Broker, 0), countersOf(t, s.Broker, 1)
	if len(qos0.dropped) != 1 || qos0.dropped["output_full"] != lost+messages {
		t.Errorf("QoS 0: %v, want %v dropped for output_full", qos0, lost+messages)
	}
	if len(qos1.dropped) != 0 {
		t.Errorf("QoS 1: %v, want none dropped", qos1)
	}
}

// A QoS 1 publisher that floods a durable session without a connection costs what the queue may hold.
func TestFloodOfOfflineSession(t *testing.T) {
	const limit, flood = 1000, 20_000
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.QueueMessages = limit })
	stop := startHonest(t, s)
	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub"))
	sub.Subscribe("flood", 1)
	sub.Disconnect()
	sub.Close()
	pub := rawConnect(t, s.Addr, "pub")
	before := heapBytes()
	payload := make([]byte, 2000)
	var b []byte
	for sent := 0; sent < flood; {
		b = b[:0]
		for id := range 500 {
			p := codec.Publish{TopicName: []byte("flood"), QoS: 1, PacketID: uint16(id + 1), Payload: payload}
			b = p.Append(b, codec.V5)
			sent++
		}
		pub.write(b)
		for range 500 {
			if h, _ := pub.read(); h.Type != codec.TypePuback {
				t.Fatalf("got %v, want PUBACK: %v", h.Type, pub.err)
			}
		}
	}
	expectHeapBack(t, before, 2*limit*len(payload))
	stop()
	c := countersOf(t, s.Broker, 1)
	if c.dropped["queue_full"] != flood-limit || c.waiting() != limit {
		t.Errorf("got %v, want %d dropped for queue_full", c, flood-limit)
	}
}

// More connections than the process may have files: those beyond the limit are closed at once, nobody who is connected notices, and when
// they have gone others get in again. It is the real program, with a real limit.
func TestConnectsBeyondTheFileLimit(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "loopmq")
	if out, err := exec.Command("go", "build", "-o", binary, "./cmd/loopmq").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	const files, burst = 120, 600
	cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("ulimit -n %d && exec %s serve --tcp 127.0.0.1:0 --ws off --http off --coap off --store memory --admin 127.0.0.1:0 --log-format json", files, binary))
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	lines.Scan()
	var first struct{ TCP, Admin string }
	if err := json.Unmarshal(lines.Bytes(), &first); err != nil {
		t.Fatalf("first line of the log: %v: %q", err, lines.Text())
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for lines.Scan() {
			continue
		}
	}()
	defer func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		<-drained
		if err := cmd.Wait(); err != nil {
			t.Errorf("the broker ended with %v", err)
		}
	}()

	stop := startHonest(t, &brokertest.Server{Addr: first.TCP})
	for range 3 {
		conns := make([]net.Conn, 0, burst)
		for range burst {
			conn, err := net.Dial("tcp", first.TCP)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		accepted, refused := 0, 0
		for i, conn := range conns {
			p := codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V5, CleanStart: true, ClientID: []byte(fmt.Sprintf("burst%d", i))}
			c := &rawClient{conn: conn}
			c.write(p.Append(nil, codec.V5))
			if h, _ := c.read(); h.Type == codec.TypeConnack {
				accepted++
			} else {
				refused++
			}
		}
		if accepted == 0 || accepted > files || accepted+refused != burst {
			t.Errorf("%d of %d connections were accepted with %d files, %d refused", accepted, burst, files, refused)
		}
		for _, conn := range conns {
			_ = conn.Close()
		}
		eventually(t, "room for one more", func() bool {
			c := &rawClient{}
			if c.conn, c.err = net.Dial("tcp", first.TCP); c.err != nil {
				return false
			}
			defer func() { _ = c.conn.Close() }()
			p := codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V5, CleanStart: true}
			c.write(p.Append(nil, codec.V5))
			h, _ := c.read()
			return h.Type == codec.TypeConnack
		})
	}
	stop()
	res, err := http.Get("http://" + first.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^loopmq_connections_refused_total\{reason="limit"\} [1-9]`).Match(text) {
		t.Error("refused connections aren't counted")
	}
}

func dial(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, 10*time.Second) }
