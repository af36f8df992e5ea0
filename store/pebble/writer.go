package pebble

import (
	"bytes"
	"context"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"loopmq/store"
)

// writer commits batches.
type writer struct {
	store *Store
	seq   uint64 // of the last batch; guarded by store.mu
}

// Commit returns an error before anything has changed, or for ever: a store that
// could not write a batch has failed, and repeats its error. So a batch that has
// a Seq and returned no error has its results as well.
func (w *writer) Commit(ctx context.Context, b *store.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s := w.store
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if b.Seq != 0 {
		return nil
	}
	room := s.room()
	var noRoom error
	err := s.step(func(t *tx) {
		if room < roomForSmall {
			if noRoom = room.check(t.roomFor(b.Ops)); noRoom != nil {
				return
			}
		}
		w.seq++
		b.Seq = w.seq
		t.full = room < roomForAll
		published := store.Done
		for i := range b.Ops {
			op := &b.Ops[i]
			if op.Kind == store.OpEnqueue && op.IfPublished && published != store.Done {
				op.Result = published
				continue
			}
			op.Result = t.do(op)
			if op.Kind == store.OpPublish {
				published = op.Result
			}
		}
	})
	if err == nil {
		err = noRoom
	}
	return err
}

// do carries out one operation.
func (t *tx) do(op *store.Op) store.Result {
	op.Dropped = [3]int{}
	for i := range op.Targets {
		x := &op.Targets[i]
		x.Result, x.Number, x.Dropped, x.Moved = store.Pending, store.Number{}, [3]int{}, nil
	}
	switch op.Kind {
	case store.OpPublish:
		return t.publish(op)
	case store.OpFinish:
		return t.finish(op)
	case store.OpRelease:
		return t.release(op)
	case store.OpComplete:
		return t.complete(op)
	case store.OpUnhold:
		return t.unhold(op)
	case store.OpSubscribe, store.OpUnsubscribe:
		return t.subscribe(op)
	case store.OpRetain:
		return t.retainOnly(op)
	case store.OpDropExpiredRetained:
		return t.dropExpiredRetained(op)
	case store.OpMove:
		return t.move(op)
	case store.OpOffline:
		return t.offline(op)
	case store.OpEndSession:
		return t.end(op)
	case store.OpRoute, store.OpUnroute: // nobody else is there to know
		return store.Done
	case store.OpEnqueue:
		return t.enqueue(op.Event)
	default:
		panic("pebble: unknown kind of operation in a batch")
	}
}

// publish checks everything first, so that it does all or nothing.
func (t *tx) publish(op *store.Op) store.Result {
	var (
		from  *session // who holds the Packet Identifier
		will  *store.Will
		old   *retained
		m     = op.Message
		freed int
	)
	refuse := func(r store.Result) store.Result {
		for i := range op.Targets {
			op.Targets[i].Result = r
		}
		return r
	}
	size := 0
	if op.Once != nil {
		if result := t.mayHappen(op.Once); result != store.Done {
			return refuse(result)
		}
		size = onceSize(op.Once)
	}
	if op.PacketID != 0 {
		var result store.Result
		if from, result = t.guardedState(op.Session, op.Epoch); result != store.Done {
			return refuse(result)
		}
		if _, held := t.held(from)[op.PacketID]; held {
			return refuse(store.Duplicate)
		}
	}
	if op.WillOf != nil {
		if will = t.will(op.WillOf.Epoch); will == nil || will.ClientID != op.WillOf.ClientID {
			return refuse(store.Gone)
		}
		freed += will.Message.Size()
	}
	if op.Retain {
		old = t.retained(m.TopicName)
		freed += t.freedBy(old)
	}
	stored := len(op.Targets) > 0 || op.Retain && len(m.Payload) > 0
	if stored {
		size += m.Size()
	}
	if (stored || op.Once != nil) && !t.fits(size, freed) {
		return refuse(store.Full)
	}

	if op.Once != nil {
		t.noteOnce(op.Once)
	}
	if from != nil {
		from.state.held[op.PacketID] = struct{}{}
		t.key = heldKey(t.key, from.ID.Incarnation, op.PacketID)
		t.set(t.key, nil)
	}
	if will != nil {
		t.removeWill(will)
	}
	if !stored && old == nil {
		return store.Done
	}
	var (
		body = t.encode(m)
		sh   *shared
	)
	places := len(op.Targets)
	if op.Retain {
		places++
	}
	if places > 1 && m.Size() >= sharedMin {
		sh = t.share(m)
	}
	if op.Retain {
		t.retain(m, old, body, sh)
	}
	for i := range op.Targets {
		t.appendTo(&op.Targets[i], m, body, sh)
	}
	if sh != nil {
		t.writeShared(sh, body)
	}
	return store.Done
}

