package httpbridge

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"net/http"
	"strings"
	"sync"

	"loopmq"
	"loopmq/metrics"
)

// A request with an Idempotency-Key is published once within the window, by the store:
// what is noted with the key is a fingerprint of the messages, the id and how many
// matched, of which the answer is made again. A key that comes with other messages is
// an error (422), and so is one whose first request isn't answered yet (409), both as
// draft-ietf-httpapi-idempotency-key-header has it. Keys belong to a user name.

const (
	headerKey    = "Idempotency-Key"
	headerReplay = "Idempotency-Replayed"
	// keyMax is the longest key, in bytes.
	keyMax = 255
)

// keyOf returns the Idempotency-Key of a request, empty if it has none: a string of
// structured fields [RFC 9651, 3.3.3], or the same without quotes.
func keyOf(r *http.Request) (string, error) {
	values := r.Header[headerKey]
	if len(values) == 0 {
		return "", nil
	}
	key := strings.TrimSpace(values[0])
	if len(key) >= 2 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	valid := key != "" && len(key) <= keyMax && len(values) == 1
	for i := range len(key) {
		valid = valid && key[i] > ' ' && key[i] < 0x7F && key[i] != '"' && key[i] != '\\'
	}
	if !valid {
		return "", badRequest("Idempotency-Key: allowed: one, of 1 to %d visible ASCII characters but \" and \\", keyMax)
	}
	return key, nil
}

// keysInUse are the Idempotency-Keys of requests under way, with the user's name.
type keysInUse struct{ all sync.Map }

// take returns what ends the use of a key, nil if it is in use.
func (k *keysInUse) take(username, key string) (release func()) {
	type use struct{ username, key string }
	u := use{username, key}
	if _, taken := k.all.LoadOrStore(u, struct{}{}); taken {
		return nil
	}
	return func() { k.all.Delete(u) }
}

var (
	errKeyInUse = &fault{
		status: http.StatusConflict, reason: metrics.HTTPKeyInUse, retryAfter: busyRetry,
		detail: "a request with this Idempotency-Key is under way: its answer can be had later, with the same request",
	}
	errKeyReused = faulty(http.StatusUnprocessableEntity, metrics.HTTPKeyReused, "this Idempotency-Key came with other messages before")
	errNote      = errors.New("what was noted with an Idempotency-Key can't be read")
)

// note is what is kept with a key, of one message.
type note struct {
	fingerprint [fingerprintSize]byte
	id          string // hexadecimal
	matched     int
}

const (
	fingerprintSize = 16
	idSize          = 16
)

func (n *note) marshal() []byte {
	b := append([]byte(nil), n.fingerprint[:]...)
	b, _ = hex.AppendDecode(b, []byte(n.id)) // it is hexadecimal
	return binary.AppendUvarint(b, uint64(n.matched))
}

func (n *note) unmarshal(b []byte) error {
	if len(b) < fingerprintSize+idSize {
		return errNote
	}
	matched, size := binary.Uvarint(b[fingerprintSize+idSize:])
	if size <= 0 {
		return errNote
	}
	copy(n.fingerprint[:], b)
	n.id, n.matched = hex.EncodeToString(b[fingerprintSize:][:idSize]), int(matched)
	return nil
}

// fingerprint tells messages from others.
func fingerprint(messages []loopmq.Message) (f [fingerprintSize]byte) {
	h := sha256.New()
	for i := range messages {
		m := &messages[i]
		part(h, m.TopicName)
		part(h, string(m.Payload))
		retain := byte(0)
		if m.Retain {
			retain = 1
		}
		h.Write(binary.BigEndian.AppendUint32([]byte{m.QoS, retain, m.PayloadFormatIndicator}, m.MessageExpiryInterval))
		part(h, m.ContentType)
		part(h, m.ResponseTopic)
		part(h, string(m.CorrelationData))
		for _, u := range m.UserProperties {
			part(h, u.Key)
			part(h, u.Value)
		}
		part(h, "")
	}
	copy(f[:], h.Sum(nil))
	return f
}

func part(h hash.Hash, s string) {
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s))))
	h.Write([]byte(s))
}

// publishOnce publishes messages under a key, and returns a note of each.
func (b *Bridge) publishOnce(c *call, key string, messages []loopmq.Message) ([]note, error) {
	release := b.keys.take(c.caller.Info().Username, key)
	if release == nil {
		return nil, errKeyInUse
	}
	defer release()
	print := fingerprint(messages)
	ids := make([]string, len(messages))
	for i := range ids {
		ids[i] = newID()
	}
	noted, first, err := c.caller.PublishAllOnce(c.ctx, messages, key, b.opts.IdempotencyWindow, func(i int, p loopmq.Published) []byte {
		n := note{print, ids[i], p.Matched}
		return n.marshal()
	}, func(noted []byte) bool { return bytes.HasPrefix(noted, print[:]) })
	if err != nil {
		return nil, err
	}
	notes := make([]note, len(noted))
	for i := range noted {
		if err := notes[i].unmarshal(noted[i]); err != nil {
			return nil, err
		}
	}
	switch {
	case notes[0].fingerprint != print:
		return nil, errKeyReused
	case !first:
		c.w.Header().Set(headerReplay, "true")
	}
	return notes, nil
}
