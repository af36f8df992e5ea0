package pebble

import (
	"bytes"
	"time"

	"loopmq/store"
)

// onceSwept is how many keys that have expired go with each one that comes, so that
// what is left of many that came at once costs no single step much.
const onceSwept = 8

func onceSize(o *store.Once) int { return len(o.Key) + len(o.Answer) }

// mayHappen reports whether the key of o is not noted yet; else o has the answer.
func (t *tx) mayHappen(o *store.Once) store.Result {
	if len(o.Key) > store.MaxOnceKey || len(o.Answer) > store.MaxOnceAnswer {
		return store.Refused
	}
	if until, answer, noted := t.once(o.Key); noted && t.s.now().Before(until) {
		o.Answer = answer
		return store.Duplicate
	}
	return store.Done
}

// once returns what is noted under a key, expired or not.
func (t *tx) once(key string) (until time.Time, answer []byte, noted bool) {
	t.key = keyString(t.key, keyOnce, key)
	noted = t.get(t.key, func(value []byte) error {
		r := readRecord(value)
		until, answer = r.time(), bytes.Clone(r.b)
		return r.err()
	})
	return until, answer, noted
}

// noteOnce notes the key of o.
func (t *tx) noteOnce(o *store.Once) {
	now := t.s.now()
	var expired []string
	t.s.onceDue.upTo(t, now, onceSwept, func(_ time.Time, name, _ []byte) error {
		expired = append(expired, string(name))
		return nil
	})
	for _, key := range append(expired, o.Key) {
		t.forgetOnce(key)
	}
	until := o.Expires
	if latest := now.Add(store.MaxOnceWindow); until.After(latest) {
		until = latest
	}
	if !now.Before(until) {
		return
	}
	t.value = newRecord(t.value)
	t.value.time(until)
	t.value = append(t.value, o.Answer...)
	t.key = keyString(t.key, keyOnce, o.Key)
	t.set(t.key, t.value)
	t.s.onceDue.add(t, until, []byte(o.Key), nil)
	t.s.used += onceSize(o)
}

// forgetOnce forgets a key if it is noted.
func (t *tx) forgetOnce(key string) {
	until, answer, noted := t.once(key)
	if !noted {
		return
	}
	t.delete(keyString(t.key, keyOnce, key))
	t.s.onceDue.remove(t, until, []byte(key))
	t.s.used -= len(key) + len(answer)
}
