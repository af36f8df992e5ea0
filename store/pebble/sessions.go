package pebble

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/RaduBerinde/btreemap"
	"github.com/cockroachdb/pebble/v2"

	"loopmq/store"
)

type sessionsView struct{ *Store }

type subscriptionsView struct{ *Store }

func (v sessionsView) Claim(ctx context.Context, c store.Claim) (claimed store.Claimed, err error) {
	if err := ctx.Err(); err != nil {
		return claimed, err
	}
	if err := v.enter(); err != nil {
		return claimed, err
	}
	defer v.leave()
	var (
		room   = v.room()
		noRoom error
	)
	err = v.step(func(t *tx) {
		if noRoom = room.check(t.roomForClaim(&c)); noRoom == nil {
			claimed = t.claim(&c)
		}
	})
	if err == nil {
		err = noRoom
	}
	if err != nil {
		return store.Claimed{}, err
	}
	return claimed, nil
}

// claim is Claim as a step.
func (t *tx) claim(c *store.Claim) (claimed store.Claimed) {
	var (
		s   = t.s
		now = s.now()
		se  = t.session(c.ClientID)
	)
	if se != nil {
		claimed.OldOwner, claimed.OldEpoch = se.Owner, se.Epoch
		// A session that is not durable ends with its connection, one that has
		// expired is over even if nobody ended it yet [MQTT-4.1.0-2].
		claimed.Present = !c.CleanStart && se.Durable && !hasCome(se.Due, now)
		claimed.OldWill = t.succeedWill(se, claimed.Present, now)
		if !claimed.Present {
			ended := se.Session
			claimed.Ended = &ended
			claimed.Dropped = t.endSession(se, c.Sent)
			se = nil
		}
	}
	if se == nil {
		se = &session{Session: store.Session{ID: store.SessionID{ClientID: c.ClientID, Incarnation: t.nextID()}}}
		if c.Durable {
			se.state = &state{queue: queue{number: se.ID.Incarnation, generation: s.generation}, held: make(map[uint16]struct{})}
		} else {
			s.unstored.ReplaceOrInsert(c.ClientID, se)
		}
		s.sessions[c.ClientID] = se
	}
	t.disown(se)
	s.idle.remove(se)
	se.Epoch = t.nextID()
	se.Owner = c.Owner
	se.Durable = c.Durable
	se.SessionExpiryInterval = c.SessionExpiryInterval
	se.Limits = c.Limits
	se.Connection = c.Connection
	t.setExpiry(se, time.Time{})
	t.save(se)
	if c.Will != nil {
		t.addWill(se, *c.Will)
	}
	if se.state != nil || c.Will != nil {
		t.own(se)
	}
	claimed.Session = se.Session
	if se.state != nil {
		se.state.queue.track()
	}
	if claimed.Present {
		t.count(&se.state.queue)
		claimed.Subscriptions = t.subscriptions(se.ID.Incarnation)
		claimed.Released = t.released(se.ID.Incarnation)
		claimed.Held = t.heldInOrder(se)
		claimed.Last = se.state.queue.last
	}
	return claimed
}

func (v sessionsView) Lookup(_ context.Context, clientID string) (found store.Session, err error) {
	if err := v.enter(); err != nil {
		return found, err
	}
	defer v.leave()
	var se *session
	err = v.look(func(t *tx) {
		if se = t.session(clientID); se != nil {
			found = se.Session
		}
	})
	if err == nil && se == nil {
		err = store.ErrGone
	}
	return found, err
}

// List puts those that are on the disk together with those that aren't.
func (v sessionsView) List(_ context.Context, q store.SessionQuery) (page store.SessionPage, err error) {
	if err := v.enter(); err != nil {
		return page, err
	}
	defer v.leave()
	if q.Limit <= 0 {
		return page, nil
	}
	err = v.look(func(*tx) {
		from := btreemap.GT(q.After)
		if q.Prefix > q.After {
			from = btreemap.GE(q.Prefix)
		}
		for clientID, se := range v.unstored.Ascend(from, btreemap.Max[string]()) {
			if len(page.Sessions) == q.Limit || !strings.HasPrefix(clientID, q.Prefix) {
				break
			}
			page.Sessions = append(page.Sessions, se.Session)
		}
	})
	if err != nil {
		return page, err
	}
	lower, stored := append(keyString(nil, keySession, q.After), 0), 0
	if q.Prefix > q.After {
		lower = keyString(nil, keySession, q.Prefix)
	}
	err = each(v.db, lower, after(keyString(nil, keySession, q.Prefix)), func(key, value []byte) (bool, error) {
		se, err := readSession(string(key[1:]), value)
		page.Sessions = append(page.Sessions, se)
		stored++
		return stored < q.Limit, err
	})
	if err != nil {
		return page, v.fail(err)
	}
	slices.SortStableFunc(page.Sessions, func(x, y store.Session) int { return strings.Compare(x.ID.ClientID, y.ID.ClientID) })
	page.Sessions = slices.CompactFunc(page.Sessions, func(x, y store.Session) bool { return x.ID.ClientID == y.ID.ClientID })
	if len(page.Sessions) >= q.Limit {
		page.Sessions = page.Sessions[:q.Limit]
		page.Next = page.Sessions[q.Limit-1].ID.ClientID
	}
	page.Sessions = slices.DeleteFunc(page.Sessions, func(se store.Session) bool { return se.Owner == "" && (q.Connected || !se.Durable) })
	return page, nil
}

