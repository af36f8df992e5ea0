package memory

import (
	"context"
	"slices"
	"sort"
	"strings"
	"time"

	"loopmq/store"
	"loopmq/store/local"
)

// outboxView is what one broker sees of the outboxes.
type outboxView struct {
	*Store
	bell *local.Bell
}

// outbox holds the events of one endpoint.
type outbox struct {
	book   local.Book
	events []event // in the order of their ids; those that have gone are nil until many are
	live   int
	bytes  int
	dead   []store.Dead // in the order of their ids

	deadBytes                   int
	disabled                    string
	matched, delivered, dropped uint64
}

type event struct {
	id   store.EventID
	at   time.Time
	data []byte
	gone bool
}

// eventGeneration is the Generation of all events: what is in memory is lost as a whole.
const eventGeneration = 1

// outbox returns that of an endpoint, which may come into being here. REQUIRES: s.mu
func (s *Store) outbox(endpoint string) *outbox {
	o := s.outboxes[endpoint]
	if o == nil {
		o = &outbox{}
		s.outboxes[endpoint] = o
	}
	return o
}

// enqueue does OpEnqueue. REQUIRES: s.mu
func (s *Store) enqueue(e *store.Event) store.Result {
	o := s.outbox(e.Endpoint)
	o.matched++
	size := len(e.Data)
	switch {
	case !s.fits(size, 0):
		o.dropped++
		return store.Full
	case e.MaxEntries > 0 && o.live >= e.MaxEntries, e.MaxBytes > 0 && int64(o.bytes+size) > e.MaxBytes:
		o.dropped++
		return store.Refused
	}
	s.addEvent(o, e.Data)
	s.ring(e.Endpoint)
	return store.Done
}

// addEvent REQUIRES: s.mu
func (s *Store) addEvent(o *outbox, data []byte) {
	s.event++
	o.events = append(o.events, event{id: store.EventID{Generation: eventGeneration, Seq: s.event}, at: s.now(), data: data})
	o.live++
	o.bytes += len(data)
	s.used += len(data)
}

// ring tells all brokers that endpoints have events.
func (s *Store) ring(endpoint string) {
	for _, b := range s.bells {
		b.Ring(endpoint)
	}
}

// index is the place of the first event that is not before id.
func (o *outbox) index(id store.EventID) int {
	return sort.Search(len(o.events), func(i int) bool { return !o.events[i].id.Less(id) })
}

// find returns an event that is in the outbox, else nil.
func (o *outbox) find(id store.EventID) *event {
	if i := o.index(id); i < len(o.events) && o.events[i].id == id && !o.events[i].gone {
		return &o.events[i]
	}
	return nil
}

// keptEvents is how many places for events an outbox keeps whatever is in it.
const keptEvents = 64

// remove takes an event out. REQUIRES: s.mu
func (s *Store) removeEvent(o *outbox, e *event) {
	o.book.Finish(e.id)
	o.live--
	o.bytes -= len(e.data)
	s.used -= len(e.data)
	e.data, e.gone = nil, true
	if o.live < len(o.events)/2 && len(o.events) > keptEvents {
		left := make([]event, 0, 2*o.live)
		for _, e := range o.events {
			if !e.gone {
				left = append(left, e)
			}
		}
		o.events = left
	}
}

func (v outboxView) Take(_ context.Context, endpoint, consumer string, limit, maxBytes int) ([]store.Taken, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	o := v.outboxes[endpoint]
	if o == nil {
		return nil, nil
	}
	var (
		taken []store.Taken
		bytes int
	)
	take := func(e *event, again bool) bool {
		if len(taken) >= limit || len(taken) > 0 && maxBytes > 0 && bytes+len(e.data) > maxBytes {
			return false
		}
		o.book.Take(e.id, consumer)
		bytes += len(e.data)
		taken = append(taken, store.Taken{ID: e.id, Data: e.data, Enqueued: e.at, Again: again})
		return true
	}
	for _, id := range o.book.Orphans(v.consumers, consumer, v.now(), limit) {
		if !take(o.find(id), true) {
			return taken, nil
		}
	}
	next := o.book.Last()
	next.Seq++
	for i := o.index(next); i < len(o.events); i++ {
		if e := &o.events[i]; !e.gone && !take(e, false) {
			break
		}
	}
	return taken, nil
}

func (v outboxView) Resume(_ context.Context, endpoint, consumer string, after store.EventID, limit, maxBytes int) ([]store.Taken, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	o := v.outboxes[endpoint]
	if o == nil {
		return nil, nil
	}
	var taken []store.Taken
	bytes := 0
	for _, id := range o.book.Held(consumer, after, limit) {
		e := o.find(id)
		if bytes += len(e.data); len(taken) > 0 && maxBytes > 0 && bytes > maxBytes {
			break
		}
		taken = append(taken, store.Taken{ID: id, Data: e.data, Enqueued: e.at, Again: true})
	}
	return taken, nil
}

func (v outboxView) Renew(_ context.Context, consumer string, ttl time.Duration) error {
	if err := v.lock(); err != nil {
		return err
	}
	defer v.mu.Unlock()
	v.consumers.Renew(consumer, v.now(), ttl)
	return nil
}

