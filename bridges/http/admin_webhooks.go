package httpbridge

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"loopmq"
	"loopmq/webhooks"
)

// webhookStatus is how an endpoint of webhooks fares, as JSON. The counts add up:
// matched = delivered + queued + in_flight + dead + dropped.
type webhookStatus struct {
	Name           string         `json:"name"`
	URL            string         `json:"url,omitempty"`
	State          webhooks.State `json:"state"`
	Until          time.Time      `json:"until,omitzero"`
	DisabledReason string         `json:"disabled_reason,omitempty"`

	Matched   uint64 `json:"matched"`
	Delivered uint64 `json:"delivered"`
	Queued    uint64 `json:"queued"`
	InFlight  uint64 `json:"in_flight"`
	Dead      uint64 `json:"dead"`
	Dropped   uint64 `json:"dropped"`
	Bytes     uint64 `json:"bytes"`
	DeadBytes uint64 `json:"dead_bytes"`

	Oldest          time.Time `json:"oldest,omitzero"`
	LastError       string    `json:"last_error,omitempty"`
	LastErrorAt     time.Time `json:"last_error_at,omitzero"`
	LastDeliveredAt time.Time `json:"last_delivered_at,omitzero"`
}

func webhookStatusOf(s *webhooks.Status) webhookStatus {
	o := &s.Outbox
	return webhookStatus{
		Name: s.Endpoint, URL: s.URL, State: s.State, Until: s.Until, DisabledReason: s.DisabledReason,
		Matched: o.Matched, Delivered: o.Delivered, Queued: o.Queued, InFlight: o.Taken, Dead: o.Dead, Dropped: o.Dropped,
		Bytes: o.Bytes, DeadBytes: o.DeadBytes, Oldest: o.Oldest,
		LastError: s.LastError, LastErrorAt: s.LastErrorAt, LastDeliveredAt: s.LastDelivered,
	}
}

// deadLetter is an event that was given up, as JSON.
type deadLetter struct {
	ID       string          `json:"id"`
	Reason   string          `json:"reason"`
	Status   int             `json:"status,omitempty"`
	Attempts int             `json:"attempts"`
	At       time.Time       `json:"at"`
	Event    json.RawMessage `json:"event,omitempty"` // not in a list
}

func deadLetterOf(l *webhooks.Letter) deadLetter {
	return deadLetter{ID: l.ID, Reason: l.Reason, Status: l.Status, Attempts: l.Attempts, At: l.At}
}

// webhooks has f ask the webhooks, as call does.
func (a *Admin) webhooks(w *answer, r *http.Request, f func(ctx context.Context, hooks *webhooks.Webhooks) error) {
	a.call(w, r, func(ctx context.Context, _ *loopmq.Broker) error {
		var hooks *webhooks.Webhooks
		if a.opts.Webhooks != nil {
			hooks = a.opts.Webhooks()
		}
		if hooks == nil {
			return refused(http.StatusNotFound, "there are no webhooks here")
		}
		err := f(ctx, hooks)
		switch {
		case errors.Is(err, webhooks.ErrNoEndpoint), errors.Is(err, webhooks.ErrNoLetter):
			return refused(http.StatusNotFound, "%v", err)
		case errors.Is(err, webhooks.ErrLetterID):
			return refused(http.StatusBadRequest, "%v", err)
		case errors.Is(err, webhooks.ErrConfigured):
			return refused(http.StatusConflict, "%v: its outbox can be deleted when no node has it in its configuration", err)
		}
		return err
	})
}

func (a *Admin) listWebhooks(w *answer, r *http.Request) {
	a.webhooks(w, r, func(ctx context.Context, hooks *webhooks.Webhooks) error {
		all, err := hooks.Status(ctx)
		if err != nil {
			return err
		}
		items := make([]webhookStatus, len(all))
		for i := range all {
			items[i] = webhookStatusOf(&all[i])
		}
		writeJSON(w, http.StatusOK, page[webhookStatus]{Items: items})
		return nil
	})
}

func (a *Admin) showWebhook(w *answer, r *http.Request) {
	a.webhooks(w, r, func(ctx context.Context, hooks *webhooks.Webhooks) error {
		s, err := hooks.StatusOf(ctx, r.PathValue("name"))
		if err == nil {
			writeJSON(w, http.StatusOK, webhookStatusOf(&s))
		}
		return err
	})
}

