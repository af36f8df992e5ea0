package scrape

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"loopmq/internal/brokertest"
	"loopmq/loadtest"
)

// node serves metrics, to those who have the token if there is one.
func node(t *testing.T, status int, token, text string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
			status = http.StatusUnauthorized
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/metrics"
}

const (
	bare  = "process_cpu_seconds_total 1.5\nother{a=\"b\"} 9\nprocess_resident_memory_bytes 1000\n"
	typed = "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 2.25\n" +
		"# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 3e+06\n"
)

func TestSampleAddsUpNodes(t *testing.T) {
	s, err := New([]string{node(t, 200, "secret", bare), node(t, 200, "secret", typed)}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Sample(t.Context())
	if want := (loadtest.BrokerSample{CPUSeconds: 3.75, ResidentBytes: 3_001_000}); err != nil || got != want {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
}

func TestSampleOfABroker(t *testing.T) {
	b := brokertest.Start(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { b.Broker.Metrics().WritePrometheus(w) }))
	defer server.Close()
	s, err := New([]string{server.URL}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Sample(t.Context())
	if err != nil || got.ResidentBytes < 1<<20 { // CPU time comes in ticks, and there may be none yet
		t.Errorf("got %+v (%v)", got, err)
	}
}

func TestSampleErrors(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, test := range map[string]struct{ url, want string }{
		"no metrics":    {node(t, 200, "", "# nothing\n"), "there is no process_resident_memory_bytes"},
		"only one":      {node(t, 200, "", "process_cpu_seconds_total 1\n"), "there is no process_resident_memory_bytes"},
		"below 0":       {node(t, 200, "", strings.ReplaceAll(bare, "1000", "-1000")), "is -1000"},
		"no number":     {node(t, 200, "", strings.ReplaceAll(bare, "1.5", "NaN")), "is NaN"},
		"no Prometheus": {node(t, 200, "", "<html>\n"), "text format parsing error"},
		"no such page":  {node(t, 404, "", ""), "404 Not Found"},
		"a wrong token": {node(t, 200, "right", bare), "401 Unauthorized"},
		"nobody there":  {gone.URL, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New([]string{test.url}, "wrong")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Sample(t.Context()); !errors.Is(err, ErrMetrics) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
	s, err := New([]string{node(t, 200, "", bare)}, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Sample(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its context: %v", err)
	}
}

func TestNewErrors(t *testing.T) {
	for _, urls := range [][]string{nil, {""}, {"127.0.0.1:8081"}, {"ftp://127.0.0.1/"}, {"http:///metrics"}, {"http://[/"}} {
		if _, err := New(urls, ""); !errors.Is(err, ErrMetrics) {
			t.Errorf("%q: %v", urls, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{bare, typed, "", "# HELP process_cpu_seconds_total x\nprocess_cpu_seconds_total{a=\"\\\"\"} +Inf 12\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sample, err := parse(strings.NewReader(text))
		if err == nil && !(sample.CPUSeconds >= 0) {
			t.Error(fmt.Sprint(sample))
		}
	})
}
