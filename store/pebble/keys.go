package pebble

import (
	"encoding/binary"
	"time"

	"loopmq/store"
)

// The first byte of a key says what is stored under it. Integers are
// big-endian, so that keys are in their order. "inc" is an incarnation, which
// also names the session's queue; queues of groups have a number from the same
// sequence.
const (
	keyFormat       = 'f' // version of the format
	keyBlock        = 'k' // how often ids were begun, see ids
	keyUsed         = 'u' // bytes of all messages
	keySession      = 's' // ClientID: a session that has stored state
	keySubscription = 'b' // inc, TopicFilter
	keyHeld         = 'h' // inc, Packet Identifier
	keyReleased     = 'r' // inc, Number
	keyGroup        = 'g' // ShareName, 0, TopicFilter: the number of its queue
	keyQueue        = 'c' // queue: length, bytes, last number
	keyEntry        = 'q' // queue, Number
	keyMessage      = 'm' // id: a message that several places share
	keyReferences   = 'n' // id: how many do, if that has changed
	keyRetained     = 't' // Topic Name
	keyWill         = 'w' // Epoch
	keyOwned        = 'o' // Epoch: the ClientID of a connection that has stored something
	keyOutbox       = 'x' // endpoint: the number of its outbox, and what that holds
	keyEvent        = 'v' // outbox, EventID
	keyLetter       = 'l' // outbox, EventID: a dead letter
	keyBan          = 'a' // name
	keyOnce         = 'i' // key of a store.Once: until when, and the answer

	keySessionDue  = 'E' // due, inc: the ClientID
	keyRetainedDue = 'R' // due, Topic Name
	keyWillDue     = 'W' // due, Epoch
	keyOnceDue     = 'I' // due, key of a store.Once
)

func appendUint64(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

func appendNumber(b []byte, n store.Number) []byte {
	return appendUint64(appendUint64(b, n.Generation), n.Seq)
}

// key1 is a key of a prefix and an integer.
func key1(b []byte, prefix byte, n uint64) []byte { return appendUint64(append(b[:0], prefix), n) }

func keyString(b []byte, prefix byte, s string) []byte { return append(append(b[:0], prefix), s...) }

func entryKey(b []byte, queue uint64, n store.Number) []byte {
	return appendNumber(key1(b, keyEntry, queue), n)
}

// numberOf returns the Number that a key ends with.
func numberOf(key []byte) store.Number {
	key = key[len(key)-16:]
	return store.Number{Generation: binary.BigEndian.Uint64(key), Seq: binary.BigEndian.Uint64(key[8:])}
}

// eventKey is the key of an event or a dead letter.
func eventKey(b []byte, prefix byte, outbox uint64, id store.EventID) []byte {
	return appendNumber(key1(b, prefix, outbox), store.Number(id))
}

func groupKey(b []byte, id groupID) []byte {
	return append(append(keyString(b, keyGroup, id.shareName), 0), id.topicFilter...)
}

// orderedTime is a time as an integer of the same order.
func orderedTime(t time.Time) uint64 { return uint64(t.UnixNano()) ^ 1<<63 }

func timeOf(n uint64) time.Time { return time.Unix(0, int64(n^1<<63)) }

// after is the first key that does not begin with prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
