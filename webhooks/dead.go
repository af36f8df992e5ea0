package webhooks

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"loopmq/store"
)

// MaxLetters is how many dead letters are listed, replayed or dropped at a time.
const MaxLetters = 1000

// Letter is a dead letter: an event that was given up.
type Letter struct {
	// ID names it among those of its endpoint.
	ID string
	// Reason, Status (of HTTP; 0: there was no answer) and Attempts say how it ended, At when.
	Reason   string
	Status   int
	Attempts int
	At       time.Time
	// Event is it as a CloudEvent; nil if its record can't be read.
	Event json.RawMessage
}

// Letters returns up to limit dead letters of an endpoint, the oldest events first, behind the one with the given ID;
// "" is before the first. At most MaxLetters are returned. ErrNoEndpoint: there is none with that name; ErrLetterID: that
// is no ID.
func (w *Webhooks) Letters(ctx context.Context, endpoint, after string, limit int) ([]Letter, error) {
	var id store.EventID
	if after != "" {
		ids, err := parseIDs([]string{after})
		if err != nil {
			return nil, err
		}
		id = ids[0]
	}
	if err := w.exists(ctx, endpoint); err != nil {
		return nil, err
	}
	dead, err := w.outbox.Dead(ctx, endpoint, id, min(max(limit, 1), MaxLetters))
	if err != nil {
		return nil, fmt.Errorf("list dead letters of %q: %w", endpoint, err)
	}
	shape := &Endpoint{Payload: Payloads[0], Source: defaultSource}
	if d := w.find(endpoint); d != nil {
		shape = d.endpoint
	}
	letters := make([]Letter, len(dead))
	for i, d := range dead {
		letters[i] = Letter{ID: d.ID.String(), Reason: d.Reason, Status: d.Status, Attempts: d.Attempts, At: d.At}
		var r record
		if r.decode(d.Data) == nil {
			letters[i].Event = shape.appendEvent(nil, &r)
		}
	}
	return letters, nil
}

// Letter returns one dead letter. ErrNoLetter: there is none with that ID; otherwise it is as with Letters.
func (w *Webhooks) Letter(ctx context.Context, endpoint, id string) (Letter, error) {
	ids, err := parseIDs([]string{id})
	if err != nil {
		return Letter{}, err
	}
	letters, err := w.Letters(ctx, endpoint, before(ids[0]).String(), 1)
	if err == nil && (len(letters) == 0 || letters[0].ID != id) {
		err = ErrNoLetter
	}
	if err != nil {
		return Letter{}, err
	}
	return letters[0], nil
}

// before is the last ID that an event before id can have.
func before(id store.EventID) store.EventID {
	switch {
	case id.Seq > 0:
		id.Seq--
	case id.Generation > 0:
		id.Generation, id.Seq = id.Generation-1, math.MaxUint64
	}
	return id
}

// Replay puts dead letters at the end of the endpoint's outbox, for as long as new events are tried; none given: all of
// them. n is how many there were. Errors are as with Letters.
func (w *Webhooks) Replay(ctx context.Context, endpoint string, ids ...string) (n int, err error) {
	return w.each(ctx, endpoint, ids, w.outbox.Replay)
}

// Drop deletes dead letters; none given: all of them. n is how many there were. Errors are as with Letters.
func (w *Webhooks) Drop(ctx context.Context, endpoint string, ids ...string) (n int, err error) {
	return w.each(ctx, endpoint, ids, w.outbox.Drop)
}

// each does something to dead letters, or to all that there are now, by and by.
func (w *Webhooks) each(ctx context.Context, endpoint string, texts []string, do func(context.Context, string, []store.EventID) (int, error)) (n int, err error) {
	ids, err := parseIDs(texts)
	if err != nil {
		return 0, err
	}
	if err := w.exists(ctx, endpoint); err != nil {
		return 0, err
	}
	if len(texts) > 0 {
		return do(ctx, endpoint, ids)
	}
	began := time.Now()
	for last := (store.EventID{}); ; {
		dead, err := w.outbox.Dead(ctx, endpoint, last, MaxLetters)
		if err != nil || len(dead) == 0 {
			return n, err
		}
		ids = ids[:0]
		for _, d := range dead {
			last = d.ID
			if d.At.Before(began) { // Else it may be one that has come back already.
				ids = append(ids, d.ID)
			}
		}
		done, err := do(ctx, endpoint, ids)
		if n += done; err != nil {
			return n, err
		}
	}
}

func parseIDs(texts []string) ([]store.EventID, error) {
	ids := make([]store.EventID, len(texts))
	for i, text := range texts {
		var err error
		if ids[i], err = store.ParseEventID(text); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrLetterID, err)
		}
	}
	return ids, nil
}