func (a *Admin) enableWebhook(w *answer, r *http.Request) {
	a.webhooks(w, r, func(ctx context.Context, hooks *webhooks.Webhooks) error {
		return noContent(w, hooks.Enable(ctx, r.PathValue("name")))
	})
}

func (a *Admin) disableWebhook(w *answer, r *http.Request) {
	var body struct {
		Reason string `json:"reason"`
	}
	if r.ContentLength != 0 && !readJSON(w, r, "a reason", &body) {
		return
	}
	w.note("reason", body.Reason)
	a.webhooks(w, r, func(ctx context.Context, hooks *webhooks.Webhooks) error {
		return noContent(w, hooks.Disable(ctx, r.PathValue("name"), body.Reason))
	})
}

// forgetWebhook deletes the outbox of an endpoint that is configured no more.
func (a *Admin) forgetWebhook(w *answer, r *http.Request) {
	a.webhooks(w, r, func(ctx context.Context, hooks *webhooks.Webhooks) error {
		return noContent(w, hooks.Forget(ctx, r.PathValue("name")))
	})
}

// listDead lists dead letters, without their events. The cursor is the id of the last one.
func (a *Admin) listDead(w *answer, r *http.Request) {
	q, ok := listQueryOf(w, r, nil)
	if !ok {
		return
	}
	a.webhooks(w, r, func(ctx context.Context, hooks *webhooks.Webhooks) error {
		letters, err := hooks.Letters(ctx, r.PathValue("name"), q.cursor, q.limit)
		if err != nil {
			return err
		}
		p := page[deadLetter]{Items: make([]deadLetter, len(letters))}
		for i := range letters {
			p.Items[i] = deadLetterOf(&letters[i])
		}
		if len(letters) == q.limit {
			p.Next = letters[q.limit-1].ID
		}
		writeJSON(w, http.StatusOK, p)
		return nil
	})
}

func (a *Admin) showDead(w *answer, r *http.Request) {
	a.webhooks(w, r, func(ctx context.Context, hooks *webhooks.Webhooks) error {
		l, err := hooks.Letter(ctx, r.PathValue("name"), r.PathValue("id"))
		if err == nil {
			dead := deadLetterOf(&l)
			dead.Event = l.Event
			writeJSON(w, http.StatusOK, dead)
		}
		return err
	})
}

func (a *Admin) replayDead(w *answer, r *http.Request) {
	a.changeDead(w, r, (*webhooks.Webhooks).Replay)
}

func (a *Admin) dropDead(w *answer, r *http.Request) {
	a.changeDead(w, r, (*webhooks.Webhooks).Drop)
}

// changeDead does something to dead letters: those that the body names, or all.
func (a *Admin) changeDead(w *answer, r *http.Request, do func(hooks *webhooks.Webhooks, ctx context.Context, endpoint string, ids ...string) (int, error)) {
	var body struct {
		IDs []string `json:"ids"`
		All bool     `json:"all"`
	}
	if !readJSON(w, r, "which dead letters", &body) {
		return
	}
	switch {
	case body.All == (len(body.IDs) > 0):
		writeProblem(w, http.StatusBadRequest, `which dead letters? allowed: {"ids": ["…"]}, or {"all": true}`)
		return
	case len(body.IDs) > webhooks.MaxLetters:
		writeProblem(w, http.StatusBadRequest, "there are too many ids: allowed: 1000 in one request")
		return
	}
	a.webhooks(w, r, func(ctx context.Context, hooks *webhooks.Webhooks) error {
		n, err := do(hooks, ctx, r.PathValue("name"), body.IDs...)
		w.note("count", n)
		more := errors.Is(err, context.DeadlineExceeded) && n > 0
		if err != nil && !more {
			return err
		}
		writeJSON(w, http.StatusOK, changed{n, more})
		return nil
	})
}

// changed says how many elements a request has changed. More: the time was up, and there
// are others that it asks for.
type changed struct {
	Count int  `json:"count"`
	More  bool `json:"more,omitempty"`
}
