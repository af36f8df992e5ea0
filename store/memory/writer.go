package memory

import (
	"context"
	"slices"

	"loopmq/store"
)

// writer commits batches.
type writer struct {
	store *Store
	seq   uint64 // of the last batch; guarded by store.mu
}

// Commit never leaves it open whether b was applied: an error means that it was
// not. So a batch that has a Seq has its results as well.
func (w *writer) Commit(ctx context.Context, b *store.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.store.lock(); err != nil {
		return err
	}
	defer w.store.mu.Unlock()
	if b.Seq != 0 {
		return nil
	}
	w.seq++
	b.Seq = w.seq
	published := store.Done
	for i := range b.Ops {
		op := &b.Ops[i]
		if op.Kind == store.OpEnqueue && op.IfPublished && published != store.Done {
			op.Result = published
			continue
		}
		op.Result = w.store.apply(op)
		if op.Kind == store.OpPublish {
			published = op.Result
		}
	}
	return nil
}

// apply carries out one operation. REQUIRES: s.mu
func (s *Store) apply(op *store.Op) store.Result {
	op.Dropped = [3]int{}
	for i := range op.Targets {
		t := &op.Targets[i]
		t.Result, t.Number, t.Dropped, t.Moved = store.Pending, store.Number{}, [3]int{}, nil
	}
	switch op.Kind {
	case store.OpPublish:
		return s.publish(op)
	case store.OpFinish:
		return s.finish(op)
	case store.OpRelease:
		return s.release(op)
	case store.OpComplete:
		return s.complete(op)
	case store.OpUnhold:
		return s.unhold(op)
	case store.OpSubscribe, store.OpUnsubscribe:
		return s.subscribe(op)
	case store.OpRetain:
		return s.retainOnly(op)
	case store.OpDropExpiredRetained:
		return s.dropExpiredRetained(op)
	case store.OpMove:
		return s.move(op)
	case store.OpOffline:
		return s.offline(op)
	case store.OpEndSession:
		return s.end(op)
	case store.OpRoute, store.OpUnroute: // nobody else is there to know
		return store.Done
	case store.OpEnqueue:
		return s.enqueue(op.Event)
	default:
		panic("memory: unknown kind of operation in a batch")
	}
}

// publish checks everything first, so that it does all or nothing.
func (s *Store) publish(op *store.Op) store.Result {
	result, from, w := s.mayPublish(op)
	if result != store.Done {
		for i := range op.Targets {
			op.Targets[i].Result = result
		}
		return result
	}
	if from != nil {
		from.held = insert(from.held, op.PacketID, comparePacketIDs)
	}
	if w != nil {
		s.removeWill(w)
	}
	if op.Once != nil {
		s.note(op.Once)
	}
	m := &message{Message: op.Message}
	if op.Retain {
		s.retain(m)
	}
	for i := range op.Targets {
		s.appendTo(&op.Targets[i], m)
	}
	return store.Done
}

// mayPublish returns the publisher's state if the Packet Identifier is to be
// held, and the Will if it is to be removed.
func (s *Store) mayPublish(op *store.Op) (result store.Result, from *state, w *will) {
	freed := 0
	if op.Once != nil {
		if result = s.mayHappen(op.Once); result != store.Done {
			return result, nil, nil
		}
	}
	if op.IfRetained {
		if r := s.retained[string(op.Message.TopicName)]; r == nil || r.message.Message != op.Message {
			return store.Gone, nil, nil
		}
	}
	if op.PacketID != 0 {
		if from, result = s.guardedState(op.Session, op.Epoch); result != store.Done {
			return result, nil, nil
		}
		if _, held := slices.BinarySearch(from.held, op.PacketID); held {
			return store.Duplicate, nil, nil
		}
	}
	if op.WillOf != nil {
		if w = s.wills[willID{op.WillOf.ClientID, op.WillOf.Epoch}]; w == nil {
			return store.Gone, nil, nil
		}
		freed += w.Message.Size()
	}
	if op.Retain {
		freed += s.freedByRetain(op.Message)
	}
	size := 0
	if len(op.Targets) > 0 || op.Retain && len(op.Message.Payload) > 0 {
		size = op.Message.Size()
	}
	if op.Once != nil {
		size += len(op.Once.Key) + len(op.Once.Answer)
	}
	if size > 0 && !s.fits(size, freed) {
		return store.Full, nil, nil
	}
	return store.Done, from, w
}

