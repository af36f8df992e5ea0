package pebble

import (
	"bytes"
	"encoding/binary"
	"time"

	"loopmq/codec"
	"loopmq/store"
)

// recordVersion is the first byte of each record. A record of another version is
// refused; a change of the format converts them, see migrations.
const recordVersion = 1

// recordWriter appends fields to a record.
type recordWriter []byte

func newRecord(b []byte) recordWriter { return append(b[:0], recordVersion) }

func (w *recordWriter) byte(b byte)      { *w = append(*w, b) }
func (w *recordWriter) uint(n uint64)    { *w = binary.AppendUvarint(*w, n) }
func (w *recordWriter) fixed(n uint64)   { *w = appendUint64(*w, n) }
func (w *recordWriter) string(s string)  { w.uint(uint64(len(s))); *w = append(*w, s...) }
func (w *recordWriter) bytes(b []byte)   { w.uint(uint64(len(b))); *w = append(*w, b...) }
func (w *recordWriter) time(t time.Time) { w.fixed(timeField(t)) }

func (w *recordWriter) number(n store.Number) {
	w.fixed(n.Generation)
	w.fixed(n.Seq)
}

// timeField has 0 for the zero time.
func timeField(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return orderedTime(t)
}

// recordReader takes fields from a record. After the first field that is not
// there all are zero, and bad is set.
type recordReader struct {
	b   []byte
	bad bool
}

func readRecord(b []byte) recordReader {
	if len(b) == 0 || b[0] != recordVersion {
		return recordReader{bad: true}
	}
	return recordReader{b: b[1:]}
}

func (r *recordReader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	field := r.b[:n:n]
	r.b = r.b[n:]
	return field
}

func (r *recordReader) byte() byte {
	if f := r.take(1); f != nil {
		return f[0]
	}
	return 0
}

func (r *recordReader) uint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad = true
		return 0
	}
	r.take(uint64(size))
	return n
}

func (r *recordReader) fixed() uint64 {
	if f := r.take(8); f != nil {
		return binary.BigEndian.Uint64(f)
	}
	return 0
}

func (r *recordReader) bytes() []byte  { return r.take(r.uint()) }
func (r *recordReader) string() string { return string(r.bytes()) }

func (r *recordReader) number() store.Number {
	return store.Number{Generation: r.fixed(), Seq: r.fixed()}
}

func (r *recordReader) time() time.Time {
	if n := r.fixed(); n != 0 {
		return timeOf(n)
	}
	return time.Time{}
}

func (r *recordReader) err() error {
	if r.bad {
		return errCorrupt
	}
	return nil
}

// Flags of a message. The lowest bits are its QoS.
const (
	messageRetain    = 1 << 2
	messageExpiry    = 1 << 3
	messagePublisher = 1 << 4
	messageProps     = 1 << 5

	qosBits = 3
)

// message appends m, which ends the record.
func (w *recordWriter) message(m *store.Message) {
	flags := m.QoS
	if m.Retain {
		flags |= messageRetain
	}
	if !m.Expiry.IsZero() {
		flags |= messageExpiry
	}
	if m.PublisherID != "" || m.PublisherName != "" {
		flags |= messagePublisher
	}
	if len(m.Properties) > 0 {
		flags |= messageProps
	}
	w.byte(flags)
	if flags&messageExpiry != 0 {
		w.fixed(orderedTime(m.Expiry))
	}
	if flags&messagePublisher != 0 {
		w.string(m.Publisher())
	}
	if flags&messageProps != 0 {
		w.bytes(m.Properties)
	}
	w.bytes(m.TopicName)
	*w = append(*w, m.Payload...)
}

// message returns the rest of the record as a message. It shares its bytes.
func (r *recordReader) message() *store.Message {
	m := &store.Message{}
	flags := r.byte()
	m.QoS, m.Retain = flags&qosBits, flags&messageRetain != 0
	if flags&messageExpiry != 0 {
		m.Expiry = timeOf(r.fixed())
	}
	if flags&messagePublisher != 0 {
		m.SetPublisher(r.string())
	}
	if flags&messageProps != 0 {
		m.Properties = r.bytes()
	}
	m.TopicName = r.bytes()
	m.Payload = r.b
	return m
}

// Flags of an entry. The lowest bits are the QoS of the delivery.
const (
	entryRetain      = 1 << 2
	entryShared      = 1 << 3
	entryIdentifiers = 1 << 4
	entryGroup       = 1 << 5
)

// entry is a queue's record of a message.
type entry struct {
	qos         byte
	retain      bool
	size        int    // of the message
	shared      uint64 // the message's id; 0: body has it
	identifiers []uint32
	shareName   string
	topicFilter string
	body        []byte // the message as recordWriter.message writes it
}

func (w *recordWriter) entry(e *entry) {
	flags := e.qos
	if e.retain {
		flags |= entryRetain
	}
	if e.shared != 0 {
		flags |= entryShared
	}
	if len(e.identifiers) > 0 {
		flags |= entryIdentifiers
	}
	if e.shareName != "" {
		flags |= entryGroup
	}
	w.byte(flags)
	w.uint(uint64(e.size))
	if e.shared != 0 {
		w.fixed(e.shared)
	}
	if len(e.identifiers) > 0 {
		w.uint(uint64(len(e.identifiers)))
		for _, id := range e.identifiers {
			w.uint(uint64(id))
		}
	}
	if e.shareName != "" {
		w.string(e.shareName)
		w.string(e.topicFilter)
	}
	*w = append(*w, e.body...)
}

