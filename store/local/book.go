package local

import (
	"slices"
	"time"

	"loopmq/store"
)

// Consumers are the consumers of a store's outboxes, by name, with the time until which
// each lives. The zero value is not usable: make it. It is not safe for concurrent use.
type Consumers map[string]time.Time

// Renew has a consumer live until now + ttl. What has been dead for long is forgotten,
// which makes no difference to anyone.
func (c Consumers) Renew(consumer string, now time.Time, ttl time.Duration) {
	if ttl <= 0 {
		delete(c, consumer)
		return
	}
	for name, until := range c {
		if !now.Before(until) {
			delete(c, name)
		}
	}
	c[consumer] = now.Add(ttl)
}

// Dead reports whether a consumer is dead at now.
func (c Consumers) Dead(consumer string, now time.Time) bool { return !now.Before(c[consumer]) }

// Book says which events of one outbox are taken, and by whom. Events are taken in
// their order, so that all behind the last one are not. It is not safe for concurrent
// use.
type Book struct {
	last  store.EventID
	taken map[store.EventID]string // by which consumer
	held  map[string]int           // how many each consumer has; it isn't there if none
}

// Last is the last event that was ever taken.
func (b *Book) Last() store.EventID { return b.last }

// Len is how many events are taken.
func (b *Book) Len() int { return len(b.taken) }

// Take notes that a consumer has an event now.
func (b *Book) Take(id store.EventID, consumer string) {
	if b.taken == nil {
		b.taken, b.held = make(map[store.EventID]string), make(map[string]int)
	}
	b.Finish(id)
	b.taken[id] = consumer
	b.held[consumer]++
	if b.last.Less(id) {
		b.last = id
	}
}

// Finish forgets an event that is in the outbox no more.
func (b *Book) Finish(id store.EventID) {
	holder, taken := b.taken[id]
	if !taken {
		return
	}
	delete(b.taken, id)
	if b.held[holder]--; b.held[holder] == 0 {
		delete(b.held, holder)
	}
}

// Orphans returns up to limit events that dead consumers hold, in their order. Those of
// consumer itself are not among them.
func (b *Book) Orphans(c Consumers, consumer string, now time.Time, limit int) []store.EventID {
	dead := make(map[string]bool)
	for holder := range b.held {
		if holder != consumer && c.Dead(holder, now) {
			dead[holder] = true
		}
	}
	if len(dead) == 0 {
		return nil
	}
	return b.find(limit, func(_ store.EventID, holder string) bool { return dead[holder] })
}

// Held returns up to limit events behind after that a consumer has, in their order.
func (b *Book) Held(consumer string, after store.EventID, limit int) []store.EventID {
	if b.held[consumer] == 0 {
		return nil
	}
	return b.find(limit, func(id store.EventID, holder string) bool { return holder == consumer && after.Less(id) })
}

func (b *Book) find(limit int, wanted func(id store.EventID, holder string) bool) []store.EventID {
	var ids []store.EventID
	for id, holder := range b.taken {
		if wanted(id, holder) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, CompareIDs)
	return ids[:min(max(limit, 0), len(ids))]
}

// CompareIDs is the order of events, for package slices.
func CompareIDs(a, b store.EventID) int {
	switch {
	case a.Less(b):
		return -1
	case b.Less(a):
		return 1
	}
	return 0
}
