//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// A fault is what a fakeBroker does wrong, once, at its delivery or acknowledgement number faultAt (stallAt for a stall).
type fault string

const (
	noFault      fault = ""
	dropDelivery fault = "drop"
	doubleIt     fault = "double"
	swapIt       fault = "swap" // with the next
	changeQoS    fault = "qos"
	shorten      fault = "shorten"
	stranger     fault = "stranger" // a publisher index that doesn't exist
	stall        fault = "stall"    // stop everything for stallTime
	noAck        fault = "no ack"
	extraAck     fault = "extra ack"
	failAck      fault = "fail ack" // a Reason Code that is an error
	hangUp       fault = "hang up"
	garbage      fault = "garbage"
	odd          fault = "odd" // a packet that a server doesn't send
	refuse       fault = "refuse"
	refuseSub    fault = "refuse subscription"
	mute         fault = "mute"  // no CONNACK
	early        fault = "early" // PUBLISH before CONNACK
)

const (
	// faultAt comes in every round: each part of one lasts until something was delivered.
	faultAt   = 2
	stallAt   = 40
	stallTime = 200 * time.Millisecond
)

// A fakeBroker does what the scenarios need of a broker, plainly: a goroutine per connection and one map.
type fakeBroker struct {
	fault    fault
	listener net.Listener

	mu struct {
		sync.Mutex
		subscribers map[string][]*fakeConn // by Topic Filter without the $share part
		turns       map[string]int         // of shared subscriptions
		deliveries  int
		acks        int
		held        []byte // swapIt
	}
}

type fakeConn struct {
	broker   *fakeBroker
	net      net.Conn
	version  byte
	packetID uint16
	writing  sync.Mutex
}

// serveFake accepts connections on listener until it is closed.
func serveFake(listener net.Listener, f fault) {
	b := &fakeBroker{fault: f, listener: listener}
	b.mu.subscribers, b.mu.turns = map[string][]*fakeConn{}, map[string]int{}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go (&fakeConn{broker: b, net: conn}).serve()
	}
}

// startFake runs a fake broker in this process and returns its port.
func startFake(t *testing.T, f fault) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serveFake(l, f)
	return l.Addr().(*net.TCPAddr).Port
}

// TestMain runs the fake broker instead of the tests where a test starts this binary as a broker.
func TestMain(m *testing.M) {
	if port := os.Getenv("COMPARE_FAKE_PORT"); port != "" {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stderr, "the fake broker listens")
		serveFake(l, fault(os.Getenv("COMPARE_FAKE_FAULT")))
	}
	os.Exit(m.Run())
}

// fakeCommand is a NAME=COMMAND that starts the fake broker.
func fakeCommand(name string, f fault) string {
	return fmt.Sprintf("%s=env COMPARE_FAKE_PORT={port} COMPARE_FAKE_FAULT=%s %s", name, quote(string(f)), quote(os.Args[0]))
}

func (c *fakeConn) serve() {
	defer c.net.Close()
	var b []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := c.net.Read(chunk)
		if err != nil {
			return
		}
		b = append(b, chunk[:n]...)
		for {
			first, body, size, err := nextPacket(b)
			if err != nil || size == 0 {
				break
			}
			if err := c.packet(first, body); err != nil {
				return
			}
			b = b[size:]
		}
	}
}

func (c *fakeConn) write(b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.net.Write(b)
	return err
}

func (c *fakeConn) packet(first byte, body []byte) error {
	b := c.broker
	switch first & 0xF0 {
	case typeConnect:
		c.version = body[6]
		switch {
		case b.fault == mute:
			return nil
		case b.fault == refuse:
			return c.write([]byte{typeConnack, 2, 0, 5})
		case b.fault == early:
			return c.write([]byte{typePublish, 3, 0, 1, 'a'})
		case c.version == 5: // Topic Alias Maximum, Assigned Client Identifier, then Receive Maximum 7
			return c.write([]byte{typeConnack, 13, 0, 0, 10, 0x22, 0, 1, 0x12, 0, 1, 'x', 0x21, 0, 7})
		}
		return c.write([]byte{typeConnack, 2, 0, 0})
	case typeSubscribe & 0xF0:
		return c.subscribe(body)
	case typePublish:
		return c.publish(first, body)
	case typePubrec:
		return c.write(appendAck(nil, typePubrel, body))
	case typePubrel & 0xF0:
		return c.ack(typePubcomp, body)
	case typeDisconnect:
		return io.EOF
	}
	return nil
}

