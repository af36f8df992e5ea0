package redisstore

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
)

var (
	//go:embed lua/plain.lua
	plainLua string
	//go:embed lua/outbox.lua
	outboxLua string
	//go:embed lua/take.lua
	takeLua string
	//go:embed lua/resume.lua
	resumeLua string
	//go:embed lua/consume.lua
	consumeLua string
	//go:embed lua/done.lua
	doneLua string
	//go:embed lua/giveup.lua
	giveUpLua string
	//go:embed lua/letters.lua
	lettersLua string
	//go:embed lua/outboxstate.lua
	outboxStateLua string
	//go:embed lua/disable.lua
	disableLua string
	//go:embed lua/remove.lua
	removeLua string
)

var (
	takeScript        = newScript(plainLua, takeLua)
	resumeScript      = newScript(plainLua, resumeLua)
	consumeScript     = newScript(plainLua, consumeLua)
	doneScript        = newScript(plainLua, outboxLua, doneLua)
	giveUpScript      = newScript(plainLua, outboxLua, giveUpLua)
	lettersScript     = newScript(plainLua, outboxLua, lettersLua)
	outboxStateScript = newScript(plainLua, outboxStateLua)
	disableScript     = newScript(plainLua, outboxLua, disableLua)
	removeScript      = newScript(plainLua, removeLua)
)

// outboxView does all with one script each. What a lost answer would have said can be
// asked again: Resume tells what was taken, and to finish twice makes no difference.
type outboxView struct{ *Store }

// ask runs a script that need not wait for replicas: what it does is done again if it is
// lost.
func (v outboxView) ask(ctx context.Context, what string, script *redis.Script, args ...any) (reply []any, err error) {
	err = v.call(what, func() (err error) {
		reply, err = script.Run(ctx, v.redis, v.declared, append([]any{v.keys.prefix}, args...)...).Slice()
		return err
	})
	return reply, err
}

// tell runs a script whose effect is as safe as a commit's when it returns.
func (v outboxView) tell(ctx context.Context, what string, script *redis.Script, args ...any) (reply []any, err error) {
	err = v.call(what, func() (err error) {
		reply, err = v.run(ctx, script, append([]any{v.keys.prefix}, args...))
		return err
	})
	return reply, err
}

// takenBytes bounds how much data a script reads: Redis does nothing else meanwhile.
const takenBytes = 1 << 20

func boundBytes(maxBytes int) int {
	if maxBytes <= 0 {
		return takenBytes
	}
	return min(maxBytes, takenBytes)
}

func (v outboxView) Take(ctx context.Context, endpoint, consumer string, limit, maxBytes int) ([]store.Taken, error) {
	reply, err := v.ask(ctx, "take events", takeScript, endpoint, consumer, limit, boundBytes(maxBytes))
	if err != nil {
		return nil, err
	}
	return decodeTaken(reply)
}

func (v outboxView) Resume(ctx context.Context, endpoint, consumer string, after store.EventID, limit, maxBytes int) ([]store.Taken, error) {
	reply, err := v.ask(ctx, "resume events", resumeScript, endpoint, consumer, eventID(after), limit, boundBytes(maxBytes))
	if err != nil {
		return nil, err
	}
	return decodeTaken(reply)
}

// eventID is an EventID as an id of a stream.
func eventID(id store.EventID) string { return streamID(store.Number(id)) }

func decodeTaken(values []any) ([]store.Taken, error) {
	r := replyOf(values)
	again := int(r.number())
	var taken []store.Taken
	for len(r.rest) > 0 {
		e := replyOf(r.list())
		id, data, at := e.text(), e.text(), e.text()
		n, err := parseStreamID(id)
		if err = errors.Join(r.err, e.err, err); err != nil {
			return nil, fmt.Errorf("%w: an event: %w", errFormat, err)
		}
		taken = append(taken, store.Taken{ID: store.EventID(n), Data: []byte(data), Enqueued: fromMillis(atoi(at)), Again: len(taken) < again})
	}
	return taken, r.err
}

func (v outboxView) Renew(ctx context.Context, consumer string, ttl time.Duration) error {
	_, err := v.ask(ctx, "renew a consumer", consumeScript, consumer, atLeastOneMilli(ttl))
	return err
}

// atLeastOneMilli is a duration in ms, 0 only if it is 0 or less.
func atLeastOneMilli(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return max(1, d.Milliseconds())
}

func (v outboxView) Done(ctx context.Context, endpoint string, ids []store.EventID) error {
	_, err := v.ask(ctx, "finish events", doneScript, appendIDs([]any{endpoint}, ids)...)
	return err
}

func appendIDs(args []any, ids []store.EventID) []any {
	for _, id := range ids {
		args = append(args, eventID(id))
	}
	return args
}

func (v outboxView) Bury(ctx context.Context, endpoint string, dead []store.Dead, limit int) (int, error) {
	args := []any{endpoint, max(limit, 0)}
	for i := range dead {
		d := &dead[i]
		how := fmt.Sprintf("%d %d %d %s", d.Status, d.Attempts, millis(d.At), d.Reason)
		args = append(args, eventID(d.ID), how)
	}
	return count(v.tell(ctx, "give events up", giveUpScript, args...))
}

// count takes a reply of one number.
func count(reply []any, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	r := replyOf(reply)
	n := r.number()
	return int(n), r.err
}

