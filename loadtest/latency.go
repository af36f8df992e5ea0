package loadtest

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The range of histograms in nanoseconds, at three significant digits. What is beyond counts as the nearest.
const (
	latencyLowest  = 1000
	latencyHighest = int64(time.Hour)
)

// newHistogram returns a histogram of nanoseconds, as in each Latency.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(latencyLowest, latencyHighest, 3)
}

// record adds a duration in nanoseconds.
func record(h *hdrhistogram.Histogram, nanos int64) {
	_ = h.RecordValue(min(max(nanos, 0), latencyHighest)) // in range, so it can't fail
}

// Latency is a distribution of latencies, in microseconds but for HDR.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_micros"`
	Min   float64 `json:"min_micros"`
	P50   float64 `json:"p50_micros"`
	P90   float64 `json:"p90_micros"`
	P99   float64 `json:"p99_micros"`
	P999  float64 `json:"p999_micros"`
	Max   float64 `json:"max_micros"`
	// HDR is the histogram, in nanoseconds, in the compressed V2 format of HdrHistogram, in base 64.
	HDR string `json:"hdr"`
}

// NewLatency sums up a histogram of nanoseconds.
func NewLatency(h *hdrhistogram.Histogram) (*Latency, error) {
	encoded, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil, fmt.Errorf("encode histogram: %w", err)
	}
	l := &Latency{Count: h.TotalCount(), HDR: string(encoded)}
	if l.Count > 0 {
		l.Mean, l.Min, l.Max = h.Mean()/1e3, micros(h.Min()), micros(h.Max())
		l.P50, l.P90 = micros(h.ValueAtQuantile(50)), micros(h.ValueAtQuantile(90))
		l.P99, l.P999 = micros(h.ValueAtQuantile(99)), micros(h.ValueAtQuantile(99.9))
	}
	return l, nil
}

func micros(nanos int64) float64 { return float64(nanos) / 1e3 }

// Histogram returns the histogram, of nanoseconds.
func (l *Latency) Histogram() (h *hdrhistogram.Histogram, err error) {
	// What is read may come from anywhere, and the decoder indexes by what it finds.
	defer func() {
		if r := recover(); r != nil {
			h, err = nil, fmt.Errorf("%w: histogram: %v", ErrResult, r)
		}
	}()
	if h, err = hdrhistogram.Decode([]byte(l.HDR)); err != nil {
		return nil, fmt.Errorf("%w: histogram: %w", ErrResult, err)
	}
	return h, nil
}