// head reads what is needed to remove an entry.
func (r *recordReader) head() (e entry, flags byte) {
	flags = r.byte()
	e.qos, e.retain = flags&qosBits, flags&entryRetain != 0
	e.size = int(r.uint())
	if flags&entryShared != 0 {
		e.shared = r.fixed()
	}
	return e, flags
}

// entry reads an entry. Its body shares the record's bytes.
func (r *recordReader) entry() entry {
	e, flags := r.head()
	if flags&entryIdentifiers != 0 {
		n := r.uint()
		if n > uint64(len(r.b)) {
			r.bad = true
			return e
		}
		e.identifiers = make([]uint32, n)
		for i := range e.identifiers {
			e.identifiers[i] = uint32(r.uint())
		}
	}
	if flags&entryGroup != 0 {
		e.shareName, e.topicFilter = r.string(), r.string()
	}
	e.body = r.b
	return e
}

// messageOf decodes the body of an entry or a shared message, of which it makes
// a copy.
func messageOf(body []byte) (*store.Message, error) {
	r := recordReader{b: bytes.Clone(body)}
	m := r.message()
	return m, r.err()
}

const (
	sessionDurable = 1 << iota
	sessionDropOldest
)

func (w *recordWriter) session(se *store.Session) {
	var flags byte
	if se.Durable {
		flags |= sessionDurable
	}
	if se.Limits.Policy == store.DropOldest {
		flags |= sessionDropOldest
	}
	w.byte(flags)
	w.fixed(se.ID.Incarnation)
	w.fixed(se.Epoch)
	w.uint(uint64(se.SessionExpiryInterval))
	w.time(se.Due)
	w.uint(uint64(se.Limits.Messages))
	w.uint(uint64(se.Limits.Bytes))
	w.uint(uint64(se.Limits.Protected))
	w.string(se.Owner)
	w.connection(&se.Connection)
	var d store.Disconnected
	if se.Disconnected != nil {
		d = *se.Disconnected
	}
	w.time(d.At)
	w.string(d.Reason)
}

func (w *recordWriter) connection(c *store.Connection) {
	w.string(c.Username)
	w.string(c.Address)
	w.string(c.Listener)
	w.byte(byte(c.ProtocolVersion))
	w.uint(uint64(c.KeepAlive))
	clean := byte(0)
	if c.CleanStart {
		clean = 1
	}
	w.byte(clean)
	w.time(c.Since)
}

func (r *recordReader) connection() (c store.Connection) {
	c.Username, c.Address, c.Listener = r.string(), r.string(), r.string()
	c.ProtocolVersion, c.KeepAlive, c.CleanStart = codec.Version(r.byte()), uint16(r.uint()), r.byte() == 1
	c.Since = r.time()
	return c
}

func readSession(clientID string, value []byte) (se store.Session, err error) {
	r := readRecord(value)
	flags := r.byte()
	se.Durable = flags&sessionDurable != 0
	if flags&sessionDropOldest != 0 {
		se.Limits.Policy = store.DropOldest
	}
	se.ID = store.SessionID{ClientID: clientID, Incarnation: r.fixed()}
	se.Epoch = r.fixed()
	se.SessionExpiryInterval = uint32(r.uint())
	se.Due = r.time()
	se.Limits.Messages, se.Limits.Bytes, se.Limits.Protected = int(r.uint()), int(r.uint()), int(r.uint())
	se.Owner = r.string()
	if len(r.b) > 0 { // it was written by a version that knows of it
		se.Connection = r.connection()
		if d := (store.Disconnected{At: r.time(), Reason: r.string()}); !d.At.IsZero() {
			se.Disconnected = &d
		}
	}
	return se, r.err()
}

const (
	optionNoLocal           = 1 << 2
	optionRetainAsPublished = 1 << 3
	optionRetainHandling    = 4 // shift
)

func (w *recordWriter) subscription(s *store.Subscription) {
	b := s.Options.QoS | s.Options.RetainHandling<<optionRetainHandling
	if s.Options.NoLocal {
		b |= optionNoLocal
	}
	if s.Options.RetainAsPublished {
		b |= optionRetainAsPublished
	}
	w.byte(b)
	w.uint(uint64(s.SubscriptionIdentifier))
}

func readSubscription(topicFilter string, value []byte) (store.Subscription, error) {
	r := readRecord(value)
	b := r.byte()
	s := store.Subscription{
		TopicFilter: topicFilter,
		Options: codec.SubscriptionOptions{
			QoS: b & qosBits, NoLocal: b&optionNoLocal != 0, RetainAsPublished: b&optionRetainAsPublished != 0,
			RetainHandling: b >> optionRetainHandling,
		},
		SubscriptionIdentifier: uint32(r.uint()),
	}
	return s, r.err()
}

func (w *recordWriter) will(x *store.Will) {
	w.string(x.ClientID)
	w.uint(uint64(x.DelayInterval))
	w.fixed(uint64(x.ExpirySeconds))
	w.time(x.Due)
	w.message(&x.Message)
}

func readWill(epoch uint64, value []byte) (*store.Will, error) {
	r := readRecord(bytes.Clone(value))
	w := &store.Will{Epoch: epoch}
	w.ClientID = r.string()
	w.DelayInterval = uint32(r.uint())
	w.ExpirySeconds = int64(r.fixed())
	w.Due = r.time()
	w.Message = *r.message()
	return w, r.err()
}
