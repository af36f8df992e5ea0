package webhooks

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"loopmq/codec"
)

// record is an event as an outbox keeps it: all that a request may say of it, in few bytes. It is written by the node on
// which the event happened and read by the one that delivers it, which may be of another version.
//
// The first byte is the version, then come fields: a byte that says which, the length of the value as a varint, the
// value. Fields that have nothing to say are left out; those that aren't known are skipped.
type record struct {
	id   [16]byte // of the event: the same at all endpoints
	kind string   // message.published
	at   time.Time
	node string

	// The client that it happened to.
	clientID   string
	username   string
	remoteAddr string
	listener   string
	version    codec.Version // 0: no client
	keepAlive  uint16
	flags      recordFlags

	reasonCode codec.ReasonCode
	reason     string

	topicFilter string
	options     byte // of the subscription, as they stand in SUBSCRIBE

	// The message; no topicName: none. payload is nil if the endpoint gets none.
	topicName  []byte
	payload    []byte
	properties []byte // those that a server passes on, as they stand in PUBLISH
	qos        byte
	expiry     uint32 // Message Expiry Interval, seconds; 0: none
	packetID   uint16
	publisher  string // the ClientID that it came from, if that isn't clientID
}

// recordFlags are answers to questions that are mostly no.
type recordFlags uint8

const (
	flagRetain recordFlags = 1 << iota
	flagSessionPresent
	flagCleanStart
	flagReasonCode // there is one
)

const recordVersion = 1

// The fields of a record. Numbers that were in use stay taken.
const (
	fieldID byte = iota + 1
	fieldKind
	fieldAt
	fieldNode
	fieldClientID
	fieldUsername
	fieldRemoteAddr
	fieldListener
	fieldVersion
	fieldKeepAlive
	fieldFlags
	fieldReasonCode
	fieldReason
	fieldTopicFilter
	fieldOptions
	fieldTopicName
	fieldPayload
	fieldProperties
	fieldQoS
	fieldExpiry
	fieldPacketID
	fieldPublisher
)

// encode returns the bytes of a record, in one allocation.
func (r *record) encode() []byte {
	const numbers, overhead = 96, 1 + binary.MaxVarintLen32
	texts := len(r.kind) + len(r.node) + len(r.clientID) + len(r.username) + len(r.remoteAddr) + len(r.listener) + len(r.reason) +
		len(r.topicFilter) + len(r.topicName) + len(r.payload) + len(r.properties) + len(r.publisher)
	b := make([]byte, 0, 1+numbers+12*overhead+texts)
	b = append(b, recordVersion)
	b = appendField(b, fieldID, r.id[:])
	b = appendField(b, fieldKind, r.kind)
	b = appendNumber(b, fieldAt, uint64(max(0, r.at.UnixNano())))
	b = appendField(b, fieldNode, r.node)
	b = appendField(b, fieldClientID, r.clientID)
	b = appendField(b, fieldUsername, r.username)
	b = appendField(b, fieldRemoteAddr, r.remoteAddr)
	b = appendField(b, fieldListener, r.listener)
	b = appendNumber(b, fieldVersion, uint64(r.version))
	b = appendNumber(b, fieldKeepAlive, uint64(r.keepAlive))
	b = appendNumber(b, fieldFlags, uint64(r.flags))
	b = appendNumber(b, fieldReasonCode, uint64(r.reasonCode))
	b = appendField(b, fieldReason, r.reason)
	b = appendField(b, fieldTopicFilter, r.topicFilter)
	b = appendNumber(b, fieldOptions, uint64(r.options))
	b = appendField(b, fieldTopicName, r.topicName)
	if r.payload != nil { // an empty one is one
		b = appendHeader(b, fieldPayload, len(r.payload))
		b = append(b, r.payload...)
	}
	b = appendField(b, fieldProperties, r.properties)
	b = appendNumber(b, fieldQoS, uint64(r.qos))
	b = appendNumber(b, fieldExpiry, uint64(r.expiry))
	b = appendNumber(b, fieldPacketID, uint64(r.packetID))
	return appendField(b, fieldPublisher, r.publisher)
}

func appendHeader(b []byte, field byte, size int) []byte {
	return binary.AppendUvarint(append(b, field), uint64(size))
}

func appendField[T ~string | ~[]byte](b []byte, field byte, value T) []byte {
	if len(value) == 0 {
		return b
	}
	return append(appendHeader(b, field, len(value)), value...)
}

func appendNumber(b []byte, field byte, value uint64) []byte {
	if value == 0 {
		return b
	}
	var text [binary.MaxVarintLen64]byte
	return appendField(b, field, text[:binary.PutUvarint(text[:], value)])
}

