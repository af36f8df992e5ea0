package pebble

import (
	"context"
	"encoding/binary"
	"time"

	"loopmq/store"
)

type willsView struct{ *Store }

func (v willsView) Due(_ context.Context, now time.Time, limit int) ([]store.Will, error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	list := []store.Will{}
	err := v.look(func(t *tx) {
		v.willDue.upTo(t, now, limit, func(_ time.Time, name, _ []byte) error {
			if w := t.will(binary.BigEndian.Uint64(name)); w != nil {
				list = append(list, *w)
			}
			return nil
		})
	})
	return list, err
}

func (v willsView) NextDue(context.Context) (due time.Time, ok bool, err error) {
	if err := v.enter(); err != nil {
		return time.Time{}, false, err
	}
	defer v.leave()
	err = v.look(func(t *tx) { due, ok = v.willDue.next(t) })
	return due, ok, err
}

// will returns the Will of an Epoch, or nil if there is none.
func (t *tx) will(epoch uint64) (w *store.Will) {
	t.key = key1(t.key, keyWill, epoch)
	t.get(t.key, func(value []byte) (err error) {
		w, err = readWill(epoch, value)
		return err
	})
	return w
}

// willOf returns the Will of the last claim of se, or nil if it is gone.
func (t *tx) willOf(se *session) *store.Will {
	if !se.mayHaveWill {
		return nil
	}
	w := t.will(se.Epoch)
	se.mayHaveWill = w != nil
	return w
}

func (t *tx) saveWill(w *store.Will) {
	t.value = newRecord(t.value)
	t.value.will(w)
	t.key = key1(t.key, keyWill, w.Epoch)
	t.set(t.key, t.value)
}

// addWill stores w as the Will of the last claim of se.
func (t *tx) addWill(se *session, w store.Will) {
	w.ClientID, w.Epoch, w.Due = se.ID.ClientID, se.Epoch, time.Time{}
	t.saveWill(&w)
	t.s.used += w.Message.Size()
	se.mayHaveWill = true
}

// succeedWill takes the Will of the former connection from se, which goes on
// or ends, and returns it. It is cancelled if the session goes on before its
// delay has passed [MQTT-3.1.3-9]; otherwise it is due, and stays until it is
// published.
func (t *tx) succeedWill(se *session, goesOn bool, now time.Time) *store.Will {
	w := t.willOf(se)
	se.mayHaveWill = false
	switch {
	case w == nil:
	case goesOn && w.DelayInterval > 0 && !hasCome(w.Due, now):
		t.removeWill(w)
		w.Due = time.Time{}
	default:
		t.hurryWill(w, now)
	}
	return w
}

// hurryWill makes w due at now, unless it was due before.
func (t *tx) hurryWill(w *store.Will, now time.Time) {
	if !hasCome(w.Due, now) {
		t.setWillDue(w, now)
	}
}

// setWillDue says when w is to be published.
func (t *tx) setWillDue(w *store.Will, due time.Time) {
	if w.Due.Equal(due) {
		return
	}
	t.unscheduleWill(w)
	w.Due = due
	t.s.willDue.add(t, due, appendUint64(nil, w.Epoch), nil)
	t.saveWill(w)
}

func (t *tx) unscheduleWill(w *store.Will) {
	if !w.Due.IsZero() {
		t.s.willDue.remove(t, w.Due, appendUint64(nil, w.Epoch))
	}
}

// removeWill forgets w.
func (t *tx) removeWill(w *store.Will) {
	t.unscheduleWill(w)
	t.delete(key1(t.key[:0], keyWill, w.Epoch))
	t.s.used -= w.Message.Size()
	if se := t.s.sessions[w.ClientID]; se != nil && se.Epoch == w.Epoch {
		se.mayHaveWill = false
	}
}
