package loopmq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"

	"loopmq/codec"
	"loopmq/store"
)

// maxDeletions is how many deletions of one session may wait for each other.
const maxDeletions = 16

var errTooManyDeletions = errors.New("loopmq: the session is being deleted already")

// DeleteSession ends a session, and first the connection that has it, at whichever node
// that is (5.0: Administrative action, 0x98). What waited for it is dropped, but for
// messages of shared subscriptions, which others get; its Will is published. When it
// returns nil the session is gone, whoever may connect at the same time: a client that
// does so in a loop has a new session then. ErrNoSession: there is none.
// store.ErrUnavailable: the store can't be reached, and it is not known whether it is
// gone.
//
// It is what a CONNECT with Clean Start does that leaves before it is accepted: it has
// its turn among the CONNECTs of the ClientID, and its claim, which is one step in the
// store, ends the session.
func (b *Broker) DeleteSession(ctx context.Context, clientID string) error {
	if !b.running.Load() || b.stopping.Load() || b.rejoining.Load() {
		return ErrNotRunning
	}
	se, err := b.store.Sessions().Lookup(ctx, clientID)
	switch {
	case errors.Is(err, store.ErrGone):
		return ErrNoSession
	case err != nil:
		return err
	}
	if b.cluster != nil && se.Owner != "" && se.Owner != b.owner() { // the claim ends it as well, but with another reason
		_ = b.cluster.member().Kick(ctx, clientID)
	}
	ended := make(chan error, 1)
	c := &Client{
		loop: b.loops[maphash.String(seed, clientID)%uint64(len(b.loops))], settings: b.settings, state: stateClosed,
		info:    ClientInfo{ClientID: clientID},
		connect: &connecting{name: rand.Text(), cleanStart: true, deleted: func(err error) { ended <- err }},
	}
	c.loop.el.Post(c.takeTurn)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-b.stopped:
		return ErrNotRunning
	}
}

// deletes reports whether c is no connection, but deletes a session.
func (c *Client) deletes() bool { return c.connect != nil && c.connect.deleted != nil }

// notDeleted ends a deletion that could not be done.
func (c *Client) notDeleted(why error) {
	if !errors.Is(why, errTooManyDeletions) {
		why = fmt.Errorf("%w: %w", store.ErrUnavailable, why)
	}
	c.connect.deleted(why)
}

// deleteClaimed goes on when the claim of a deletion has ended the session: the new one
// that it made goes too.
func (c *Client) deleteClaimed(res *store.Claimed) {
	l, b := c.loop, c.loop.b
	l.wentWithSession(res.Dropped)
	if res.Ended != nil {
		l.recordClient(EventSessionTerminated, &ClientInfo{ClientID: res.Ended.ID.ClientID}, codec.AdministrativeAction, "")
	}
	if old := b.registry.session(res.Session.ID.ClientID); old != nil && old.id != res.Session.ID {
		old.forget(b)
	}
	for _, g := range res.GivenBack {
		l.memberCame(sharedFilter(g.ShareName, g.TopicFilter))
	}
	if res.OldWill != nil {
		b.scheduler.nudge()
	}
	op := store.Op{
		Kind: store.OpOffline, Session: res.Session.ID, Epoch: res.Session.Epoch, WillRemoved: true,
		Disconnected: store.Disconnected{At: l.now(), Reason: codec.AdministrativeAction.String()},
	}
	b.log.Info("delete_session", "client_id", c.info.ClientID)
	l.commitOffline(&op, nil, func() { // and then the next CONNECT, which finds nothing
		b.turnEnded(c.info.ClientID)
		c.yieldsAfter(c.connect.afterTurn)
		c.connect.deleted(nil)
	})
}
