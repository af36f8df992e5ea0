package memory

import (
	"time"

	"loopmq/store"
)

// once is a noted key of an OpPublish that happens once.
type once struct {
	key    string
	answer []byte
	expiry deadline[*once]
}

// onceSwept is how many keys that have expired go with each one that comes, so that
// what is left of many that came at once costs no single batch much.
const onceSwept = 8

// mayHappen reports whether the key of o is not noted yet; else o has the answer.
// REQUIRES: s.mu
func (s *Store) mayHappen(o *store.Once) store.Result {
	if len(o.Key) > store.MaxOnceKey || len(o.Answer) > store.MaxOnceAnswer {
		return store.Refused
	}
	if noted := s.onces[o.Key]; noted != nil && s.now().Before(noted.expiry.at) {
		o.Answer = noted.answer
		return store.Duplicate
	}
	return store.Done
}

// note notes the key of o. REQUIRES: s.mu
func (s *Store) note(o *store.Once) {
	now := s.now()
	for _, expired := range s.onceExpiry.due(now, onceSwept) {
		s.forgetOnce(expired)
	}
	if noted := s.onces[o.Key]; noted != nil {
		s.forgetOnce(noted)
	}
	until := o.Expires
	if latest := now.Add(store.MaxOnceWindow); until.After(latest) {
		until = latest
	}
	if !now.Before(until) {
		return
	}
	noted := &once{key: o.Key, answer: append([]byte(nil), o.Answer...)}
	noted.expiry.value = noted
	s.onces[o.Key] = noted
	s.used += noted.size()
	s.onceExpiry.set(&noted.expiry, until)
}

// forgetOnce REQUIRES: s.mu
func (s *Store) forgetOnce(o *once) {
	s.onceExpiry.set(&o.expiry, time.Time{})
	delete(s.onces, o.key)
	s.used -= o.size()
}

func (o *once) size() int { return len(o.key) + len(o.answer) }