func (c *fakeConn) subscribe(body []byte) error {
	b := c.broker
	id, body := body[:2], body[2:]
	if c.version == 5 {
		body = body[1:]
	}
	filter, qos := string(body[2:len(body)-1]), body[len(body)-1]
	filter = strings.TrimPrefix(filter, "$share/members/")
	b.mu.Lock()
	b.mu.subscribers[filter] = append(b.mu.subscribers[filter], c)
	b.mu.Unlock()
	if b.fault == refuseSub {
		qos = 0x80
	}
	if c.version == 5 {
		return c.write([]byte{typeSuback, 4, id[0], id[1], 0, qos})
	}
	return c.write([]byte{typeSuback, 3, id[0], id[1], qos})
}

// ack answers a publisher.
func (c *fakeConn) ack(first byte, id []byte) error {
	b := c.broker
	b.mu.Lock()
	b.mu.acks++
	due := b.mu.acks == faultAt
	b.mu.Unlock()
	out := appendAck(nil, first, id)
	switch {
	case due && b.fault == noAck:
		return nil
	case due && b.fault == extraAck:
		for range 100 { // more than any window
			out = appendAck(out, first, id)
		}
	case due && b.fault == failAck:
		out = []byte{first, 3, id[0], id[1], 0x97}
	}
	return c.write(out)
}

func (c *fakeConn) publish(first byte, body []byte) error {
	topic := string(body[2 : 2+binary.BigEndian.Uint16(body)])
	id, payload, err := splitPublish(c.version, first, body)
	if err != nil {
		return err
	}
	if err := c.broker.fanOut(topic, first, payload); err != nil {
		return err
	}
	switch first >> 1 & 3 {
	case 1:
		return c.ack(typePuback, id)
	case 2:
		return c.write(appendAck(nil, typePubrec, id))
	}
	return nil
}

// fanOut holds the lock to the end, so that all subscribers see one order.
func (b *fakeBroker) fanOut(topic string, first byte, payload []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	filter := topic
	if len(b.mu.subscribers[filter]) == 0 {
		filter = topic[:strings.LastIndex(topic, "/")+1] + "+"
	}
	targets := b.mu.subscribers[filter]
	if strings.Contains(topic, "/shared/") {
		b.mu.turns[filter]++
		n := b.mu.turns[filter] % len(targets)
		targets = targets[n : n+1]
	}
	for _, c := range targets {
		if err := b.deliver(c, topic, first, payload); err != nil {
			return err
		}
	}
	return nil
}

func (b *fakeBroker) deliver(c *fakeConn, topic string, first byte, payload []byte) error {
	b.mu.deliveries++
	harm := noFault
	switch {
	case b.fault == stall && b.mu.deliveries == stallAt, b.fault != stall && b.mu.deliveries == faultAt:
		harm = b.fault
	}
	qos := first >> 1 & 3
	if harm == changeQoS {
		qos = (qos + 1) % 3
	}
	if harm == shorten {
		payload = payload[:len(payload)-1]
	}
	packet, idAt, payloadAt := publishTemplate(c.version, qos, topic, len(payload))
	copy(packet[payloadAt:], payload)
	if qos > 0 {
		c.packetID++
		binary.BigEndian.PutUint16(packet[idAt:], c.packetID)
	}
	switch harm {
	case dropDelivery:
		return nil
	case doubleIt:
		packet = append(packet, packet...)
	case swapIt:
		b.mu.held = packet
		return nil
	case stranger:
		binary.BigEndian.PutUint32(packet[payloadAt:], 1<<20)
	case stall:
		<-time.After(stallTime)
	case hangUp:
		return errors.Join(errors.New("hung up"), c.net.Close())
	case garbage:
		packet = []byte{typePublish, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}
	case odd:
		packet = []byte{typeConnect, 2, 0, 0}
	case noFault:
		packet = append(packet, b.mu.held...)
		b.mu.held = nil
	}
	return c.write(packet)
}