// appendTo appends m to one queue, under the queue's limits.
func (s *Store) appendTo(t *store.Target, m *message) {
	q, limits := s.queueToAppend(t.Queue)
	if q == nil {
		t.Result = store.Gone
		return
	}
	if size := m.Size(); !q.fits(limits, size) {
		ok := false
		if limits.Policy == store.DropOldest {
			ok = q.makeRoom(limits, size, func(sl slot) {
				t.Dropped[sl.qos]++
				s.drop(sl.message)
			})
		}
		if !ok {
			t.Result = store.Refused
			return
		}
	}
	s.hold(m)
	t.Result = store.Done
	t.Number = q.append(slot{
		message: m,
		qos:     t.QoS,
		retain:  t.Retain,
		extra:   newExtra(t.SubscriptionIdentifiers, t.ShareName, t.TopicFilter),
	})
}

// finish passes over numbers that are not there: deletions may be repeated.
func (s *Store) finish(op *store.Op) store.Result {
	q, _ := s.queue(store.QueueOf(op.Session))
	if q == nil {
		return store.Gone
	}
	s.removeNumbers(q, op.Numbers)
	return store.Done
}

func (s *Store) removeNumbers(q *queue, numbers []store.Number) (removed int) {
	for _, n := range numbers {
		if i := q.find(n); i >= 0 {
			s.drop(q.remove(i).message)
			removed++
		}
	}
	return removed
}

func (s *Store) release(op *store.Op) store.Result {
	st, result := s.guardedState(op.Session, op.Epoch)
	if result != store.Done {
		return result
	}
	s.removeNumbers(&st.queue, op.Numbers)
	for _, n := range op.Numbers {
		st.released = insert(st.released, n, compareNumbers)
	}
	return store.Done
}

func (s *Store) complete(op *store.Op) store.Result {
	st, result := s.guardedState(op.Session, op.Epoch)
	if result != store.Done {
		return result
	}
	for _, n := range op.Numbers {
		st.released = remove(st.released, n, compareNumbers)
	}
	return store.Done
}

func (s *Store) unhold(op *store.Op) store.Result {
	st, result := s.guardedState(op.Session, op.Epoch)
	if result != store.Done {
		return result
	}
	st.held = remove(st.held, op.PacketID, comparePacketIDs)
	return store.Done
}

// subscribe does OpSubscribe and OpUnsubscribe.
func (s *Store) subscribe(op *store.Op) store.Result {
	st, result := s.guardedState(op.Session, op.Epoch)
	if result != store.Done {
		return result
	}
	for _, sub := range op.Subscriptions {
		if op.Kind == store.OpUnsubscribe {
			delete(st.subscriptions, sub.TopicFilter)
			continue
		}
		if st.subscriptions == nil {
			st.subscriptions = make(map[string]store.Subscription)
		}
		st.subscriptions[sub.TopicFilter] = sub
	}
	return store.Done
}

func (s *Store) retainOnly(op *store.Op) store.Result {
	if len(op.Message.Payload) > 0 && !s.fits(op.Message.Size(), s.freedByRetain(op.Message)) {
		return store.Full
	}
	s.retain(&message{Message: op.Message})
	return store.Done
}

func (s *Store) dropExpiredRetained(op *store.Op) store.Result {
	r := s.retained[string(op.Message.TopicName)]
	if r == nil || !r.message.Expired(op.Due) {
		return store.Gone
	}
	s.dropRetained(r)
	return store.Done
}

// move stops at the first entry that the target has no room for, whatever the
// target's policy is: it stays where it is, so nothing is lost.
func (s *Store) move(op *store.Op) store.Result {
	result, from := s.mayMove(op)
	if result != store.Done {
		for i := range op.Targets {
			op.Targets[i].Result = result
		}
		return result
	}
	numbers := op.Numbers
	if len(numbers) == 0 {
		numbers = from.first(op.Limit)
	}
	if len(op.Targets) == 0 {
		removed := s.removeNumbers(from, numbers)
		s.forgetIfEmpty(op.From, from)
		if removed == 0 {
			return store.Gone
		}
		return store.Done
	}
	t := &op.Targets[0]
	t.Result = s.moveTo(t, op.From, from, numbers)
	if t.Result == store.Gone {
		return store.Gone
	}
	return store.Done
}