// encode returns m as the body of an entry. It is valid until the next call.
func (t *tx) encode(m *store.Message) []byte {
	w := recordWriter(t.body[:0])
	w.message(m)
	t.body = w
	return w
}

// fits reports whether a message of size bytes has room once freed bytes have
// gone.
func (t *tx) fits(size, freed int) bool {
	limit := t.s.opts.MaxBytes
	return !t.full && (limit == 0 || t.s.used-freed+size <= limit)
}

// appendTo appends m to one queue, under the queue's limits. sh is nil if each
// entry has a copy of its own, body.
func (t *tx) appendTo(x *store.Target, m *store.Message, body []byte, sh *shared) {
	q, limits := t.queueToAppend(x.Queue)
	if q == nil {
		x.Result = store.Gone
		return
	}
	size := m.Size()
	if limits.Policy == store.DropOldest {
		if !q.fits(withSlack(limits), size) {
			var ok bool
			if x.Dropped, ok = t.makeRoom(q, limits, size); !ok {
				x.Result = store.Refused
				return
			}
		}
	} else if !q.fits(limits, size) {
		x.Result = store.Refused
		return
	}
	e := entry{
		qos: x.QoS, retain: x.Retain, size: size,
		identifiers: x.SubscriptionIdentifiers, shareName: x.ShareName, topicFilter: x.TopicFilter,
	}
	if sh != nil {
		e.shared = sh.id
		t.refer(sh, 1)
	} else {
		e.body = body
	}
	x.Result, x.Number = store.Done, t.append(q, &e)
}

// finish passes over numbers that are not there: deletions may be repeated.
func (t *tx) finish(op *store.Op) store.Result {
	q, _ := t.queue(store.QueueOf(op.Session))
	if q == nil {
		return store.Gone
	}
	for _, n := range op.Numbers {
		t.remove(q, n)
	}
	return store.Done
}

func (t *tx) release(op *store.Op) store.Result {
	se, result := t.guardedState(op.Session, op.Epoch)
	if result != store.Done {
		return result
	}
	q, _ := t.queue(store.QueueOf(op.Session))
	for _, n := range op.Numbers {
		t.remove(q, n)
		t.key = appendNumber(key1(t.key, keyReleased, se.ID.Incarnation), n)
		t.set(t.key, nil)
	}
	return store.Done
}

func (t *tx) complete(op *store.Op) store.Result {
	se, result := t.guardedState(op.Session, op.Epoch)
	if result != store.Done {
		return result
	}
	for _, n := range op.Numbers {
		t.key = appendNumber(key1(t.key, keyReleased, se.ID.Incarnation), n)
		t.delete(t.key)
	}
	return store.Done
}

func (t *tx) unhold(op *store.Op) store.Result {
	se, result := t.guardedState(op.Session, op.Epoch)
	if result != store.Done {
		return result
	}
	if _, held := t.held(se)[op.PacketID]; held {
		delete(se.state.held, op.PacketID)
		t.key = heldKey(t.key, se.ID.Incarnation, op.PacketID)
		t.deleteOnce(t.key)
	}
	return store.Done
}

// subscribe does OpSubscribe and OpUnsubscribe.
func (t *tx) subscribe(op *store.Op) store.Result {
	se, result := t.guardedState(op.Session, op.Epoch)
	if result != store.Done {
		return result
	}
	for i := range op.Subscriptions {
		sub := &op.Subscriptions[i]
		t.key = append(key1(t.key, keySubscription, se.ID.Incarnation), sub.TopicFilter...)
		if op.Kind == store.OpUnsubscribe {
			t.delete(t.key)
			continue
		}
		t.value = newRecord(t.value)
		t.value.subscription(sub)
		t.set(t.key, t.value)
	}
	return store.Done
}