func (v outboxView) Done(_ context.Context, endpoint string, ids []store.EventID) error {
	if err := v.lock(); err != nil {
		return err
	}
	defer v.mu.Unlock()
	o := v.outboxes[endpoint]
	if o == nil {
		return nil
	}
	for _, id := range ids {
		if e := o.find(id); e != nil {
			v.removeEvent(o, e)
			o.delivered++
		}
	}
	return nil
}

func (v outboxView) Bury(_ context.Context, endpoint string, dead []store.Dead, limit int) (dropped int, err error) {
	if err := v.lock(); err != nil {
		return 0, err
	}
	defer v.mu.Unlock()
	o := v.outboxes[endpoint]
	if o == nil {
		return 0, nil
	}
	for _, d := range dead {
		e := o.find(d.ID)
		if e == nil {
			continue
		}
		d.Data = e.data
		v.removeEvent(o, e)
		i, _ := o.letter(d.ID)
		o.dead = slices.Insert(o.dead, i, d)
		o.deadBytes += len(d.Data)
		v.used += len(d.Data)
	}
	for len(o.dead) > max(limit, 0) {
		v.removeLetter(o, 0)
		o.dropped++
		dropped++
	}
	return dropped, nil
}

// letter returns the place of a dead letter, and whether it is there.
func (o *outbox) letter(id store.EventID) (int, bool) {
	return slices.BinarySearchFunc(o.dead, id, func(d store.Dead, id store.EventID) int { return local.CompareIDs(d.ID, id) })
}

// removeLetter REQUIRES: s.mu
func (s *Store) removeLetter(o *outbox, i int) {
	size := len(o.dead[i].Data)
	o.deadBytes -= size
	s.used -= size
	o.dead = slices.Delete(o.dead, i, i+1)
}

func (v outboxView) Dead(_ context.Context, endpoint string, after store.EventID, limit int) ([]store.Dead, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	o := v.outboxes[endpoint]
	if o == nil {
		return nil, nil
	}
	i, found := o.letter(after)
	if found {
		i++
	}
	return slices.Clone(o.dead[i:min(i+limit, len(o.dead))]), nil
}

func (v outboxView) Replay(_ context.Context, endpoint string, ids []store.EventID) (int, error) {
	if err := v.lock(); err != nil {
		return 0, err
	}
	defer v.mu.Unlock()
	n := v.takeLetters(endpoint, ids, func(o *outbox, d store.Dead) { v.addEvent(o, d.Data) })
	if n > 0 {
		v.ring(endpoint)
	}
	return n, nil
}

func (v outboxView) Drop(_ context.Context, endpoint string, ids []store.EventID) (int, error) {
	if err := v.lock(); err != nil {
		return 0, err
	}
	defer v.mu.Unlock()
	return v.takeLetters(endpoint, ids, func(o *outbox, _ store.Dead) { o.dropped++ }), nil
}

// takeLetters takes dead letters away and calls f with each. REQUIRES: s.mu
func (s *Store) takeLetters(endpoint string, ids []store.EventID, f func(o *outbox, d store.Dead)) (n int) {
	o := s.outboxes[endpoint]
	if o == nil {
		return 0
	}
	for _, id := range ids {
		if i, found := o.letter(id); found {
			d := o.dead[i]
			s.removeLetter(o, i)
			f(o, d)
			n++
		}
	}
	return n
}

func (v outboxView) Disable(_ context.Context, endpoint, reason string) error {
	if err := v.lock(); err != nil {
		return err
	}
	defer v.mu.Unlock()
	v.outbox(endpoint).disabled = reason
	return nil
}

func (v outboxView) State(_ context.Context, endpoint string) (store.OutboxState, error) {
	if err := v.lock(); err != nil {
		return store.OutboxState{}, err
	}
	defer v.mu.Unlock()
	o := v.outboxes[endpoint]
	if o == nil {
		return store.OutboxState{}, nil
	}
	st := store.OutboxState{
		Queued: uint64(o.live - o.book.Len()), Taken: uint64(o.book.Len()), Dead: uint64(len(o.dead)),
		Bytes: uint64(o.bytes), DeadBytes: uint64(o.deadBytes),
		Matched: o.matched, Delivered: o.delivered, Dropped: o.dropped, Disabled: o.disabled,
	}
	for i := range o.events {
		if !o.events[i].gone {
			st.Oldest = o.events[i].at
			break
		}
	}
	return st, nil
}

func (v outboxView) Endpoints(context.Context) ([]string, error) {
	if err := v.lock(); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	var endpoints []string
	for endpoint := range v.outboxes {
		endpoints = append(endpoints, endpoint)
	}
	slices.SortFunc(endpoints, strings.Compare)
	return endpoints, nil
}

func (v outboxView) Remove(_ context.Context, endpoint string) error {
	if err := v.lock(); err != nil {
		return err
	}
	defer v.mu.Unlock()
	if o := v.outboxes[endpoint]; o != nil {
		v.used -= o.bytes + o.deadBytes
		delete(v.outboxes, endpoint)
	}
	return nil
}

func (v outboxView) Notify(endpoint string) <-chan struct{} { return v.bell.Channel(endpoint) }
