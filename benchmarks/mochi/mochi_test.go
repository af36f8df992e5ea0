// Package mochi_test measures trie and codec beside those of mochi-mqtt, a broker in Go with one tree of maps under a lock:
//
//	make bench-mochi
//
// Both do the same work on the same topics and packets, in turn in one run, so that what the machine does meanwhile hits both. What is
// reported are medians of the rounds, and their ratio.
package mochi_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/sys/unix"

	"loopmq/codec"
	"loopmq/trie"
)

// beside times ours and theirs in turn, by the processor time of this thread: what the collector does beside it is left out, which is kind to
// who allocates more. Each side does something n times.
func beside(b *testing.B, ours, theirs func(n int)) {
	const rounds, round = 15, 10 * time.Millisecond
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sides := [2]func(int){ours, theirs}
	var counts [2]int
	for i, side := range sides {
		for n := 64; ; n *= 2 { // as many as take a round
			if threadTime(b, side, n) >= round {
				counts[i] = n
				break
			}
		}
	}
	var took [2][]float64
	for b.Loop() {
		for range rounds {
			for i, side := range sides {
				took[i] = append(took[i], float64(threadTime(b, side, counts[i]))/float64(counts[i]))
			}
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	loopmq, other := took[0][len(took[0])/2], took[1][len(took[1])/2]
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(loopmq, "loopmq-ns")
	b.ReportMetric(other, "mochi-ns")
	b.ReportMetric(other/loopmq, "times-faster")
}

func threadTime(b *testing.B, side func(int), n int) time.Duration {
	var before, after unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before)
	side(n)
	if err = errors.Join(err, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after)); err != nil {
		b.Fatal(err)
	}
	return time.Duration(after.Nano() - before.Nano())
}

// BenchmarkMatch finds the one subscriber of a topic among so many filters, one per device.
func BenchmarkMatch(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"1e1", 1e1}, {"1e4", 1e4}, {"1e6", 1e6}} {
		for _, wildcards := range []bool{false, true} {
			b.Run(fmt.Sprintf("subscriptions=%s/wildcards=%v", size.name, wildcards), func(b *testing.B) {
				type session struct{ clientID string }
				tree, index := trie.New[*session](), mochi.NewTopicsIndex()
				for i := range size.n {
					filter, id := fmt.Sprintf("dev/%d/s/x", i), fmt.Sprintf("client-%d", i)
					if wildcards {
						filter = fmt.Sprintf([]string{"dev/%d/+/x", "dev/%d/#"}[i%2], i)
					}
					tree.Subscribe(filter, &session{id}, trie.Options{QoS: 1})
					index.Subscribe(id, packets.Subscription{Filter: filter, Qos: 1})
				}
				const topics = 4096 // a power of two
				r := rand.New(rand.NewPCG(1, 2))
				var asBytes [topics][]byte
				var asString [topics]string // what each side has after decoding
				for i := range topics {
					asString[i] = fmt.Sprintf("dev/%d/s/x", r.IntN(size.n))
					asBytes[i] = []byte(asString[i])
				}
				var m trie.Matches[*session]
				for i := range topics {
					tree.Match(asBytes[i], &m)
					theirs := index.Subscribers(asString[i]).Subscriptions
					if len(m.Subscribers) != 1 || len(theirs) != 1 || theirs[m.Subscribers[0].Subscriber.clientID].Qos != 1 {
						b.Fatalf("%s: %v and %v", asString[i], m.Subscribers, theirs)
					}
				}
				beside(b, func(n int) {
					for i := range n {
						tree.Match(asBytes[i%topics], &m)
					}
				}, func(n int) {
					for i := range n {
						index.Subscribers(asString[i%topics])
					}
				})
			})
		}
	}
}

// packet is one of each kind, in the terms of both.
type packet struct {
	name    string
	version codec.Version
	wire    []byte
	// decode is ours, after the fixed header; append and encode are the two ways back. They are nil where a broker doesn't have to.
	decode func(h codec.FixedHeader, rest []byte) error
	append func(out []byte) []byte
	encode func(pk *packets.Packet, buf *bytes.Buffer) error
}