// move stops at the first entry that the target has no room for, whatever the
// target's policy is: it stays where it is, so nothing is lost.
func (t *tx) move(op *store.Op) store.Result {
	refuse := func(r store.Result) store.Result {
		for i := range op.Targets {
			op.Targets[i].Result = r
		}
		return r
	}
	if op.Epoch != 0 {
		if _, result := t.guarded(op.Session, op.Epoch); result != store.Done {
			return refuse(result)
		}
	}
	from, _ := t.queue(op.From)
	if from == nil {
		return refuse(store.Gone)
	}
	if len(op.Targets) == 0 {
		result := store.Gone
		t.eachOf(from, op, func(n store.Number, _ []byte) (bool, error) {
			t.remove(from, n)
			result = store.Done
			return true, nil
		})
		t.forgetIfEmpty(op.From, from)
		return result
	}
	x := &op.Targets[0]
	to, limits := t.queueToAppend(x.Queue)
	if to == nil {
		return refuse(store.Gone)
	}
	x.Result = store.Done
	t.eachOf(from, op, func(n store.Number, value []byte) (bool, error) {
		r := readRecord(value)
		e := r.entry()
		if r.bad {
			return false, errCorrupt
		}
		if !to.fits(limits, e.size) {
			if len(x.Moved) == 0 {
				x.Result = store.Refused
			}
			return false, nil
		}
		m, err := e.message(t.reader())
		if err != nil {
			return false, err
		}
		e.redirect(m, x)
		if e.shared != 0 {
			t.refer(t.sharedOf(e.shared), 1) // before remove takes its own away
		}
		t.remove(from, n)
		x.Number = t.append(to, &e)
		x.Moved = append(x.Moved, e.as(x.Number, m))
		return true, nil
	})
	t.forgetIfEmpty(op.From, from)
	t.forgetIfEmpty(x.Queue, to)
	return store.Done
}

// eachOf calls f with the entries that an OpMove is about.
func (t *tx) eachOf(q *queue, op *store.Op, f func(n store.Number, value []byte) (bool, error)) {
	type found struct {
		n     store.Number
		value []byte
	}
	var all []found // f changes what would be read
	if len(op.Numbers) == 0 {
		if op.Limit > 0 {
			t.entries(q, store.Number{}, func(n store.Number, value []byte) (bool, error) {
				all = append(all, found{n, bytes.Clone(value)})
				return len(all) < op.Limit, nil
			})
		}
	} else {
		for _, n := range op.Numbers {
			if n.Less(q.front) { // garbage
				continue
			}
			t.key = entryKey(t.key, q.number, n)
			t.get(t.key, func(value []byte) error {
				all = append(all, found{n, bytes.Clone(value)})
				return nil
			})
		}
	}
	for _, x := range all {
		more, err := f(x.n, x.value)
		t.note(err)
		if !more || t.err != nil {
			return
		}
	}
}

// redirect makes e a delivery to x. A Target without QoS leaves it as it is.
func (e *entry) redirect(m *store.Message, x *store.Target) {
	if x.QoS == 0 {
		return
	}
	e.qos = min(m.QoS, x.QoS)
	e.retain = x.Retain && m.Retain
	e.identifiers = append([]uint32(nil), x.SubscriptionIdentifiers...)
}

// message returns the message of e, which r may have.
func (e *entry) message(r pebble.Reader) (m *store.Message, err error) {
	if e.shared == 0 {
		return messageOf(e.body)
	}
	return sharedMessage(r, e.shared)
}

// sharedMessage reads a message that several places hold.
func sharedMessage(r pebble.Reader, id uint64) (m *store.Message, err error) {
	found, err := get(r, key1(nil, keyMessage, id), func(value []byte) (err error) {
		r := readRecord(value)
		_, _ = r.uint(), r.uint() // references and size
		if r.bad {
			return errCorrupt
		}
		m, err = messageOf(r.b)
		return err
	})
	if err == nil && !found {
		err = errCorrupt
	}
	return m, err
}

func (t *tx) offline(op *store.Op) store.Result {
	se, result := t.guarded(op.Session, op.Epoch)
	if result != store.Done {
		return result
	}
	if w := t.willOf(se); w != nil {
		switch {
		case op.WillRemoved:
			t.removeWill(w)
		case op.WillDue.IsZero():
			t.hurryWill(w, t.s.now())
		default:
			t.setWillDue(w, op.WillDue)
		}
	}
	if !se.Durable {
		op.Dropped = t.endSession(se, op.Sent)
		return store.Done
	}
	se.SessionExpiryInterval = op.SessionExpiryInterval
	if d := op.Disconnected; !d.At.IsZero() {
		se.Disconnected = &d
	}
	t.leave(se, op.Due)
	return store.Done
}

// leave takes a durable session offline.
func (t *tx) leave(se *session, due time.Time) {
	se.Owner = ""
	t.disown(se)
	t.setExpiry(se, due)
	t.save(se)
	if q := &se.state.queue; !q.garbageFrom.IsZero() { // else for each session after a crash
		t.reclaim(q)
	}
	se.state.queue.untrack()
	t.s.idle.touch(se)
}

func (t *tx) end(op *store.Op) store.Result {
	se := t.session(op.Session.ClientID)
	switch {
	case se == nil:
		return store.Gone
	case op.Epoch != 0 && se.Epoch != op.Epoch:
		return store.Fenced
	case se.ID.Incarnation != op.Session.Incarnation:
		return store.Gone
	}
	if w := t.willOf(se); w != nil {
		t.hurryWill(w, t.s.now())
	}
	op.Dropped = t.endSession(se, op.Sent)
	return store.Done
}