// decode reads a record, whose bytes r refers to from then on.
func (r *record) decode(b []byte) error {
	*r = record{}
	if len(b) == 0 || b[0] != recordVersion {
		return fmt.Errorf("%w: of another version", ErrRecord)
	}
	for b = b[1:]; len(b) > 0; {
		field := b[0]
		size, n := binary.Uvarint(b[1:])
		if n <= 0 || size > uint64(len(b)-1-n) {
			return fmt.Errorf("%w: field %d is cut off", ErrRecord, field)
		}
		value := b[1+n : 1+n+int(size)]
		b = b[1+n+int(size):]
		if err := r.set(field, value); err != nil {
			return err
		}
	}
	if r.kind == "" {
		return fmt.Errorf("%w: of no kind", ErrRecord)
	}
	return nil
}

func (r *record) set(field byte, value []byte) error {
	switch field {
	case fieldID:
		if len(value) != len(r.id) {
			return fmt.Errorf("%w: an id of %d bytes", ErrRecord, len(value))
		}
		copy(r.id[:], value)
	case fieldKind:
		r.kind = string(value)
	case fieldNode:
		r.node = string(value)
	case fieldClientID:
		r.clientID = string(value)
	case fieldUsername:
		r.username = string(value)
	case fieldRemoteAddr:
		r.remoteAddr = string(value)
	case fieldListener:
		r.listener = string(value)
	case fieldReason:
		r.reason = string(value)
	case fieldTopicFilter:
		r.topicFilter = string(value)
	case fieldTopicName:
		r.topicName = value
	case fieldPayload:
		r.payload = value
	case fieldProperties:
		r.properties = value
	case fieldPublisher:
		r.publisher = string(value)
	default:
		return r.setNumber(field, value)
	}
	return nil
}

func (r *record) setNumber(field byte, value []byte) error {
	var most uint64
	switch field {
	case fieldAt:
		most = math.MaxInt64
	case fieldExpiry:
		most = math.MaxUint32
	case fieldKeepAlive, fieldPacketID:
		most = math.MaxUint16
	case fieldVersion, fieldFlags, fieldReasonCode, fieldOptions, fieldQoS:
		most = math.MaxUint8
	default:
		return nil // of a later version
	}
	v, n := binary.Uvarint(value)
	if n <= 0 || n != len(value) || v > most {
		return fmt.Errorf("%w: field %d is no number that it may be", ErrRecord, field)
	}
	switch field {
	case fieldAt:
		r.at = time.Unix(0, int64(v)).UTC()
	case fieldExpiry:
		r.expiry = uint32(v)
	case fieldKeepAlive:
		r.keepAlive = uint16(v)
	case fieldPacketID:
		r.packetID = uint16(v)
	case fieldVersion:
		r.version = codec.Version(v)
	case fieldFlags:
		r.flags = recordFlags(v)
	case fieldReasonCode:
		r.reasonCode = codec.ReasonCode(v)
	case fieldOptions:
		r.options = byte(v)
	default:
		r.qos = byte(v)
	}
	return nil
}

func (r *record) has(f recordFlags) bool { return r.flags&f != 0 }

// isMessage is whether it is about a message.
func (r *record) isMessage() bool { return len(r.topicName) > 0 }

// Key is what an event is kept in order by, as Order says: those with the same one stay in order among themselves. It is
// empty for OrderNone, for what has none, and for records that can't be read.
func (e *Endpoint) Key(data []byte) string {
	var r record
	if e.Order == OrderNone || r.decode(data) != nil {
		return ""
	}
	switch {
	case e.Order == OrderClient:
		return r.clientID
	case r.isMessage():
		return string(r.topicName)
	}
	return r.topicFilter
}

// Until is when delivering an event is given up. It is the zero time for records that can't be read.
func (e *Endpoint) Until(data []byte) time.Time {
	var r record
	if r.decode(data) != nil {
		return time.Time{}
	}
	if e.Replies != nil && r.responseTopic() != "" {
		return r.at.Add(min(e.Replies.Timeout, e.MaxAge))
	}
	return r.at.Add(e.MaxAge)
}

// responseTopic is where the client that published the message waits for an answer; empty: it doesn't.
func (r *record) responseTopic() string {
	var p codec.Properties
	if r.kind != kindPublished || codec.DecodeForward(r.properties, &p) != nil {
		return ""
	}
	return string(p.ResponseTopic)
}

// kindPublished is the kind of event that can be answered.
const kindPublished = "message.published"
