package memory

import (
	"context"
	"time"

	"loopmq/store"
)

type willsView struct{ *Store }

// willID is the key of a Will. A ClientID can have several: that of its
// connection, and those of former ones until they are published.
type willID struct {
	clientID string
	epoch    uint64
}

// will is a stored Will.
type will struct {
	store.Will
	due deadline[*will]
}

func (v willsView) Due(_ context.Context, now time.Time, limit int) ([]store.Will, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	due := v.willDue.due(now, limit)
	list := make([]store.Will, len(due))
	for i, w := range due {
		list[i] = w.Will
	}
	return list, nil
}

func (v willsView) NextDue(context.Context) (time.Time, bool, error) {
	if err := v.lock(); err != nil {
		return time.Time{}, false, err
	}
	defer v.mu.Unlock()
	at, ok := v.willDue.next()
	return at, ok, nil
}

// addWill stores w as the Will of the last claim of se. REQUIRES: s.mu
func (s *Store) addWill(se *session, w store.Will) {
	w.ClientID, w.Epoch, w.Due = se.ID.ClientID, se.Epoch, time.Time{}
	se.will = &will{Will: w}
	se.will.due.value = se.will
	s.wills[willID{w.ClientID, w.Epoch}] = se.will
	s.used += w.Message.Size()
}

// succeedWill takes the Will of the former connection from se, which goes on
// or ends, and returns a copy. It is cancelled if the session goes on before
// its delay has passed [MQTT-3.1.3-9]; otherwise it is due, and stays until it
// is published. REQUIRES: s.mu
func (s *Store) succeedWill(se *session, goesOn bool, now time.Time) *store.Will {
	w := se.will
	if w == nil {
		return nil
	}
	se.will = nil
	if goesOn && w.DelayInterval > 0 && !hasCome(w.Due, now) {
		s.setWillDue(w, time.Time{})
		s.removeWill(w)
	} else {
		s.hurryWill(w, now)
	}
	old := w.Will
	return &old
}

// hurryWill makes w due at now, unless it was due before. REQUIRES: s.mu
func (s *Store) hurryWill(w *will, now time.Time) {
	if !hasCome(w.Due, now) {
		s.setWillDue(w, now)
	}
}

// setWillDue says when w is to be published. REQUIRES: s.mu
func (s *Store) setWillDue(w *will, due time.Time) {
	w.Due = due
	s.willDue.set(&w.due, due)
}

// removeWill forgets w. REQUIRES: s.mu
func (s *Store) removeWill(w *will) {
	s.willDue.set(&w.due, time.Time{})
	delete(s.wills, willID{w.ClientID, w.Epoch})
	s.used -= w.Message.Size()
	if se := s.sessions[w.ClientID]; se != nil && se.will == w {
		se.will = nil
	}
}