// mayMove returns the queue that entries are taken out of.
func (s *Store) mayMove(op *store.Op) (store.Result, *queue) {
	if op.Epoch != 0 {
		if _, result := s.guarded(op.Session, op.Epoch); result != store.Done {
			return result, nil
		}
	}
	from, _ := s.queue(op.From)
	if from == nil {
		return store.Gone, nil
	}
	return store.Done, from
}

func (s *Store) moveTo(t *store.Target, fromID store.QueueID, from *queue, numbers []store.Number) store.Result {
	to, limits := s.queueToAppend(t.Queue)
	if to == nil {
		return store.Gone
	}
	result := store.Done
	for _, n := range numbers {
		i := from.find(n)
		if i < 0 {
			continue
		}
		if !to.fits(limits, from.slots[i].message.Size()) {
			if len(t.Moved) == 0 {
				result = store.Refused
			}
			break
		}
		sl := redirected(from.remove(i), t)
		t.Number = to.append(sl)
		sl.seq = t.Number.Seq
		t.Moved = append(t.Moved, to.entry(sl))
	}
	s.forgetIfEmpty(fromID, from)
	s.forgetIfEmpty(t.Queue, to)
	return result
}

// redirected returns sl as a delivery to t. A Target without QoS leaves it as
// it is.
func redirected(sl slot, t *store.Target) slot {
	if t.QoS == 0 {
		return sl
	}
	sl.qos = min(sl.message.QoS, t.QoS)
	sl.retain = t.Retain && sl.message.Retain
	var shareName, topicFilter string
	if sl.extra != nil {
		shareName, topicFilter = sl.extra.shareName, sl.extra.topicFilter
	}
	sl.extra = newExtra(t.SubscriptionIdentifiers, shareName, topicFilter)
	return sl
}

func (s *Store) offline(op *store.Op) store.Result {
	se, result := s.guarded(op.Session, op.Epoch)
	if result != store.Done {
		return result
	}
	if w := se.will; w != nil {
		switch {
		case op.WillRemoved:
			s.removeWill(w)
		case op.WillDue.IsZero():
			s.hurryWill(w, s.now())
		default:
			s.setWillDue(w, op.WillDue)
		}
	}
	if !se.Durable {
		op.Dropped = s.endSession(se, op.Sent)
		return store.Done
	}
	se.Owner = ""
	se.SessionExpiryInterval = op.SessionExpiryInterval
	if d := op.Disconnected; !d.At.IsZero() {
		se.Disconnected = &d
	}
	s.setExpiry(se, op.Due)
	return store.Done
}

func (s *Store) end(op *store.Op) store.Result {
	se := s.sessions[op.Session.ClientID]
	switch {
	case se == nil:
		return store.Gone
	case op.Epoch != 0 && se.Epoch != op.Epoch:
		return store.Fenced
	case se.ID != op.Session:
		return store.Gone
	}
	if se.will != nil {
		s.hurryWill(se.will, s.now())
	}
	op.Dropped = s.endSession(se, op.Sent)
	return store.Done
}

// insert adds x to a sorted set.
func insert[T any](set []T, x T, compare func(T, T) int) []T {
	i, found := slices.BinarySearchFunc(set, x, compare)
	if found {
		return set
	}
	return slices.Insert(set, i, x)
}

// remove takes x out of a sorted set, which keeps no memory once it is empty.
func remove[T any](set []T, x T, compare func(T, T) int) []T {
	i, found := slices.BinarySearchFunc(set, x, compare)
	switch {
	case !found:
		return set
	case len(set) == 1:
		return nil
	}
	return slices.Delete(set, i, i+1)
}

func compareNumbers(a, b store.Number) int {
	switch {
	case a.Less(b):
		return -1
	case b.Less(a):
		return 1
	}
	return 0
}

func comparePacketIDs(a, b uint16) int { return int(a) - int(b) }
