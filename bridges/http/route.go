package httpbridge

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// route is a method and a path, and what serves them. A segment {name} of the pattern
// stands for one segment of the path, of any text but none; {name...}, which is the
// last, for all that is left, of which there is some. Other than http.ServeMux it
// redirects nowhere: empty segments, dots and slashes that are escaped are parts of
// Topic Names and Client Identifiers.
type route[H any] struct {
	method  string
	pattern string
	handler H
}

// findRoute returns what serves a request, whose path values it sets. If none does,
// allow are the methods that the path has: none, if there is no such path. Of two
// that fit, the first is taken. A HEAD is a GET.
func findRoute[H any](routes []route[H], r *http.Request) (handler H, found bool, allow []string) {
	method, path := r.Method, r.URL.EscapedPath()
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for i := range routes {
		values, ok := match(routes[i].pattern, path)
		switch {
		case !ok:
		case routes[i].method == method:
			for j := 0; j < len(values); j += 2 {
				r.SetPathValue(values[j], values[j+1])
			}
			return routes[i].handler, true, nil
		case !slices.Contains(allow, routes[i].method):
			if allow = append(allow, routes[i].method); routes[i].method == http.MethodGet {
				allow = append(allow, http.MethodHead)
			}
		}
	}
	return handler, false, allow
}

// match reports whether a path, as it was sent, fits a pattern, and returns the names
// and values in it.
func match(pattern, path string) (values []string, ok bool) {
	for pattern != "" {
		var want, got string
		want, pattern, _ = strings.Cut(pattern[1:], "/")
		if pattern != "" {
			pattern = "/" + pattern
		}
		if path == "" || path[0] != '/' {
			return nil, false
		}
		if name, isName := strings.CutSuffix(want, "...}"); isName {
			got, path = path[1:], ""
			want = name + "}"
		} else if got, path, ok = strings.Cut(path[1:], "/"); ok {
			path = "/" + path
		}
		text, err := url.PathUnescape(got)
		name, isName := strings.CutPrefix(want, "{")
		switch {
		case err != nil || text == "":
			return nil, false
		case isName:
			values = append(values, strings.TrimSuffix(name, "}"), text)
		case text != want:
			return nil, false
		}
	}
	return values, path == ""
}

// writeNoRoute answers a request that nothing serves.
func writeNoRoute(w http.ResponseWriter, r *http.Request, allow []string) {
	if len(allow) == 0 {
		writeProblem(w, http.StatusNotFound, "there is no "+r.URL.Path+" here")
		return
	}
	methods := strings.Join(allow, ", ")
	w.Header().Set("Allow", methods)
	writeProblem(w, http.StatusMethodNotAllowed, "allowed: "+methods)
}