// durable returns up to limit durable sessions behind a ClientID.
func (v subscriptionsView) durable(afterClientID string, limit int) ([]store.Session, error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	if limit <= 0 {
		return nil, nil
	}
	var list []store.Session
	lower := append(keyString(nil, keySession, afterClientID), 0)
	err := each(v.db, lower, []byte{keySession + 1}, func(key, value []byte) (bool, error) {
		se, err := readSession(string(key[1:]), value)
		if se.Durable {
			list = append(list, se)
		}
		return len(list) < limit, err
	})
	return list, v.fail(err)
}

func (v sessionsView) Expired(_ context.Context, now time.Time, limit int) ([]store.Session, error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	var clientIDs []string
	list := []store.Session{}
	err := v.look(func(t *tx) {
		v.sessionDue.upTo(t, now, limit, func(_ time.Time, _, value []byte) error {
			clientIDs = append(clientIDs, string(value))
			return nil
		})
		for _, clientID := range clientIDs {
			if se := t.session(clientID); se != nil {
				list = append(list, se.Session)
			}
		}
	})
	return list, err
}

func (v sessionsView) NextExpiry(context.Context) (due time.Time, ok bool, err error) {
	if err := v.enter(); err != nil {
		return time.Time{}, false, err
	}
	defer v.leave()
	err = v.look(func(t *tx) { due, ok = v.sessionDue.next(t) })
	return due, ok, err
}

func (v subscriptionsView) Of(_ context.Context, id store.SessionID) (list []store.Subscription, err error) {
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	there := false
	err = v.look(func(t *tx) {
		se := t.session(id.ClientID)
		if there = se != nil && se.ID == id && se.state != nil; there {
			list = t.subscriptions(id.Incarnation)
		}
	})
	if err == nil && !there {
		err = store.ErrGone
	}
	return list, err
}

// List reads each session's subscriptions with one iterator for all of them: to
// make one costs more than to find the next session with it.
func (v subscriptionsView) List(_ context.Context, afterClientID string, limit int) (list []store.Subscribed, err error) {
	sessions, err := v.durable(afterClientID, limit)
	if err != nil || len(sessions) == 0 {
		return nil, err
	}
	if err := v.enter(); err != nil {
		return nil, err
	}
	defer v.leave()
	it, err := v.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keySubscription}, UpperBound: []byte{keySubscription + 1}})
	if err != nil {
		return nil, v.fail(err)
	}
	list = make([]store.Subscribed, len(sessions))
	var prefix []byte
	for i := range sessions {
		list[i].Session = sessions[i]
		prefix = key1(prefix, keySubscription, sessions[i].ID.Incarnation)
		for ok := it.SeekGE(prefix); ok && bytes.HasPrefix(it.Key(), prefix); ok = it.Next() {
			sub, readErr := readSubscription(string(it.Key()[len(prefix):]), it.Value())
			err = errors.Join(err, readErr)
			list[i].Subscriptions = append(list[i].Subscriptions, sub)
		}
	}
	if err = errors.Join(err, it.Close()); err != nil {
		return nil, v.fail(err)
	}
	for i := range list { // each by itself, so that commits can go on in between
		if err := v.look(func(t *tx) { list[i].Queued = t.queued(list[i].Session.ID) }); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// queued returns how many entries the queue of a session has, and leaves the
// cache as it is if it can.
func (t *tx) queued(id store.SessionID) int {
	if t.s.sessions[id.ClientID] == nil {
		q := queue{number: id.Incarnation}
		if t.openQueue(&q); !q.uncounted {
			return q.live
		}
	}
	if q, _ := t.queue(store.QueueOf(id)); q != nil {
		return q.live
	}
	return 0
}

// subscriptions returns those of a session, ordered by TopicFilter.
func (t *tx) subscriptions(incarnation uint64) (list []store.Subscription) {
	prefix := key1(nil, keySubscription, incarnation)
	t.each(prefix, after(prefix), func(key, value []byte) (bool, error) {
		sub, err := readSubscription(string(key[len(prefix):]), value)
		list = append(list, sub)
		return true, err
	})
	return list
}

// released returns the released set of a session, in order.
func (t *tx) released(incarnation uint64) (list []store.Number) {
	prefix := key1(nil, keyReleased, incarnation)
	t.each(prefix, after(prefix), func(key, _ []byte) (bool, error) {
		list = append(list, numberOf(key))
		return true, nil
	})
	return list
}

// hasCome reports whether a due time has come at now; the zero time never does.
func hasCome(due, now time.Time) bool { return !due.IsZero() && !now.Before(due) }
