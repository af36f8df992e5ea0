package httpbridge

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"loopmq"
	"loopmq/store"
)

// ErrBansFull is what BanFunctions.Add returns if there is no room for another ban.
var ErrBansFull = errors.New("there are as many bans as are allowed")

// Ban keeps clients out: one Client Identifier (the kind client_id), user name
// (username), or address or network (address). As JSON:
//
//	{"kind": "address", "value": "198.51.100.0/24", "until": "2026-12-31T00:00:00Z", "reason": "scans", "source": "operator"}
type Ban struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
	// Until is when it ends; nil: when it is removed.
	Until  *time.Time `json:"until,omitempty"`
	Reason string     `json:"reason,omitempty"`
	// Source says who banned: file, operator, flapping, credentials. A POST doesn't set it.
	Source string `json:"source,omitempty"`
}

// BanFunctions read and change a broker's bans. They are called from several goroutines
// at once.
type BanFunctions struct {
	// List returns the bans in force, by kind and value.
	List func() []Ban
	// Add adds one or replaces the one of the same kind and value. The error says what
	// is wrong with it; ErrBansFull: there is no room; store.ErrUnavailable: it is not
	// known whether it holds.
	Add func(ctx context.Context, b Ban) error
	// Remove reports whether there was one to remove.
	Remove func(ctx context.Context, kind, value string) (bool, error)
}

var errNoBans = refused(http.StatusNotFound, "there are no bans here: the configuration has no bans")

// listBans lists bans. The cursor is "KIND/VALUE" of the last one before.
func (a *Admin) listBans(w *answer, r *http.Request) {
	list(a, w, r, nil, func(_ context.Context, _ *loopmq.Broker, q listQuery) ([]Ban, string, error) {
		if a.opts.Bans == nil {
			return nil, "", errNoBans
		}
		kind, value, _ := strings.Cut(q.cursor, "/")
		bans := a.opts.Bans.List()
		from, _ := slices.BinarySearchFunc(bans, Ban{Kind: kind, Value: value}, func(x, y Ban) int {
			if x.Kind < y.Kind || x.Kind == y.Kind && x.Value <= y.Value {
				return -1
			}
			return 1
		})
		bans, next := bans[from:], ""
		if len(bans) > q.limit {
			bans = bans[:q.limit]
			next = bans[q.limit-1].Kind + "/" + bans[q.limit-1].Value
		}
		return bans, next, nil
	})
}

func (a *Admin) addBan(w *answer, r *http.Request) {
	var ban Ban
	if !readJSON(w, r, "a ban", &ban) {
		return
	}
	w.note("kind", ban.Kind)
	w.note("value", ban.Value)
	a.call(w, r, func(ctx context.Context, _ *loopmq.Broker) error {
		if a.opts.Bans == nil {
			return errNoBans
		}
		err := a.opts.Bans.Add(ctx, ban)
		switch {
		case errors.Is(err, store.ErrUnavailable):
			return err
		case errors.Is(err, ErrBansFull):
			return refused(http.StatusServiceUnavailable, "%v", err)
		case err != nil:
			return refused(http.StatusBadRequest, "%v", err)
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

func (a *Admin) removeBan(w *answer, r *http.Request) {
	kind, value := r.PathValue("kind"), r.PathValue("value")
	a.call(w, r, func(ctx context.Context, _ *loopmq.Broker) error {
		if a.opts.Bans == nil {
			return errNoBans
		}
		removed, err := a.opts.Bans.Remove(ctx, kind, value)
		switch {
		case err != nil:
			return err
		case !removed:
			return refused(http.StatusNotFound, "%s %q is not banned at run time", kind, value)
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
