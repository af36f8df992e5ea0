package pebble

import (
	"maps"
	"slices"
	"time"

	"loopmq/store"
)

// session is a session in the cache. One that was never durable has no state.
type session struct {
	store.Session
	state *state

	older, newer *session // in the list of those that are idle
	isIdle       bool
	// mayHaveWill: the Will of the last claim may be there.
	mayHaveWill bool
	owned       bool // has a record under keyOwned
}

// isStored reports whether there is a session, and anything of it on the disk.
func (se *session) isStored() bool { return se != nil && (se.state != nil || se.owned) }

// state is what a durable session has.
type state struct {
	queue queue
	held  map[uint16]struct{} // nil: not read yet
}

// lru is a list of sessions, the one that was used last at one end.
type lru struct {
	first, last *session // oldest, newest
	len         int
}

func (l *lru) oldest() *session { return l.first }

func (l *lru) remove(se *session) {
	if !se.isIdle {
		return
	}
	if se.older != nil {
		se.older.newer = se.newer
	} else {
		l.first = se.newer
	}
	if se.newer != nil {
		se.newer.older = se.older
	} else {
		l.last = se.older
	}
	se.older, se.newer, se.isIdle = nil, nil, false
	l.len--
}

// touch makes se the newest.
func (l *lru) touch(se *session) {
	if l.last == se {
		return
	}
	l.remove(se)
	se.older, se.isIdle = l.last, true
	if l.last != nil {
		l.last.newer = se
	} else {
		l.first = se
	}
	l.last = se
	l.len++
}

// session returns the session of a ClientID, or nil if there is none.
func (t *tx) session(clientID string) *session {
	s := t.s
	if t.last != nil && t.last.ID.ClientID == clientID {
		return t.last
	}
	if se := s.sessions[clientID]; se != nil {
		if se.isIdle {
			s.idle.touch(se)
		}
		t.last = se
		return se
	}
	if clientID == t.absent && clientID != "" {
		return nil
	}
	var se *session // most that ask for one that isn't there connect for the first time: no garbage for them
	t.key = keyString(t.key, keySession, clientID)
	if !t.get(t.key, func(value []byte) (err error) {
		se = &session{mayHaveWill: true}
		se.Session, err = readSession(clientID, value)
		return err
	}) {
		t.absent = clientID
		return nil
	}
	se.state = &state{queue: queue{number: se.ID.Incarnation, generation: s.generation}}
	t.openQueue(&se.state.queue)
	se.owned = se.Owner != ""
	s.sessions[clientID] = se
	if se.Owner == "" {
		s.idle.touch(se)
	} else {
		se.state.queue.track()
	}
	return se
}

// save writes the record of se.
func (t *tx) save(se *session) {
	if se.state == nil {
		return
	}
	t.value = newRecord(t.value)
	t.value.session(&se.Session)
	t.key = keyString(t.key, keySession, se.ID.ClientID)
	t.set(t.key, t.value)
}

// own notes that the connection of se has stored something, and disown that it
// has ended.
func (t *tx) own(se *session) {
	t.value = newRecord(t.value)
	t.value.string(se.ID.ClientID)
	t.key = key1(t.key, keyOwned, se.Epoch)
	t.set(t.key, t.value)
	se.owned = true
}

func (t *tx) disown(se *session) {
	if se.owned {
		t.key = key1(t.key, keyOwned, se.Epoch)
		t.deleteOnce(t.key)
		se.owned = false
	}
}

// held returns the Packet Identifiers that se holds.
func (t *tx) held(se *session) map[uint16]struct{} {
	st := se.state
	if st.held == nil {
		st.held = make(map[uint16]struct{})
		prefix := key1(nil, keyHeld, se.ID.Incarnation)
		t.each(prefix, after(prefix), func(key, _ []byte) (bool, error) {
			st.held[uint16(key[9])<<8|uint16(key[10])] = struct{}{}
			return true, nil
		})
	}
	return st.held
}

func heldKey(b []byte, incarnation uint64, packetID uint16) []byte {
	return append(key1(b, keyHeld, incarnation), byte(packetID>>8), byte(packetID))
}

// guarded returns the session id if epoch is that of its last claim, and
// otherwise why not.
func (t *tx) guarded(id store.SessionID, epoch uint64) (*session, store.Result) {
	se := t.session(id.ClientID)
	switch {
	case se == nil:
		return nil, store.Gone
	case se.Epoch != epoch:
		return nil, store.Fenced
	case se.ID.Incarnation != id.Incarnation:
		return nil, store.Gone
	}
	return se, store.Done
}

// guardedState is guarded for what needs the state of the session too.
func (t *tx) guardedState(id store.SessionID, epoch uint64) (*session, store.Result) {
	se, result := t.guarded(id, epoch)
	if result == store.Done && se.state == nil {
		return nil, store.Gone
	}
	return se, result
}

// setExpiry says when se expires. The caller saves it.
func (t *tx) setExpiry(se *session, due time.Time) {
	if se.Due.Equal(due) {
		return
	}
	d := &t.s.sessionDue
	if !se.Due.IsZero() {
		d.remove(t, se.Due, appendUint64(nil, se.ID.Incarnation))
	}
	if !due.IsZero() {
		d.add(t, due, appendUint64(nil, se.ID.Incarnation), []byte(se.ID.ClientID))
	}
	se.Due = due
}

// endSession deletes se and all that it has, except its Will, and returns how
// many entries there were behind the one that was sent last, by their QoS.
func (t *tx) endSession(se *session, sent store.Number) (dropped [3]int) {
	t.setExpiry(se, time.Time{})
	t.disown(se)
	if se.state != nil {
		dropped = t.dropQueue(&se.state.queue, sent)
		for _, prefix := range []byte{keySubscription, keyHeld, keyReleased} {
			t.deletePrefix(key1(nil, prefix, se.ID.Incarnation))
		}
		t.delete(keyString(t.key[:0], keySession, se.ID.ClientID))
	} else {
		t.s.unstored.Delete(se.ID.ClientID)
	}
	t.s.idle.remove(se)
	delete(t.s.sessions, se.ID.ClientID)
	t.last = nil
	return dropped
}

// heldInOrder returns the Packet Identifiers that se holds, in order.
func (t *tx) heldInOrder(se *session) []uint16 {
	return slices.Sorted(maps.Keys(t.held(se)))
}