func packetsOfBoth() []packet {
	topic, payload := []byte("site/17/line/3/speed"), bytes.Repeat([]byte("x"), 64)
	plain := codec.PublishHeader{}
	acked := codec.PublishHeader{QoS: 1, PacketID: 7, HasMessageExpiry: true, MessageExpiry: 60}
	var described codec.Properties
	described.Set(codec.PropContentType)
	described.Set(codec.PropMessageExpiryInterval)
	described.Set(codec.PropUserProperty)
	described.ContentType, described.MessageExpiryInterval = []byte("application/json"), 60
	described.UserProperties = []codec.UserProperty{{Key: []byte("trace"), Value: []byte("0123456789abcdef")}}
	forward := described.AppendForward(nil)

	var publish codec.Publish
	var connect codec.Connect
	var subscribe codec.Subscribe
	var ack codec.Ack
	decodePublish := func(v codec.Version) func(codec.FixedHeader, []byte) error {
		return func(h codec.FixedHeader, rest []byte) error { return publish.Decode(v, h.Flags, rest) }
	}
	return []packet{
		{
			name: "publish/version=4/qos=0", version: codec.V311, wire: codec.AppendPublish(nil, codec.V311, &plain, topic, nil, payload),
			decode: decodePublish(codec.V311),
			append: func(out []byte) []byte { return codec.AppendPublish(out, codec.V311, &plain, topic, nil, payload) },
			encode: (*packets.Packet).PublishEncode,
		},
		{
			name: "publish/version=5/qos=1/properties=3", version: codec.V5, wire: codec.AppendPublish(nil, codec.V5, &acked, topic, forward, payload),
			decode: decodePublish(codec.V5),
			append: func(out []byte) []byte { return codec.AppendPublish(out, codec.V5, &acked, topic, forward, payload) },
			encode: (*packets.Packet).PublishEncode,
		},
		{
			name: "puback/version=4", version: codec.V311, wire: codec.AppendAck(nil, codec.TypePuback, 7),
			decode: func(_ codec.FixedHeader, rest []byte) error { return ack.Decode(codec.V311, codec.TypePuback, rest) },
			append: func(out []byte) []byte { return codec.AppendAck(out, codec.TypePuback, 7) },
			encode: (*packets.Packet).PubackEncode,
		},
		{
			name: "connect/version=4", version: codec.V311,
			wire: (&codec.Connect{
				ProtocolName: []byte("MQTT"), Version: codec.V311, CleanStart: true, KeepAlive: 60, ClientID: []byte("client-000017"),
			}).Append(nil, codec.V311),
			decode: func(_ codec.FixedHeader, rest []byte) error { return connect.Decode(0, rest) },
		},
		{
			name: "subscribe/version=5", version: codec.V5,
			wire: (&codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{
				{TopicFilter: []byte("site/17/line/+/#"), Options: codec.SubscriptionOptions{QoS: 1}},
			}}).Append(nil, codec.V5),
			decode: func(h codec.FixedHeader, rest []byte) error { return subscribe.Decode(codec.V5, h.Flags, rest) },
		},
	}
}

// again is a connection from which the same packet comes again and again.
type again struct {
	net.Conn
	wire []byte
	at   int
}

func (c *again) Read(p []byte) (n int, err error) {
	for n < len(p) {
		copied := copy(p[n:], c.wire[c.at:])
		n, c.at = n+copied, (c.at+copied)%len(c.wire)
	}
	return n, nil
}

func (*again) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// reader is mochi's client that gets this packet. It copies packets, since what it decodes refers to the bytes; loopmq's decoder leaves
// that to who keeps them.
func (p *packet) reader() *mochi.Client {
	c := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)}).NewClient(&again{wire: p.wire}, "listener", "client", false)
	c.Properties.ProtocolVersion = byte(p.version)
	return c
}

// read reads, decodes and checks as mochi does. loopmq's decoder checks as it goes.
func read(c *mochi.Client) (pk packets.Packet, err error) {
	var fh packets.FixedHeader
	if err := c.ReadFixedHeader(&fh); err != nil {
		return pk, err
	}
	if pk, err = c.ReadPacket(&fh); err != nil {
		return pk, err
	}
	code := packets.CodeSuccess
	switch fh.Type {
	case packets.Publish:
		code = pk.PublishValidate(0)
	case packets.Connect:
		code = pk.ConnectValidate()
	case packets.Subscribe:
		code = pk.SubscribeValidate()
	}
	if code != packets.CodeSuccess {
		return pk, code
	}
	return pk, nil
}

// BenchmarkDecode decodes a packet with its fixed header.
func BenchmarkDecode(b *testing.B) {
	for _, p := range packetsOfBoth() {
		b.Run(p.name, func(b *testing.B) {
			ours := func() error {
				h, ok, err := codec.DecodeFixedHeader(p.wire, p.version)
				if !ok || err != nil || h.Size != len(p.wire) {
					return fmt.Errorf("fixed header %v: %w", h, err)
				}
				return p.decode(h, p.wire[h.HeaderSize:h.Size])
			}
			if err := ours(); err != nil {
				b.Fatal(err)
			}
			client := p.reader()
			beside(b, func(n int) {
				for range n {
					if err := ours(); err != nil {
						b.Fatal(err)
					}
				}
			}, func(n int) {
				for range n {
					if _, err := read(client); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkEncode encodes what a broker sends most: here into the output that a connection has, there into a buffer of its own, as
// mochi's client does before it copies that to its output.
func BenchmarkEncode(b *testing.B) {
	for _, p := range packetsOfBoth() {
		if p.append == nil {
			continue
		}
		b.Run(p.name, func(b *testing.B) {
			pk, err := read(p.reader())
			if err != nil {
				b.Fatal(err)
			}
			out := make([]byte, 0, 1024)
			buf := new(bytes.Buffer)
			if err := p.encode(&pk, buf); err != nil || !bytes.Equal(buf.Bytes(), p.wire) || !bytes.Equal(p.append(out), p.wire) {
				b.Fatalf("% x\nis not\n% x\nand % x: %v", p.append(out), p.wire, buf.Bytes(), err)
			}
			beside(b, func(n int) {
				for range n {
					out = p.append(out[:0])
				}
			}, func(n int) {
				for range n {
					buf := new(bytes.Buffer)
					if err := p.encode(&pk, buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
