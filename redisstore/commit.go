package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
)

// batchArgs makes the arguments of lua/commit.lua from a batch, and takes its answer
// apart. Its memory is used again for the next batch.
type batchArgs struct {
	places   map[store.SessionID]int // queue -> its place in cids, from 1 on
	cids     []any
	tags     []any
	messages []any
	ops      []any
	all      []any
	runs     []run
	encoded  []encoded // of messages; ops and messages point into it
	bytes    []byte    // of encoded
	instance string
	keys     keys
	now      time.Time
}

// A run is publications in a row that do no more than append to one queue. They are
// one operation of the script.
type run struct {
	first, n int // in the batch
	place    int // of the queue
}

// encoded is a message as an argument: a pointer to it makes an interface without an
// allocation.
type encoded []byte

func (e *encoded) MarshalBinary() ([]byte, error) { return *e, nil }

// encode returns the arguments; noRoom refuses messages. They are valid until the next
// call.
func (a *batchArgs) encode(w *writer, b *store.Batch, noRoom bool) []any {
	a.reset()
	a.keys, a.now = w.s.keys, w.s.Now()
	process, position := w.s.name, ""
	if w.of != nil { // the position first: what is behind it counts as added
		a.instance, process, position = w.of.instance, w.of.instance, w.of.feed.position()
	}
	awaited := len(b.Ops) == 0                     // somebody waits for what is new in the feed
	a.encoded = slices.Grow(a.encoded, len(b.Ops)) // what points into it must stay
	for i := 0; i < len(b.Ops); {
		if n := runLength(b.Ops[i:]); n > 0 {
			a.run(b.Ops[i:i+n], i)
			for j := i; j < i+n && !awaited; j++ {
				awaited = b.Ops[j].Additions != 0
			}
			i += n
			continue
		}
		op := &b.Ops[i]
		awaited = awaited || op.Additions != 0
		stale := op.Additions != 0 && w.of != nil && op.Additions < w.of.feed.additions()
		a.encodeOp(op, stale)
		i++
	}
	if !awaited {
		position = ""
	}
	a.all = append(a.all, w.s.keys.prefix, a.instance, millis(a.now), process, w.name, b.Seq, position, flag(noRoom),
		len(a.cids), len(a.messages))
	a.all = append(a.all, a.cids...)
	a.all = append(a.all, a.tags...)
	a.all = append(a.all, a.messages...)
	a.all = append(a.all, a.ops...)
	return a.all
}

func (a *batchArgs) reset() {
	if a.places == nil {
		a.places = make(map[store.SessionID]int)
	}
	clear(a.places)
	for _, list := range []*[]any{&a.cids, &a.tags, &a.messages, &a.ops, &a.all} {
		clear(*list)
		*list = (*list)[:0]
	}
	clear(a.encoded)
	a.runs, a.encoded, a.bytes, a.instance = a.runs[:0], a.encoded[:0], a.bytes[:0], ""
	if cap(a.bytes) > keptBytes {
		a.bytes = nil
	}
}

// keptBytes bounds the memory for messages that is kept for the next batch.
const keptBytes = 1 << 20

func (a *batchArgs) add(args ...any) { a.ops = append(a.ops, args...) }

// Arguments that most operations have are made once: an interface that holds another
// value costs an allocation.
var (
	smallNumbers    [4096]any
	plainDeliveries [8]any
)

func init() {
	for i := range smallNumbers {
		smallNumbers[i] = i
	}
	for i := range plainDeliveries {
		plainDeliveries[i] = string('0' + rune(i))
	}
}

func number(n int) any {
	if n >= 0 && n < len(smallNumbers) {
		return smallNumbers[n]
	}
	return n
}

// delivery returns what an entry for a target has besides the message.
func delivery(t *store.Target) any {
	if len(t.SubscriptionIdentifiers) == 0 && t.ShareName == "" && t.TopicFilter == "" {
		i := t.QoS & 3
		if t.Retain {
			i += deliveryRetain
		}
		return plainDeliveries[i]
	}
	return appendDelivery(nil, t.QoS, t.Retain, t.SubscriptionIdentifiers, t.ShareName, t.TopicFilter)
}

