package httpbridge

import (
	"net/http"
	"net/http/pprof"
)

// profileRoutes are those of net/http/pprof. They take RoleWrite: a profile costs the
// broker time, and a command line or a heap may hold secrets.
func profileRoutes() []route[adminRoute] {
	profile := func(serve http.HandlerFunc) adminRoute {
		return adminRoute{RoleWrite, func(w *answer, r *http.Request) { serve(w, r) }}
	}
	return []route[adminRoute]{
		{"GET", "/debug/pprof/cmdline", profile(pprof.Cmdline)},
		{"GET", "/debug/pprof/profile", profile(pprof.Profile)},
		{"GET", "/debug/pprof/symbol", profile(pprof.Symbol)},
		{"GET", "/debug/pprof/trace", profile(pprof.Trace)},
		{"GET", "/debug/pprof/{profile}", profile(pprof.Index)},
	}
}
