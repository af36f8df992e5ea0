package opcuaserver

import (
	"container/list"
	"context"
	"strings"
	"sync"
	"time"
)

const (
	// topicMax and levelsMax bound the topics that have a variable.
	topicMax  = 4096
	levelsMax = 32
	// nodeCost is about what a level of a topic takes, and what a value does beside its bytes.
	nodeCost = 256
	// changesBytes bounds what is handed over at once.
	changesBytes = 1 << 20
)

// table is the last values of topics, in the order in which they changed. It is bounded, and its methods are safe for
// concurrent use: a message costs a lookup, whoever reads the table or doesn't.
type table struct {
	topicsMax, bytesMax, valueMax int

	mu struct {
		sync.Mutex
		topics  map[string]*list.Element // of *last
		order   list.List                // the latest change is the last
		bytes   int
		seq     uint64
		removed int           // topics of the order that are gone
		news    chan struct{} // closed at the next change; nil: nobody waits
	}
}

// last is the last value of a topic.
type last struct {
	Value
	seq  uint64
	cost int
}

func newTable(topicsMax, bytesMax, valueMax int) *table {
	t := &table{topicsMax: topicsMax, bytesMax: bytesMax, valueMax: valueMax}
	t.mu.topics = make(map[string]*list.Element)
	t.mu.order.Init()
	return t
}

// dropped says why a value isn't in the table.
type dropped uint8

const (
	droppedNone dropped = iota
	droppedTopics
	droppedTopic
	droppedTooLarge
)

// set makes a message the last value of its topic. The payload is copied.
func (t *table) set(topic string, payload []byte, retain bool, now time.Time) dropped {
	if len(topic) > topicMax || strings.Count(topic, "/") >= levelsMax {
		return droppedTopic
	}
	removed := retain && len(payload) == 0
	v := Value{Topic: topic, Time: now, Removed: removed, TooLarge: len(payload) > t.valueMax}
	if !v.TooLarge {
		v.Payload = append([]byte(nil), payload...)
	}
	cost := 2*len(topic) + len(v.Payload) + nodeCost*(strings.Count(topic, "/")+2)
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.mu.topics[topic]
	if e == nil {
		if removed {
			return droppedNone
		}
		if len(t.mu.topics) >= t.topicsMax || t.mu.bytes+cost > t.bytesMax {
			return droppedTopics
		}
		e = t.mu.order.PushBack(&last{})
		t.mu.topics[topic] = e
	}
	l := e.Value.(*last)
	if grown := t.mu.bytes + cost - l.cost; grown > t.bytesMax && cost > l.cost {
		v.Payload, v.TooLarge = nil, true
		cost = l.cost
	}
	if removed != l.Removed {
		if t.mu.removed++; !removed {
			t.mu.removed -= 2
		}
	}
	t.mu.seq++
	t.mu.bytes += cost - l.cost
	l.Value, l.seq, l.cost = v, t.mu.seq, cost
	t.mu.order.MoveToBack(e)
	if t.mu.news != nil {
		close(t.mu.news)
		t.mu.news = nil
	}
	if v.TooLarge {
		return droppedTooLarge
	}
	return droppedNone
}

// has reports whether a topic has this payload.
func (t *table) has(topic string, payload []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.mu.topics[topic]
	if e == nil {
		return false
	}
	l := e.Value.(*last)
	return !l.Removed && !l.TooLarge && string(l.Payload) == string(payload)
}

// topics is how many there are.
func (t *table) topics() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.mu.topics)
}

// changes returns what has changed since a cursor, the oldest first, as much as fits; it waits for something until ctx ends.
// A reader that is slow gets the newest only. Cursor 0 is the beginning.
func (t *table) changes(ctx context.Context, cursor uint64) Changed {
	for {
		c, news := t.since(cursor)
		if len(c.Values) > 0 {
			return c
		}
		select {
		case <-news:
		case <-ctx.Done():
			return c
		}
	}
}

func (t *table) since(cursor uint64) (c Changed, news chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.news == nil {
		t.mu.news = make(chan struct{})
	}
	c.Cursor, news = cursor, t.mu.news
	e := t.mu.order.Back()
	for e != nil && e.Value.(*last).seq > cursor {
		e = e.Prev()
	}
	first := t.mu.order.Front()
	if e != nil {
		first = e.Next()
	}
	t.forget(e)
	for size := 0; first != nil && size < changesBytes; first = first.Next() {
		l := first.Value.(*last)
		c.Values, c.Cursor = append(c.Values, l.Value), l.seq
		size += l.cost
	}
	return c, news
}

// forget drops topics that are gone, as the reader knows: up to e.
func (t *table) forget(e *list.Element) {
	for e != nil && t.mu.removed > 0 {
		before := e.Prev()
		if l := e.Value.(*last); l.Removed {
			t.mu.order.Remove(e)
			delete(t.mu.topics, l.Topic)
			t.mu.bytes -= l.cost
			t.mu.removed--
		}
		e = before
	}
}
