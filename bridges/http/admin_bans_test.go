package httpbridge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// banList is what a broker would keep.
type banList struct {
	mu   sync.Mutex
	bans []Ban
}

func (l *banList) functions() *BanFunctions {
	return &BanFunctions{
		List: func() []Ban {
			l.mu.Lock()
			defer l.mu.Unlock()
			return slices.Clone(l.bans)
		},
		Add: func(_ context.Context, b Ban) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			switch {
			case b.Kind == "":
				return errors.New("which kind?")
			case len(l.bans) == 3:
				return ErrBansFull
			}
			l.bans = append(l.bans, b)
			slices.SortFunc(l.bans, func(x, y Ban) int { return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Value, y.Value)) })
			return nil
		},
		Remove: func(_ context.Context, kind, value string) (bool, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			n := len(l.bans)
			l.bans = slices.DeleteFunc(l.bans, func(b Ban) bool { return b.Kind == kind && b.Value == value })
			return len(l.bans) < n, nil
		},
	}
}

func (f *fixture) post(t *testing.T, contentType, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+f.addr+"/api/v1/bans", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

func TestBans(t *testing.T) {
	l := &banList{}
	f := mustStart(t, func(a *Admin) { a.opts.Bans = l.functions() })
	f.mustHaveBroker(t)
	list := func(query string) []Ban {
		t.Helper()
		resp, body := f.do(t, "GET", "/api/v1/bans"+query)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("GET /bans%s: %s", query, resp.Status)
		}
		var bans page[Ban]
		if err := json.Unmarshal([]byte(body), &bans); err != nil || bans.Items == nil {
			t.Fatalf("%q: %v", body, err)
		}
		return bans.Items
	}
	if got := list(""); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	for _, c := range []struct {
		contentType, body string
		status            int
	}{
		{"application/json", `{"kind": "address", "value": "198.51.100.0/24", "until": "2026-12-31T00:00:00Z", "reason": "scans"}`, http.StatusNoContent},
		{"application/json; charset=utf-8", `{"kind": "client_id", "value": "a/b c"}`, http.StatusNoContent},
		{"text/plain", `{"kind": "client_id", "value": "d"}`, http.StatusUnsupportedMediaType},
		{"application/x-www-form-urlencoded", `{"kind": "client_id", "value": "d"}`, http.StatusUnsupportedMediaType},
		{"", `{"kind": "client_id", "value": "d"}`, http.StatusUnsupportedMediaType},
		{"application/json", `{"kind": "", "value": "d"}`, http.StatusBadRequest},
		{"application/json", `{"kind": "client_id", "name": "d"}`, http.StatusBadRequest},
		{"application/json", `{"kind": "client_id", "until": "soon"}`, http.StatusBadRequest},
		{"application/json", `not JSON`, http.StatusBadRequest},
		{"application/json", `{"kind": "` + strings.Repeat("x", adminBodyBytesMax) + `"}`, http.StatusRequestEntityTooLarge},
		{"application/json", `{"kind": "username", "value": "u"}`, http.StatusNoContent},
		{"application/json", `{"kind": "username", "value": "v"}`, http.StatusServiceUnavailable},
	} {
		if resp := f.post(t, c.contentType, c.body); resp.StatusCode != c.status {
			t.Errorf("POST of %.60s as %q: %s, want %d", c.body, c.contentType, resp.Status, c.status)
		}
	}
	got := list("")
	if len(got) != 3 || got[0].Reason != "scans" || !got[0].Until.Equal(time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC)) || got[1].Value != "a/b c" {
		t.Errorf("got %+v", got)
	}
	if got := list("?limit=1"); len(got) != 1 || got[0].Kind != "address" {
		t.Errorf("got %+v", got)
	}
	if got := list("?cursor=address/198.51.100.0/24&limit=1"); len(got) != 1 || got[0].Kind != "client_id" {
		t.Errorf("got %+v", got)
	}
	if got := list("?cursor=client_id/a%2Fb%20c"); len(got) != 1 || got[0].Kind != "username" {
		t.Errorf("got %+v", got)
	}
	if got := list("?cursor=username/u"); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"DELETE", "/api/v1/bans/client_id/a%2Fb%20c", http.StatusNoContent},
		{"DELETE", "/api/v1/bans/client_id/a%2Fb%20c", http.StatusNotFound},
		{"DELETE", "/api/v1/bans/address/198.51.100.0/24", http.StatusNoContent},
		{"DELETE", "/api/v1/bans/", http.StatusNotFound},
		{"GET", "/api/v1/bans/username/u", http.StatusMethodNotAllowed},
		{"DELETE", "/api/v1/bans", http.StatusMethodNotAllowed},
		{"GET", "/api/v1/bans?limit=x", http.StatusBadRequest},
		{"GET", "/api/v1/bans?limit=1001", http.StatusBadRequest},
	} {
		resp, body := f.do(t, c.method, c.path)
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: %s, want %d", c.method, c.path, resp.Status, c.status)
		}
		if c.status >= 400 {
			checkProblem(t, resp, body, c.status)
		}
	}
	if got := list(""); len(got) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestNoBans(t *testing.T) {
	f := mustStart(t, nil)
	f.mustHaveBroker(t)
	resp, body := f.do(t, "GET", "/api/v1/bans")
	checkProblem(t, resp, body, http.StatusNotFound)
	if resp := f.post(t, "application/json", `{"kind": "username", "value": "u"}`); resp.StatusCode != http.StatusNotFound {
		t.Errorf("POST: %s", resp.Status)
	}
	resp, body = f.do(t, "DELETE", "/api/v1/bans/username/u")
	checkProblem(t, resp, body, http.StatusNotFound)
}
