package memory

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/RaduBerinde/btreemap"

	"loopmq/store"
)

type sessionsView struct{ *Store }

type subscriptionsView struct{ *Store }

// session is a session of any kind. One that was never durable has no state.
type session struct {
	store.Session
	expiry deadline[*session]
	will   *will // of the last claim, until it is published or dropped
	state  *state
}

// state is what a durable session has. It goes with the session, which may
// meanwhile have been claimed by a connection that ends it.
type state struct {
	queue         queue
	subscriptions map[string]store.Subscription
	released      []store.Number // in order
	held          []uint16       // in order
}

func (v sessionsView) Claim(_ context.Context, c store.Claim) (store.Claimed, error) {
	if err := v.lock(); err != nil {
		return store.Claimed{}, err
	}
	defer v.mu.Unlock()
	var (
		now     = v.now()
		claimed store.Claimed
		se      = v.sessions[c.ClientID]
	)
	if se != nil {
		claimed.OldOwner, claimed.OldEpoch = se.Owner, se.Epoch
		// A session that is not durable ends with its connection, one that has
		// expired is over even if nobody ended it yet [MQTT-4.1.0-2].
		claimed.Present = !c.CleanStart && se.Durable && !hasCome(se.Due, now)
		claimed.OldWill = v.succeedWill(se, claimed.Present, now)
		if !claimed.Present {
			ended := se.Session
			claimed.Ended = &ended
			if v.shared {
				claimed.GivenBack = v.giveBack(se)
			}
			claimed.Dropped = v.endSession(se, c.Sent)
			se = nil
		}
	}
	if se == nil {
		v.incarnation++
		se = &session{Session: store.Session{ID: store.SessionID{ClientID: c.ClientID, Incarnation: v.incarnation}}}
		se.expiry.value = se
		if c.Durable {
			se.state = &state{queue: queue{generation: sessionGeneration}}
		}
		v.sessions[c.ClientID] = se
		v.inOrder.ReplaceOrInsert(c.ClientID, se)
	}
	v.epoch++
	se.Epoch = v.epoch
	se.Owner = c.Owner
	se.Durable = c.Durable
	se.SessionExpiryInterval = c.SessionExpiryInterval
	if v.shared && claimed.Present && se.state.queue.live > 0 { // what earlier connections may have sent is there still
		c.Limits.Protected = max(c.Limits.Protected, se.Limits.Protected)
	}
	se.Limits = c.Limits
	se.Connection = c.Connection
	v.setExpiry(se, time.Time{})
	if c.Will != nil {
		v.addWill(se, *c.Will)
	}
	claimed.Session = se.Session
	if claimed.Present {
		claimed.Subscriptions = se.state.sortedSubscriptions()
		claimed.Released = slices.Clone(se.state.released)
		claimed.Held = slices.Clone(se.state.held)
		claimed.Last = se.state.queue.lastNumber()
	}
	return claimed, nil
}

func (v sessionsView) Lookup(_ context.Context, clientID string) (store.Session, error) {
	if err := v.lock(); err != nil {
		return store.Session{}, err
	}
	defer v.mu.Unlock()
	se := v.sessions[clientID]
	if se == nil {
		return store.Session{}, store.ErrGone
	}
	return se.Session, nil
}

func (v sessionsView) List(_ context.Context, q store.SessionQuery) (page store.SessionPage, err error) {
	if err := v.lock(); err != nil {
		return page, err
	}
	defer v.mu.Unlock()
	from := btreemap.GT(q.After)
	if q.Prefix > q.After {
		from = btreemap.GE(q.Prefix)
	}
	looked := 0
	for clientID, se := range v.inOrder.Ascend(from, btreemap.Max[string]()) {
		if looked == q.Limit || !strings.HasPrefix(clientID, q.Prefix) {
			break
		}
		if se.Owner != "" || se.Durable && !q.Connected {
			page.Sessions = append(page.Sessions, se.Session)
		}
		if looked++; looked == q.Limit {
			page.Next = clientID
		}
	}
	return page, nil
}

func (v sessionsView) Expired(_ context.Context, now time.Time, limit int) ([]store.Session, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	due := v.sessionExpiry.due(now, limit)
	list := make([]store.Session, len(due))
	for i, se := range due {
		list[i] = se.Session
	}
	return list, nil
}

func (v sessionsView) NextExpiry(context.Context) (time.Time, bool, error) {
	if err := v.lock(); err != nil {
		return time.Time{}, false, err
	}
	defer v.mu.Unlock()
	at, ok := v.sessionExpiry.next()
	return at, ok, nil
}