func flag(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

// forget clears former results of an operation.
func forget(op *store.Op) {
	op.Result, op.Dropped = store.Pending, [3]int{}
	for i := range op.Targets {
		t := &op.Targets[i]
		t.Result, t.Owner, t.Left, t.Number, t.Dropped, t.Moved = store.Pending, "", 0, store.Number{}, [3]int{}, nil
	}
}

// runLength is how many operations from the first on are a run, 0 if that is none.
func runLength(ops []store.Op) int {
	if !plain(&ops[0]) {
		return 0
	}
	t, n := &ops[0].Targets[0], 1
	for n < len(ops) && plain(&ops[n]) {
		u := &ops[n].Targets[0]
		if u.Queue.Session != t.Queue.Session || u.QoS != t.QoS || u.Retain != t.Retain {
			break
		}
		n++
	}
	return n
}

// plain reports whether an operation may be part of a run.
func plain(op *store.Op) bool {
	if op.Kind != store.OpPublish || op.PacketID != 0 || op.WillOf != nil || op.Retain || op.IfRetained || op.Once != nil ||
		len(op.Targets) != 1 ||
		op.Additions != 0 && op.Message.QoS == 2 {
		return false
	}
	t := &op.Targets[0]
	return t.Instance == "" && !t.Queue.IsGroup() && t.ShareName == "" && t.TopicFilter == "" && len(t.SubscriptionIdentifiers) == 0
}

// run adds a run whose first operation has a place in the batch.
func (a *batchArgs) run(ops []store.Op, first int) {
	t := &ops[0].Targets[0]
	place := a.place(t.Queue.Session)
	a.runs = append(a.runs, run{first, len(ops), place})
	a.add("Q", number(place), delivery(t), number(len(ops)))
	for i := range ops {
		forget(&ops[i])
		a.ops = append(a.ops, a.encodeMessage(ops[i].Message))
	}
}

// encodeOp adds an operation and forgets former results in it.
func (a *batchArgs) encodeOp(op *store.Op, stale bool) {
	forget(op)
	switch op.Kind {
	case store.OpPublish:
		a.publish(op, stale)
	case store.OpFinish:
		a.finish(op)
	case store.OpRelease:
		a.guarded("R", op)
		a.numbers(op.Numbers)
	case store.OpComplete:
		a.guarded("C", op)
		a.numbers(op.Numbers)
	case store.OpUnhold:
		a.guarded("U", op)
		a.add(int(op.PacketID))
	case store.OpSubscribe:
		a.guarded("S", op)
		a.add(2 * len(op.Subscriptions))
		for i := range op.Subscriptions {
			s := &op.Subscriptions[i]
			a.add(s.TopicFilter, appendSubscription(nil, s))
		}
		a.add(encodeChange(&store.Change{
			Kind: store.ChangeSubscribed, Session: op.Session, Instance: a.instance, Subscriptions: op.Subscriptions,
		}))
	case store.OpUnsubscribe:
		a.guarded("N", op)
		filters := make([]string, len(op.Subscriptions))
		for i := range op.Subscriptions {
			filters[i] = op.Subscriptions[i].TopicFilter
		}
		a.filters(filters, store.Change{Kind: store.ChangeUnsubscribed, Session: op.Session, TopicFilters: filters})
	case store.OpRetain:
		a.add("T", a.message(op.Message))
		a.retain(op.Message)
	case store.OpDropExpiredRetained:
		a.add("X", op.Message.TopicName, millis(op.Due))
	case store.OpMove:
		a.move(op)
	case store.OpOffline:
		a.guarded("O", op)
		will := strconv.FormatInt(millis(op.WillDue), 10)
		if op.WillRemoved {
			will = "x"
		}
		gives := ""
		switch {
		case op.Gives:
			gives = "g"
		case op.Gave:
			gives = "d"
		}
		a.add(op.SessionExpiryInterval, millis(op.Due), will, optionalID(op.Sent), gives, encodeDisconnected(op.Disconnected))
	case store.OpEndSession:
		a.guarded("E", op)
		a.add(optionalID(op.Sent))
	case store.OpRoute:
		a.add("A")
		a.filters(op.TopicFilters, store.Change{Kind: store.ChangeRouted, Instance: a.instance, TopicFilters: op.TopicFilters})
	case store.OpUnroute:
		a.add("Z")
		a.filters(op.TopicFilters, store.Change{Kind: store.ChangeUnrouted, Instance: a.instance, TopicFilters: op.TopicFilters})
	case store.OpEnqueue:
		e := op.Event
		a.add("V", e.Endpoint, e.Data, number(e.MaxEntries), e.MaxBytes, flag(op.IfPublished))
	default:
		panic("redisstore: unknown kind of operation in a batch")
	}
}

// guarded adds a letter and what names a session and the epoch of its claim.
func (a *batchArgs) guarded(letter string, op *store.Op) {
	a.add(letter, op.Session.ClientID, tag(op.Session.ClientID), op.Session.Incarnation, op.Epoch)
}

// optionalID is a Number as a stream id, empty for the zero Number.
func optionalID(n store.Number) string {
	if n.Seq == 0 {
		return ""
	}
	return idOf(n)
}

func (a *batchArgs) numbers(numbers []store.Number) {
	a.add(number(len(numbers)))
	for _, n := range numbers {
		a.add(idOf(n))
	}
}

// finish adds an OpFinish. What was sent in order is mostly acknowledged in order: then
// it goes as the beginning of the queue, which costs Redis less than entry by entry.
func (a *batchArgs) finish(op *store.Op) {
	first, rest := "", op.Numbers
	if before := op.Unfinished; before.Seq > 0 {
		first = idOf(before)
		rest = nil
		for i, n := range op.Numbers {
			if !n.Less(before) {
				rest = op.Numbers[i:]
				break
			}
		}
	}
	a.add("F", queueTag(op.Session), first)
	a.numbers(rest)
}

func (a *batchArgs) filters(filters []string, c store.Change) {
	a.add(len(filters))
	for _, f := range filters {
		a.add(f)
	}
	a.add(encodeChange(&c))
}

// place returns the place of a session's queue.
func (a *batchArgs) place(id store.SessionID) int {
	if i, ok := a.places[id]; ok {
		return i
	}
	a.cids = append(a.cids, id.ClientID)
	a.tags = append(a.tags, queueTag(id))
	a.places[id] = len(a.cids)
	return len(a.cids)
}

// queue returns what names a queue in an operation.
func (a *batchArgs) queue(q store.QueueID) any {
	if q.IsGroup() {
		return "g" + a.keys.queue(q)
	}
	return number(a.place(q.Session))
}

func (a *batchArgs) message(m *store.Message) int {
	a.messages = append(a.messages, a.encodeMessage(m))
	return len(a.messages)
}

// encodeMessage returns a message as an argument. REQUIRES: room in encoded.
func (a *batchArgs) encodeMessage(m *store.Message) *encoded {
	size := encodedSize(m)
	if cap(a.bytes)-len(a.bytes) < size {
		a.bytes = make([]byte, 0, max(64<<10, size, min(2*cap(a.bytes), keptBytes))) // the former one stays with what is in it
	}
	begin := len(a.bytes)
	a.bytes = appendMessage(a.bytes, m)
	a.encoded = append(a.encoded, a.bytes[begin:len(a.bytes):len(a.bytes)])
	return &a.encoded[len(a.encoded)-1]
}

// retain adds what the script's retain takes.
func (a *batchArgs) retain(m *store.Message) {
	expiry := ""
	if len(m.Payload) > 0 {
		expiry = strconv.FormatInt(millis(m.Expiry), 10)
	}
	a.add(m.TopicName, expiry)
}

func (a *batchArgs) publish(op *store.Op, stale bool) {
	flags := make([]byte, 0, 8)
	if op.PacketID != 0 {
		flags = append(flags, 'h')
	}
	if op.WillOf != nil {
		flags = append(flags, 'w')
	}
	if op.Retain {
		flags = append(flags, 'r')
	}
	if op.IfRetained {
		flags = append(flags, 'q')
	}
	if o := op.Once; o != nil {
		if len(o.Key) > store.MaxOnceKey || len(o.Answer) > store.MaxOnceAnswer {
			flags = append(flags, 'K')
		} else {
			flags = append(flags, 'k')
		}
	}
	if len(op.Targets) > 0 || op.Retain && len(op.Message.Payload) > 0 || op.Once != nil {
		flags = append(flags, 'm')
	}
	if op.Additions != 0 && (op.Message.QoS == 2 || op.WillOf != nil || op.Once != nil) {
		// All has to be in one step: what an added subscription gets can't follow.
		flags = append(flags, 's')
		if stale {
			flags[len(flags)-1] = 'S'
		}
	}
	if storedOnce(op) {
		flags = append(flags, 'o')
	}
	message := 0 // none: nobody gets it
	if op.Retain || len(op.Targets) > 0 {
		message = a.message(op.Message)
	}
	a.add("P", string(flags), number(message))
	if op.PacketID != 0 {
		a.add(op.Session.ClientID, tag(op.Session.ClientID), op.Session.Incarnation, op.Epoch, int(op.PacketID))
	}
	if op.WillOf != nil {
		a.add(op.WillOf.ClientID, tag(op.WillOf.ClientID), op.WillOf.Epoch)
	}
	if op.Retain {
		a.retain(op.Message)
	}
	if op.IfRetained {
		a.add(op.Message.TopicName)
	}
	if o := op.Once; slices.Contains(flags, 'k') {
		expires := o.Expires
		if latest := a.now.Add(store.MaxOnceWindow); expires.After(latest) {
			expires = latest
		}
		a.add(o.Key, o.Answer, millis(expires))
	}
	a.add(number(len(op.Targets)))
	for i := range op.Targets {
		t := &op.Targets[i]
		switch {
		case t.Instance == "":
			a.add(a.queue(t.Queue), delivery(t))
		case t.ShareName == "":
			a.add("i"+strconv.Itoa(int(op.Message.QoS))+t.Instance, string(newsRouted))
		default:
			a.add("i"+strconv.Itoa(int(op.Message.QoS))+t.Instance, appendGroup(nil, t.ShareName, t.TopicFilter))
		}
	}
}

// storedOnce reports whether it pays to store a message outside its queues: an entry
// that only names it costs a look at it more, later.
func storedOnce(op *store.Op) bool {
	const size, saved = 4 << 10, 64 << 10
	n := op.Message.Size()
	return n >= size && (len(op.Targets)-1)*n >= saved
}

func (a *batchArgs) move(op *store.Op) {
	a.add("M")
	if op.Epoch == 0 {
		a.add("0")
	} else {
		a.guarded("1", op)
	}
	a.add(a.queue(op.From))
	a.numbers(op.Numbers)
	a.add(max(op.Limit, 0))
	if len(op.Targets) == 0 {
		a.add("0")
		return
	}
	t := &op.Targets[0]
	a.add("1", a.queue(t.Queue), int(t.QoS), flag(t.Retain), appendIdentifiers(nil, t.SubscriptionIdentifiers))
}

// resultOf tells the script's letters.
var resultOf = [256]store.Result{
	'D': store.Done, 'U': store.Duplicate, 'F': store.Fenced, 'G': store.Gone, 'R': store.Refused, 'L': store.Full, 'S': store.Stale,
}

// words are the results of a batch, one after the other.
type words struct {
	rest       string
	generation uint64
	bad        bool
}

// next returns a result, the numbers behind the letter, the epoch of Target.Left, and
// how many entries were dropped.
func (w *words) next() (r store.Result, n store.Number, left uint64, dropped [3]int) {
	word, rest, _ := strings.Cut(w.rest, " ")
	w.rest = rest
	if word == "" || resultOf[word[0]] == store.Pending {
		w.bad = true
		return store.Pending, n, 0, dropped
	}
	seq, counts, _ := strings.Cut(word[1:], ":")
	seq, epoch, _ := strings.Cut(seq, "@")
	left = parseDecimal(epoch)
	if seq != "" {
		s, err := strconv.ParseUint(seq, 10, 64)
		w.bad = w.bad || err != nil
		n = store.Number{Generation: w.generation, Seq: s + 1}
	}
	for i := 0; counts != "" && i < len(dropped); i++ {
		var count string
		count, counts, _ = strings.Cut(counts, ":")
		var err error
		dropped[i], err = strconv.Atoi(count)
		w.bad = w.bad || err != nil
	}
	return resultOf[word[0]], n, left, dropped
}

// run fills in the results of a run.
func (w *words) run(ops []store.Op, owner string) {
	rest, each := strings.CutPrefix(w.rest, "= ")
	var r store.Result
	var n store.Number
	var left uint64
	var dropped [3]int
	if each {
		w.rest = rest
	} else {
		r, n, left, _ = w.next()
	}
	for i := range ops {
		op := &ops[i]
		t := &op.Targets[0]
		if each {
			r, n, left, dropped = w.next()
		}
		op.Result, t.Result, t.Number, t.Dropped, t.Owner, t.Left = store.Done, r, n, dropped, owner, left
		if r == store.Full {
			op.Result, t.Owner = r, ""
		}
		if r == store.Done {
			n.Seq++
		}
	}
}

// decode fills in the results of b.
func (a *batchArgs) decode(ctx context.Context, s *Store, b *store.Batch, reply []any) error {
	before, _ := reply[0].(int64)
	generation, _ := reply[1].(string)
	w := words{generation: parseDecimal(generation)}
	w.rest, _ = reply[2].(string)
	holders, _ := reply[4].([]any)
	moves, _ := reply[5].([]any)
	if len(holders) != len(a.cids) {
		return fmt.Errorf("%w: queues of a commit", errFormat)
	}
	holder := func(q store.QueueID) string {
		if i := a.places[q.Session]; i > 0 {
			owner, _ := holders[i-1].(string)
			return owner
		}
		return ""
	}
	runs := a.runs
	for i := 0; i < len(b.Ops); i++ {
		if len(runs) > 0 && runs[0].first == i {
			r := runs[0]
			owner, _ := holders[r.place-1].(string)
			w.run(b.Ops[i:i+r.n], owner)
			runs, i = runs[1:], i+r.n-1
			continue
		}
		op := &b.Ops[i]
		op.Result, _, _, op.Dropped = w.next()
		switch {
		case op.Kind == store.OpEnqueue && op.Result == store.Done:
			s.bell.Ring(op.Event.Endpoint)
		case op.Once != nil && op.Result == store.Duplicate:
			if err := s.answered(ctx, op.Once); err != nil {
				return err
			}
		}
		for j := range op.Targets {
			t := &op.Targets[j]
			if op.Result != store.Done {
				t.Result = op.Result
				continue
			}
			if op.Kind != store.OpPublish && op.Kind != store.OpMove {
				continue
			}
			var counts [3]int
			t.Result, t.Number, t.Left, counts = w.next()
			t.Owner = holder(t.Queue)
			if op.Kind == store.OpPublish {
				t.Dropped = counts
				continue
			}
			n := counts[0]
			if t.Result != store.Done || n == 0 {
				continue
			}
			var err error
			if before != 0 {
				t.Moved, err = s.entriesAt(ctx, t.Queue, t.Number, n)
			} else if len(moves) > 0 {
				t.Moved, err = decodeMoved(t.Number, moves[0])
			}
			if err != nil {
				return err
			}
			t.Number.Seq += uint64(n) - 1
		}
		if op.Kind == store.OpMove && len(op.Targets) > 0 && op.Result == store.Done && len(moves) > 0 {
			moves = moves[1:]
		}
	}
	if w.bad || w.rest != "" {
		return fmt.Errorf("%w: results of a commit", errFormat)
	}
	return nil
}

// answered reads what was noted under the key of an operation that has happened before.
func (s *Store) answered(ctx context.Context, o *store.Once) error {
	answer, err := s.redis.Get(ctx, s.keys.once(o.Key)).Bytes()
	switch {
	case errors.Is(err, redis.Nil): // it has just expired
		return nil
	case err != nil:
		return err
	}
	o.Answer = answer
	return nil
}

// decodeMoved returns entries from their fields; first is the Number of the first.
func decodeMoved(first store.Number, reply any) ([]store.Entry, error) {
	values, _ := reply.([]any)
	entries := make([]store.Entry, 0, len(values)/2)
	for i := 0; i+1 < len(values); i += 2 {
		delivery, _ := values[i].(string)
		message, _ := values[i+1].(string)
		n := first
		n.Seq += uint64(i / 2)
		n.Seq-- // as in a stream
		e, err := decodeEntry(streamEntry{n, []string{delivery, message}})
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}
