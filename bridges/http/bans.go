package httpbridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// banBytesMax bounds the body of a POST to /bans.
const banBytesMax = 512 << 10

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
	// is wrong with it; ErrBansFull: there is no room.
	Add func(Ban) error
	// Remove reports whether there was one to remove.
	Remove func(kind, value string) bool
}

// serveBans lists bans that come after "KIND/VALUE".
func (a *Admin) serveBans(w http.ResponseWriter, r *http.Request) {
	if a.opts.Bans == nil {
		writeProblem(w, http.StatusNotFound, "this broker has no list of bans")
		return
	}
	limit, ok := limitOf(w, r)
	if !ok {
		return
	}
	kind, value, _ := strings.Cut(r.URL.Query().Get("after"), "/")
	bans := a.opts.Bans.List()
	from, _ := slices.BinarySearchFunc(bans, Ban{Kind: kind, Value: value}, func(x, y Ban) int {
		if x.Kind < y.Kind || x.Kind == y.Kind && x.Value <= y.Value {
			return -1
		}
		return 1
	})
	bans = bans[from:min(from+limit, len(bans))]
	if bans == nil {
		bans = []Ban{}
	}
	body, err := json.Marshal(bans)
	if err != nil {
		writeProblem(w, http.StatusInternalServerError, "the list of bans can't be written as JSON")
		return
	}
	write(w, http.StatusOK, "application/json", append(body, '\n'))
}

// changeBans adds a ban, or removes one.
func (a *Admin) changeBans(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/bans" {
		a.addBan(w, r)
		return
	}
	if r.Method != http.MethodDelete {
		w.Header().Set("Allow", "DELETE")
		writeProblem(w, http.StatusMethodNotAllowed, "allowed: DELETE")
		return
	}
	kind, value, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/bans/"), "/")
	if !a.opts.Bans.Remove(kind, value) {
		writeProblem(w, http.StatusNotFound, fmt.Sprintf("%s %q is not banned at run time", kind, value))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *Admin) addBan(w http.ResponseWriter, r *http.Request) {
	// A page of another site can't send this type without asking first.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		writeProblem(w, http.StatusUnsupportedMediaType, "the body has to be application/json")
		return
	}
	var ban Ban
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, banBytesMax))
	d.DisallowUnknownFields()
	if err := d.Decode(&ban); err != nil {
		writeProblem(w, http.StatusBadRequest, "not a ban as JSON: "+err.Error())
		return
	}
	switch err := a.opts.Bans.Add(ban); {
	case errors.Is(err, ErrBansFull):
		writeProblem(w, http.StatusServiceUnavailable, err.Error())
	case err != nil:
		writeProblem(w, http.StatusBadRequest, err.Error())
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