// letterKey is what the name of a dead letter begins with, as in lua/outbox.lua.
func letterKey(id store.EventID) string { return fmt.Sprintf("%020d%020d", id.Generation, id.Seq) }

func (v outboxView) Dead(ctx context.Context, endpoint string, after store.EventID, limit int) (dead []store.Dead, err error) {
	if limit <= 0 {
		return nil, v.call("list dead letters", func() error { return nil })
	}
	err = v.call("list dead letters", func() error {
		letters, err := v.redis.ZRangeByLex(ctx, v.keys.letters(endpoint), &redis.ZRangeBy{
			Min: "(" + letterKey(after) + "\xff", Max: "+", Count: int64(limit),
		}).Result()
		if err != nil {
			return err
		}
		for _, letter := range letters {
			d, err := decodeLetter(letter)
			if err != nil {
				return err
			}
			dead = append(dead, d)
		}
		return nil
	})
	return dead, err
}

func decodeLetter(s string) (d store.Dead, err error) {
	const digits = 20
	if len(s) < 2*digits {
		return d, fmt.Errorf("%w: a dead letter", errFormat)
	}
	length, rest, found := strings.Cut(s[2*digits:], ":")
	n, err := strconv.Atoi(length)
	if !found || err != nil || n < 0 || n > len(rest) {
		return d, fmt.Errorf("%w: a dead letter", errFormat)
	}
	how := strings.SplitN(rest[:n], " ", 4)
	if len(how) != 4 {
		return d, fmt.Errorf("%w: how a letter died", errFormat)
	}
	return store.Dead{
		ID:   store.EventID{Generation: parseDecimal(s[:digits]), Seq: parseDecimal(s[digits : 2*digits])},
		Data: []byte(rest[n:]), Reason: how[3], Status: int(atoi(how[0])), Attempts: int(atoi(how[1])), At: fromMillis(atoi(how[2])),
	}, nil
}

func (v outboxView) Replay(ctx context.Context, endpoint string, ids []store.EventID) (int, error) {
	instance := ""
	if m := v.joined.Load(); m != nil {
		instance = m.instance
	}
	n, err := count(v.tell(ctx, "replay dead letters", lettersScript, appendIDs([]any{endpoint, "1", instance}, ids)...))
	v.bell.Ring(endpoint) // after an error too: it may have been done
	return n, err
}

func (v outboxView) Drop(ctx context.Context, endpoint string, ids []store.EventID) (int, error) {
	return count(v.tell(ctx, "drop dead letters", lettersScript, appendIDs([]any{endpoint, "0", ""}, ids)...))
}

func (v outboxView) Disable(ctx context.Context, endpoint, reason string) error {
	_, err := v.tell(ctx, "disable an endpoint", disableScript, endpoint, reason)
	return err
}

// outboxFields are the fields that State reads from the hash of an outbox.
var outboxFields = []any{"matched", "delivered", "dropped", "bytes", "dead_bytes", "disabled"}

func (v outboxView) State(ctx context.Context, endpoint string) (st store.OutboxState, err error) {
	reply, err := v.ask(ctx, "read an outbox", outboxStateScript, append([]any{endpoint}, outboxFields...)...)
	if err != nil || len(reply) == 0 {
		return st, err
	}
	r := replyOf(reply)
	events, taken, dead, oldest := r.number(), r.number(), r.number(), r.text()
	totals := r.texts()
	if r.err != nil || len(totals) != len(outboxFields) {
		return st, fmt.Errorf("%w: an outbox", errFormat)
	}
	st = store.OutboxState{
		Queued: uint64(events - taken), Taken: uint64(taken), Dead: uint64(dead),
		Matched: parseDecimal(totals[0]), Delivered: parseDecimal(totals[1]), Dropped: parseDecimal(totals[2]),
		Bytes: parseDecimal(totals[3]), DeadBytes: parseDecimal(totals[4]), Disabled: totals[5],
	}
	if oldest != "" {
		st.Oldest = fromMillis(atoi(oldest))
	}
	return st, nil
}

func (v outboxView) Endpoints(ctx context.Context) (endpoints []string, err error) {
	err = v.call("list outboxes", func() (err error) {
		endpoints, err = v.redis.ZRange(ctx, v.keys.outboxes(), 0, -1).Result()
		return err
	})
	return endpoints, err
}

func (v outboxView) Remove(ctx context.Context, endpoint string) error {
	_, err := v.tell(ctx, "remove an outbox", removeScript, endpoint)
	return err
}

func (v outboxView) Notify(endpoint string) <-chan struct{} { return v.bell.Channel(endpoint) }

// bellsMax is about how many records the stream of bells has at least, if as many have
// come: when so many are read at once, some may have been missed.
const bellsMax = 128

// readBells tells who waits here of events that other instances have enqueued.
func (m *member) readBells() {
	position := streamID(store.Number{})
	m.follow(m.keys.bells(), func() string { return position }, func(entries []streamEntry) {
		position = streamID(entries[len(entries)-1].id)
		if len(entries) >= bellsMax {
			m.bell.RingAll()
			return
		}
		for i := range entries {
			if f := entries[i].fields; len(f) == 4 && f[3] != m.instance {
				m.bell.Ring(f[1])
			}
		}
	})
}