func (v subscriptionsView) Of(_ context.Context, id store.SessionID) ([]store.Subscription, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	se := v.sessions[id.ClientID]
	if se == nil || se.ID != id || se.state == nil {
		return nil, store.ErrGone
	}
	return se.state.sortedSubscriptions(), nil
}

func (v subscriptionsView) List(_ context.Context, afterClientID string, limit int) ([]store.Subscribed, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	clientIDs := page(v.sessions, afterClientID, limit, func(se *session) bool { return se.Durable })
	list := make([]store.Subscribed, len(clientIDs))
	for i, clientID := range clientIDs {
		se := v.sessions[clientID]
		list[i] = store.Subscribed{Session: se.Session, Subscriptions: se.state.sortedSubscriptions(), Queued: se.state.queue.live}
	}
	return list, nil
}

func (st *state) sortedSubscriptions() []store.Subscription {
	return slices.SortedFunc(maps.Values(st.subscriptions), func(a, b store.Subscription) int {
		return strings.Compare(a.TopicFilter, b.TopicFilter)
	})
}

// guarded returns the session id if epoch is that of its last claim, and
// otherwise why not. REQUIRES: s.mu
func (s *Store) guarded(id store.SessionID, epoch uint64) (*session, store.Result) {
	se := s.sessions[id.ClientID]
	switch {
	case se == nil:
		return nil, store.Gone
	case se.Epoch != epoch:
		return nil, store.Fenced
	case se.ID != id:
		return nil, store.Gone
	}
	return se, store.Done
}

// guardedState is guarded for what needs the state of the session too.
// REQUIRES: s.mu
func (s *Store) guardedState(id store.SessionID, epoch uint64) (*state, store.Result) {
	se, result := s.guarded(id, epoch)
	if result != store.Done {
		return nil, result
	}
	if se.state == nil {
		return nil, store.Gone
	}
	return se.state, store.Done
}

// setExpiry says when se expires. REQUIRES: s.mu
func (s *Store) setExpiry(se *session, due time.Time) {
	se.Due = due
	s.sessionExpiry.set(&se.expiry, due)
}

// endSession forgets se and all that it has, except its Will, and returns how many
// entries there were behind the one that was sent last, by their QoS.
// REQUIRES: s.mu
func (s *Store) endSession(se *session, sent store.Number) (dropped [3]int) {
	s.setExpiry(se, time.Time{})
	if se.state != nil {
		dropped = se.state.queue.countAfter(sent)
		s.dropAll(&se.state.queue)
	}
	delete(s.sessions, se.ID.ClientID)
	s.inOrder.Delete(se.ID.ClientID)
	return dropped
}

// giveBack moves what a session that is about to end has of shared subscriptions to
// their groups, see [store.Claimed.GivenBack]. REQUIRES: s.mu
func (s *Store) giveBack(se *session) (groups []store.GroupID) {
	if se.state == nil {
		return nil
	}
	q := &se.state.queue
	seen := 0
	for _, n := range q.first(q.live) {
		sl := q.slots[q.find(n)]
		if sl.qos == 2 {
			seen++
		}
		if sl.extra == nil || sl.extra.shareName == "" || sl.qos == 2 && seen <= se.Limits.Protected {
			continue
		}
		id := store.GroupID{ShareName: sl.extra.shareName, TopicFilter: sl.extra.topicFilter}
		to, _ := s.queueToAppend(store.GroupQueue(id.ShareName, id.TopicFilter))
		to.append(redirected(q.remove(q.find(n)), &store.Target{QoS: 2, Retain: true}))
		if !slices.Contains(groups, id) {
			groups = append(groups, id)
		}
	}
	return groups
}

// hasCome reports whether a due time has come at now; the zero time never does.
func hasCome(due, now time.Time) bool { return !due.IsZero() && !now.Before(due) }

// page returns the first limit keys of m after the given one whose values are
// wanted, in order. It looks at all of m, but sorts no more than it needs.
func page[V any](m map[string]V, after string, limit int, wanted func(V) bool) []string {
	if limit <= 0 {
		return nil
	}
	var keys []string
	full := false // then the last of the first limit keys is a bound
	for key, value := range m {
		if key <= after || full && key >= keys[limit-1] || !wanted(value) {
			continue
		}
		if keys = append(keys, key); len(keys) == 2*limit {
			slices.Sort(keys)
			keys, full = keys[:limit], true
		}
	}
	slices.Sort(keys)
	return keys[:min(limit, len(keys))]
}
