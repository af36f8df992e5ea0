package pebble

import (
	"context"
	"time"

	"loopmq/store"
)

type bansView struct{ *Store }

// Put is one step with the count of bans, which is made when it is first needed.
func (v bansView) Put(ctx context.Context, b store.Ban, limit int) error {
	switch {
	case !b.Fits():
		return store.ErrBanTooLarge
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if err := v.enter(); err != nil {
		return err
	}
	defer v.leave()
	room := v.room()
	var refused error
	err := v.step(func(t *tx) {
		if refused = room.check(roomForSmall); refused != nil {
			return
		}
		key := keyString(nil, keyBan, b.Name())
		if !t.get(key, func([]byte) error { return nil }) {
			if t.countBans() >= limit {
				refused = store.ErrTooManyBans
				return
			}
			v.bans++
		}
		r := newRecord(nil)
		r.time(b.Until)
		r.string(b.Reason)
		r.string(b.Source)
		t.set(key, r)
	})
	if err == nil {
		err = refused
	}
	return err
}

// countBans returns how many bans there are.
func (t *tx) countBans() int {
	s := t.s
	if s.bans < 0 {
		s.bans = 0
		t.each([]byte{keyBan}, []byte{keyBan + 1}, func([]byte, []byte) (bool, error) {
			s.bans++
			return true, nil
		})
	}
	return s.bans
}

func (v bansView) Remove(ctx context.Context, name string, endedBy time.Time) (removed bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := v.enter(); err != nil {
		return false, err
	}
	defer v.leave()
	err = v.step(func(t *tx) {
		key := keyString(nil, keyBan, name)
		var b store.Ban
		there := t.get(key, func(value []byte) (err error) {
			b, err = readBan(name, value)
			return err
		})
		if removed = there && (endedBy.IsZero() || hasCome(b.Until, endedBy)); removed {
			t.countBans()
			v.bans--
			t.delete(key)
		}
	})
	return removed, err
}

func (v bansView) List(_ context.Context, afterName string, limit int) ([]store.Ban, error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	if limit <= 0 {
		return nil, nil
	}
	var list []store.Ban
	err := each(v.db, append(keyString(nil, keyBan, afterName), 0), []byte{keyBan + 1}, func(key, value []byte) (bool, error) {
		b, err := readBan(string(key[1:]), value)
		list = append(list, b)
		return len(list) < limit, err
	})
	return list, v.fail(err)
}

func readBan(name string, value []byte) (b store.Ban, err error) {
	r := readRecord(value)
	b.Named(name)
	b.Until, b.Reason, b.Source = r.time(), r.string(), r.string()
	return b, r.err()
}
