package meddler

import (
	"bufio"
	"encoding/binary"
	"net"
	"slices"
	"sync"
	"time"
)

// A conn is a client's connection and the one to the broker. A goroutine passes on what comes from each side.
type conn struct {
	proxy              *Proxy
	toClient, toBroker *side
	level              byte // protocol level, from the CONNECT

	mu struct {
		sync.Mutex
		copies  map[uint16]bool // Packet Identifiers of copies that the client hasn't acknowledged
		dropped map[uint16]bool // those of QoS 2 messages that were dropped and whose PUBREL is to come
		held    *held           // the message that waits to be swapped
	}
}

// held is a message that waits for the next one of its stream.
type held struct {
	packet []byte
	stream string
	timer  *time.Timer
}

// A side is where packets go to. Both goroutines write to it.
type side struct {
	conn net.Conn
	mu   sync.Mutex
	w    *bufio.Writer // guarded by mu
}

func (s *side) write(packet []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.w.Write(packet) // a failed Writer stays so, and the reader of that side learns why
}

func (s *side) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.w.Flush()
}

// pass hands packets that come from one side to handle until that side ends or sends what is no packet.
func (c *conn) pass(from net.Conn, to *side, handle func(packet []byte)) {
	r := bufio.NewReaderSize(from, 64<<10)
	defer to.flush()
	var packet []byte
	for {
		var err error
		if packet, err = readPacket(r, packet[:0]); err != nil {
			return
		}
		handle(packet)
		if r.Buffered() == 0 {
			c.toClient.flush()
			c.toBroker.flush()
		}
	}
}

// up takes what the client sends.
func (c *conn) up(packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch packet[0] {
	case typeConnect:
		c.level = protocolLevel(packet)
	case typePuback, typePubcomp:
		if id := ackID(packet); c.mu.copies[id] {
			delete(c.mu.copies, id)
			return
		}
	case typePubrec:
		if id := ackID(packet); c.mu.copies[id] {
			c.toClient.write(ack(typePubrel, id))
			return
		}
	}
	c.toBroker.write(packet)
}

// down takes what the broker sends.
func (c *conn) down(packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case packet[0]&0xF0 == typePublish:
		if m, ok := parsePublish(packet, c.level); ok {
			c.message(packet, m)
			return
		}
	case packet[0] == typePubrel:
		if id := ackID(packet); c.mu.dropped[id] {
			delete(c.mu.dropped, id)
			c.toBroker.write(ack(typePubcomp, id))
			return
		}
	}
	c.toClient.write(packet)
}

// message passes a PUBLISH on, or spoils it.
//
// REQUIRES: c.mu
func (c *conn) message(packet []byte, m message) {
	fault, spoil := c.proxy.spoil()
	stream := string('0'+m.qos) + c.proxy.plan.Stream(m.topicName, m.payload) // [MQTT-4.6.0-6]: order is per QoS
	switch {
	case c.mu.held != nil && c.mu.held.stream == stream:
		c.toClient.write(packet)
		c.releaseLocked()
		c.proxy.counts[Swap].Add(1)
	case !spoil, fault == Swap && c.mu.held != nil:
		c.toClient.write(packet)
	case fault == Drop:
		c.drop(m)
		c.proxy.counts[Drop].Add(1)
	case fault == Double:
		c.toClient.write(packet)
		c.double(packet, m)
		c.proxy.counts[Double].Add(1)
	case fault == Swap:
		h := &held{packet: slices.Clone(packet), stream: stream}
		h.timer = time.AfterFunc(holdMax, c.release)
		c.mu.held = h
	}
}

// drop acknowledges a message in the client's name.
func (c *conn) drop(m message) {
	switch m.qos {
	case 1:
		c.toBroker.write(ack(typePuback, m.id))
	case 2:
		c.mu.dropped[m.id] = true
		c.toBroker.write(ack(typePubrec, m.id))
	}
}

// double sends the message again. Brokers take Packet Identifiers in turn or take the lowest, so the one half-way round is free.
func (c *conn) double(packet []byte, m message) {
	again := slices.Clone(packet)
	if m.qos > 0 {
		id := uint16((int(m.id)+32767)%65535 + 1)
		binary.BigEndian.PutUint16(again[m.idAt:], id)
		c.mu.copies[id] = true
	}
	c.toClient.write(again)
}

// release sends the message that is held after all: none of its stream came in time, or it came and went first.
func (c *conn) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.releaseLocked()
	c.toClient.flush()
}

func (c *conn) releaseLocked() {
	if h := c.mu.held; h != nil {
		h.timer.Stop()
		c.toClient.write(h.packet)
		c.mu.held = nil
	}
}
