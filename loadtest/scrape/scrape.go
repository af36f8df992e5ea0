// Package scrape reads from the metrics of a broker what it has used, for a load test beside it. It understands the Prometheus text of any
// process that says process_cpu_seconds_total and process_resident_memory_bytes, as loopmq and what is built with Prometheus's libraries do.
package scrape

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"

	"loopmq/loadtest"
)

const (
	// timeout bounds one look: a broker that doesn't answer must not hold up the timeline.
	timeout = 5 * time.Second
	// textBytesMax bounds the metrics of one process.
	textBytesMax = 64 << 20
)

// The metrics that are read.
const (
	cpuSeconds    = "process_cpu_seconds_total"
	residentBytes = "process_resident_memory_bytes"
)

// ErrMetrics is wrapped by what is wrong with a URL or with what it answers.
var ErrMetrics = errors.New("metrics")

// Scraper looks at the metrics of a broker: of all its nodes if it has several. Any goroutine may use it.
type Scraper struct {
	urls   []string
	token  string
	client *http.Client
}

// New returns a Scraper for the metrics at these URLs, one for each node. A token, unless it is "", is sent as a bearer token.
func New(urls []string, token string) (*Scraper, error) {
	if len(urls) == 0 {
		return nil, fmt.Errorf("%w: no URL", ErrMetrics)
	}
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("%w: URL %q: allowed: http://HOST:PORT/metrics", ErrMetrics, text)
		}
	}
	return &Scraper{
		urls:   urls,
		token:  token,
		client: &http.Client{Timeout: timeout, Transport: &http.Transport{MaxIdleConnsPerHost: 1}},
	}, nil
}

// Close closes the connections that it keeps.
func (s *Scraper) Close() { s.client.CloseIdleConnections() }

// Sample returns what all nodes have used, added up. It is an error if any of them doesn't answer within 5 seconds, or says nothing of it.
func (s *Scraper) Sample(ctx context.Context) (loadtest.BrokerSample, error) {
	samples, errs := make([]loadtest.BrokerSample, len(s.urls)), make([]error, len(s.urls))
	var wg sync.WaitGroup
	for i, u := range s.urls {
		wg.Go(func() { samples[i], errs[i] = s.sample(ctx, u) })
	}
	wg.Wait()
	var sum loadtest.BrokerSample
	for _, one := range samples {
		sum.CPUSeconds += one.CPUSeconds
		sum.ResidentBytes += one.ResidentBytes
	}
	return sum, errors.Join(errs...)
}

func (s *Scraper) sample(ctx context.Context, from string) (loadtest.BrokerSample, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
	if err != nil {
		return loadtest.BrokerSample{}, fmt.Errorf("%w: %w", ErrMetrics, err)
	}
	if s.token != "" {
		request.Header.Set("Authorization", "Bearer "+s.token)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return loadtest.BrokerSample{}, fmt.Errorf("%w: %w", ErrMetrics, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return loadtest.BrokerSample{}, fmt.Errorf("%w: %s answers %s", ErrMetrics, from, response.Status)
	}
	sample, err := parse(response.Body)
	if err != nil {
		return sample, fmt.Errorf("%w: %s: %w", ErrMetrics, from, err)
	}
	return sample, nil
}

// parse finds what a process has used in its metrics.
func parse(r io.Reader) (sample loadtest.BrokerSample, err error) {
	var parser expfmt.TextParser
	families, err := parser.TextToMetricFamilies(io.LimitReader(r, textBytesMax))
	if err != nil {
		return sample, err
	}
	value := func(name string) float64 {
		metrics := families[name].GetMetric()
		if len(metrics) == 0 {
			err = errors.Join(err, fmt.Errorf("there is no %s", name))
			return 0
		}
		// Whether a type is said depends on the library: one of them is set, the others are 0.
		m := metrics[0]
		v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
		if !(v >= 0 && v < 1<<62) {
			err = errors.Join(err, fmt.Errorf("%s is %v", name, v))
			return 0
		}
		return v
	}
	sample = loadtest.BrokerSample{CPUSeconds: value(cpuSeconds), ResidentBytes: uint64(value(residentBytes))}
	return sample, err
}
