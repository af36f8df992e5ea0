package httpbridge

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

var testRoutes = []route[string]{
	{"GET", "/clients", "list"},
	{"GET", "/clients/{id}", "show"},
	{"DELETE", "/clients/{id}", "kick"},
	{"GET", "/clients/{id}/subscriptions", "subscriptions"},
	{"GET", "/topics/{topic...}", "topic"},
}

func TestRoutes(t *testing.T) {
	for _, c := range []struct{ method, path, want, value string }{
		{"GET", "/clients", "list", ""},
		{"HEAD", "/clients", "list", ""},
		{"GET", "/clients/", "", ""},
		{"GET", "/clients/a%2Fb%20c", "show", "a/b c"},
		{"GET", "/clients/%2E%2E", "show", ".."},
		{"GET", "/clients/subscriptions", "show", "subscriptions"},
		{"DELETE", "/clients/x", "kick", "x"},
		{"GET", "/clients/x/subscriptions", "subscriptions", "x"},
		{"GET", "/clients/x/other", "", ""},
		{"GET", "/topics/a/b", "topic", "a/b"},
		{"GET", "/topics/%2Fa%2F%2Fb/", "topic", "/a//b/"},
		{"GET", "/topics//a", "topic", "/a"},
		{"GET", "/topics/", "", ""},
		{"GET", "//clients", "", ""},
		{"PUT", "/clients/x", "", "DELETE,GET,HEAD"},
	} {
		r := httptest.NewRequest(c.method, "http://localhost"+c.path, nil)
		got, found, allow := findRoute(testRoutes, r)
		value := r.PathValue("id") + r.PathValue("topic")
		if !found {
			slices.Sort(allow)
			value = strings.Join(allow, ",")
		}
		if got != c.want || value != c.value {
			t.Errorf("%s %s: %q %q, want %q %q", c.method, c.path, got, value, c.want, c.value)
		}
	}
}

// Whatever a Client Identifier or Topic Name is, its escaped form leads to it.
func FuzzRoutes(f *testing.F) {
	for _, s := range []string{"a", "a/b", "/", "..", "a b", "%", "é", "\x00", "+#$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			return
		}
		for _, path := range []string{"/clients/" + url.PathEscape(s), "/topics/" + url.PathEscape(s)} {
			u, err := url.Parse("http://localhost" + path)
			if err != nil {
				t.Fatal(err)
			}
			r := &http.Request{Method: "GET", URL: u}
			if got, found, _ := findRoute(testRoutes, r); !found || got == "list" || r.PathValue("id")+r.PathValue("topic") != s {
				t.Errorf("%s: %s %q, want %q", path, got, r.PathValue("id")+r.PathValue("topic"), s)
			}
		}
	})
}
