package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"loopmq/store"
)

type sessionsView struct{ *Store }

func (v sessionsView) Claim(ctx context.Context, c store.Claim) (store.Claimed, error) {
	var claimed store.Claimed
	err := v.call("claim a session", func() error {
		instance := ""
		m := v.joined.Load()
		if m != nil {
			instance = m.instance
		}
		var will []byte
		if c.Will != nil {
			will = encodeWill(c.Will)
		}
		reply, err := v.run(ctx, claimScript, []any{
			v.keys.prefix, instance, millis(v.Now()), c.ClientID, tag(c.ClientID), c.Owner, flag(c.CleanStart), flag(c.Durable),
			c.SessionExpiryInterval, encodeLimits(c.Limits), optionalID(c.Sent), will, c.Connect, encodeConnection(&c.Connection),
		})
		if err != nil {
			if err = failed("claim a session", err); m != nil && errors.Is(err, store.ErrDead) {
				m.died()
			}
			return err
		}
		claimed, err = decodeClaimed(&c, reply)
		return err
	})
	return claimed, err
}

// decodeClaimed takes a reply of lua/claim.lua.
func decodeClaimed(c *store.Claim, reply []any) (store.Claimed, error) {
	var claimed store.Claimed
	if len(reply) < 8 {
		return claimed, fmt.Errorf("%w: answer of a claim", errFormat)
	}
	text := func(i int) string { s, _ := reply[i].(string); return s }
	list := func(i int) []any {
		if i >= len(reply) {
			return nil
		}
		l, _ := reply[i].([]any)
		return l
	}
	claimed.Session = store.Session{
		ID:    store.SessionID{ClientID: c.ClientID, Incarnation: parseDecimal(text(1))},
		Epoch: parseDecimal(text(0)), Owner: c.Owner, Durable: c.Durable, SessionExpiryInterval: c.SessionExpiryInterval, Limits: c.Limits,
		Connection: c.Connection,
	}
	claimed.Present = reply[2] == int64(1)
	former := list(3)
	if former == nil {
		return claimed, nil
	}
	old, err := decodeSession(c.ClientID, former)
	if err != nil {
		return claimed, err
	}
	claimed.OldOwner, claimed.OldEpoch = text(5), old.Epoch
	if reply[7] != nil {
		due, _ := reply[6].(int64)
		w, err := decodeWill(c.ClientID, old.Epoch, fromMillis(due), text(7))
		if err != nil {
			return claimed, err
		}
		claimed.OldWill = &w
	}
	if !claimed.Present {
		claimed.Ended = &old
		for i, n := range list(4) {
			dropped, _ := n.(int64)
			claimed.Dropped[min(i, 2)] = int(dropped)
		}
		for _, names := range list(8) {
			s, _ := names.(string)
			f := fields{s: s}
			claimed.GivenBack = append(claimed.GivenBack, store.GroupID{ShareName: f.next(), TopicFilter: f.next()})
			if err := f.err("group"); err != nil {
				return claimed, err
			}
		}
		return claimed, nil
	}
	return claimed, decodeState(&claimed, list(8), list(9), list(10), reply[11:])
}

// decodeState adds what a session that goes on has.
func decodeState(claimed *store.Claimed, subscriptions, released, held, last []any) (err error) {
	if claimed.Subscriptions, err = decodeSubscriptions(subscriptions); err != nil {
		return err
	}
	for _, id := range released {
		s, _ := id.(string)
		n, err := parseNumber(s)
		if err != nil {
			return err
		}
		claimed.Released = append(claimed.Released, n)
	}
	slices.SortFunc(claimed.Released, func(a, b store.Number) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	for _, packetID := range held {
		s, _ := packetID.(string)
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return fmt.Errorf("%w: held Packet Identifier %q", errFormat, s)
		}
		claimed.Held = append(claimed.Held, uint16(n))
	}
	slices.Sort(claimed.Held)
	for _, id := range last {
		s, _ := id.(string)
		if claimed.Last, err = parseNumber(s); err != nil {
			return err
		}
	}
	return nil
}
