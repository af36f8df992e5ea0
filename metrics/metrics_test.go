package metrics

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"
)

// scrape returns every sample by its name and labels, after checking the text.
func scrape(t testing.TB, s *Set) map[string]float64 {
	t.Helper()
	var b bytes.Buffer
	s.WritePrometheus(&b)
	return parse(t, b.String())
}

var sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*"(?:, ?)?)+\})? (\S+)$`)

// parse reads the text format strictly: each sample once, those of a family
// together, and for ours under exactly one HELP and one TYPE.
func parse(t testing.TB, text string) map[string]float64 {
	t.Helper()
	samples := map[string]float64{}
	types := map[string]string{}
	done := map[string]bool{}
	var current, help string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			help, _, _ = strings.Cut(rest, " ")
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if name != help {
				t.Errorf("TYPE of %q follows HELP of %q", name, help)
			}
			if types[name] != "" {
				t.Errorf("second TYPE of %q", name)
			}
			types[name] = kind
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("not a sample: %q", line)
			continue
		}
		family := m[1]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(family, suffix); ok && types[base] == "histogram" {
				family = base
			}
		}
		if family != current {
			if done[family] && strings.HasPrefix(family, "loopmq_") {
				t.Errorf("samples of %q are not together", family)
			}
			done[family], current = true, family
		}
		if strings.HasPrefix(family, "loopmq_") && (types[family] == "" || help != family) {
			t.Errorf("%q has no HELP or TYPE right above", line)
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if _, twice := samples[m[1]+m[2]]; twice {
			t.Errorf("second sample %q", line)
		}
		samples[m[1]+m[2]] = v
	}
	return samples
}

func TestSetSumsLoops(t *testing.T) {
	s := New(3)
	for i := range s.Loops() {
		l := s.Loop(i)
		l.PacketsReceived[3].Add(uint64(i + 1))
		l.PacketsSent[15].Inc()
		l.Inflight.Add(100)
		l.MessagesReceived[2].Inc()
		l.MessagesDropped[0][DropOutputFull].Add(5)
		l.QueueDropped[1][DropExpired].Add(7)
		l.MessagesAcked.Inc()
	}
	s.ConnectionsOpened.Inc()
	s.ConnectionsClosed[CloseKeepAlive].Add(2)
	s.ProtocolErrors[0x81].Inc()
	s.ProtocolErrors[0x0a].Inc()
	s.AuthFailures.Inc()
	s.Gauge("loopmq_sessions", func() float64 { return 12 })
	s.Gauge(`loopmq_mailbox_messages{loop="1"}`, func() float64 { return 13 })
	s.Gauge(`loopmq_mailbox_messages{loop="0"}`, func() float64 { return 14 })
	got := scrape(t, s)
	for name, want := range map[string]float64{
		`loopmq_packets_received_total{type="publish"}`:                     6,
		`loopmq_packets_received_total{type="auth"}`:                        0,
		`loopmq_packets_sent_total{type="auth"}`:                            3,
		`loopmq_inflight_messages`:                                          300,
		`loopmq_messages_received_total{qos="2"}`:                           3,
		`loopmq_messages_dropped_total{qos="0",reason="output_full"}`:       15,
		`loopmq_messages_dropped_total{qos="0",reason="packet_too_large"}`:  0,
		`loopmq_queue_messages_dropped_total{qos="1",reason="expired"}`:     21,
		`loopmq_messages_acked_total`:                                       3,
		`loopmq_connections_opened_total`:                                   1,
		`loopmq_connections_closed_total{reason="keep_alive_timeout"}`:      2,
		`loopmq_connections_closed_total{reason="internal_error"}`:          0,
		`loopmq_protocol_errors_total{reason_code="0x81"}`:                  1,
		`loopmq_protocol_errors_total{reason_code="0x0a"}`:                  1,
		`loopmq_auth_failures_total`:                                        1,
		`loopmq_sessions`:                                                   12,
		`loopmq_mailbox_messages{loop="0"}`:                                 14,
		`loopmq_mailbox_messages{loop="1"}`:                                 13,
		`loopmq_publish_to_deliver_seconds_count`:                           0,
		`loopmq_messages_dropped_total{qos="2",reason="store_unavailable"}`: 0,
		`loopmq_queue_messages_delivered_total{qos="1"}`:                    0,
		`loopmq_messages_matched_total{qos="1"}`:                            0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s = %v (present: %v), want %v", name, v, ok, want)
		}
	}
	if _, ok := got[`loopmq_protocol_errors_total{reason_code="0x82"}`]; ok {
		t.Error("a reason code that never occurred is written")
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes", "process_open_fds"} {
		if got[name] <= 0 {
			t.Errorf("%s = %v, want more than 0", name, got[name])
		}
	}
	if n := s.Sum(func(l *Loop) uint64 { return l.Inflight.Load() }); n != 300 {
		t.Errorf("Sum = %d, want 300", n)
	}
}

// Sets are independent, and none is the library's global one.
func TestSetsDoNotMix(t *testing.T) {
	a, b := New(1), New(0)
	a.WillsPublished.Inc()
	a.Loop(0).MessagesAcked.Inc()
	got := scrape(t, b)
	if got["loopmq_wills_published_total"] != 0 || got["loopmq_messages_acked_total"] != 0 {
		t.Errorf("the second set shows what the first counted: %v", got)
	}
}

func TestGaugeRegisteredTwicePanics(t *testing.T) {
	s := New(1)
	s.Gauge("loopmq_sessions", func() float64 { return 0 })
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	s.Gauge("loopmq_sessions", func() float64 { return 0 })
}

func TestHistogram(t *testing.T) {
	s := New(2)
	s.Loop(0).PublishToDeliver.Observe(10 * time.Microsecond) // A bound belongs to its bucket.
	s.Loop(0).PublishToDeliver.Observe(-time.Second)
	s.Loop(1).PublishToDeliver.Observe(10*time.Microsecond + 1)
	s.Loop(1).PublishToDeliver.Observe(10 * time.Second)
	s.Loop(1).PublishToDeliver.Observe(time.Hour)
	got := scrape(t, s)
	for le, want := range map[string]float64{"1e-05": 2, "2.5e-05": 3, "5": 3, "10": 4, "+Inf": 5} {
		name := fmt.Sprintf(`loopmq_publish_to_deliver_seconds_bucket{le="%s"}`, le)
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s = %v (present: %v), want %v", name, v, ok, want)
		}
	}
	if n := got["loopmq_publish_to_deliver_seconds_count"]; n != 5 {
		t.Errorf("count = %v, want 5", n)
	}
	if sum := got["loopmq_publish_to_deliver_seconds_sum"]; sum != 3610.000020001 {
		t.Errorf("sum = %v, want 3610.000020001", sum)
	}
}

func TestHistogramSample(t *testing.T) {
	var h Histogram
	var at []int
	for i := range 3 * SampleEvery {
		if h.Sample() {
			at = append(at, i)
		}
	}
	if fmt.Sprint(at) != fmt.Sprint([]int{0, SampleEvery, 2 * SampleEvery}) {
		t.Errorf("sampled at %v", at)
	}
}

// Readers meet writers on every counter. The race detector watches; without it,
// the test still wants to see each counter only grow and end where it should.
func TestScrapeWhileLoopsCount(t *testing.T) {
	const loops, rounds = 3, 20_000
	s := New(loops)
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			var before float64
			for {
				got := scrape(t, s)["loopmq_messages_matched_total{qos=\"1\"}"]
				if got < before {
					t.Errorf("went back from %v to %v", before, got)
				}
				before = got
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range loops {
		writers.Go(func() {
			l := s.Loop(i)
			for range rounds {
				l.MessagesMatched[1].Inc()
				l.MessagesDropped[1][DropQueueFull].Inc()
				l.PacketsReceived[3].Inc()
				s.ProtocolErrors[0x82].Inc()
				s.ConnectionsClosed[CloseLost].Inc()
				if l.PublishToDeliver.Sample() {
					l.PublishToDeliver.Observe(time.Millisecond)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	got := scrape(t, s)
	for name, want := range map[string]float64{
		`loopmq_messages_matched_total{qos="1"}`:                     loops * rounds,
		`loopmq_messages_dropped_total{qos="1",reason="queue_full"}`: loops * rounds,
		`loopmq_protocol_errors_total{reason_code="0x82"}`:           loops * rounds,
		`loopmq_connections_closed_total{reason="connection_lost"}`:  loops * rounds,
		`loopmq_publish_to_deliver_seconds_count`:                    loops * (rounds/SampleEvery + 1),
	} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v", name, got[name], want)
		}
	}
}

// Every match gets one outcome at random; the exported families must add up
// as the package comment says.
func TestMatchesAddUp(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := New(4)
	for range 10_000 {
		l, q := s.Loop(r.IntN(4)), r.IntN(numQoS)
		l.MessagesMatched[q].Inc()
		switch r.IntN(3) {
		case 0:
			l.MessagesDelivered[q].Inc()
		case 1:
			l.MessagesQueued[q].Inc()
		case 2:
			l.MessagesDropped[q][r.IntN(NumDropReasons)].Inc()
		}
	}
	got := scrape(t, s)
	for q := range numQoS {
		sum := got[fmt.Sprintf(`loopmq_messages_delivered_total{qos="%d"}`, q)] + got[fmt.Sprintf(`loopmq_messages_queued_total{qos="%d"}`, q)]
		for reason := range NumDropReasons {
			sum += got[fmt.Sprintf(`loopmq_messages_dropped_total{qos="%d",reason="%s"}`, q, DropReason(reason))]
		}
		if matched := got[fmt.Sprintf(`loopmq_messages_matched_total{qos="%d"}`, q)]; matched == 0 || matched != sum {
			t.Errorf("qos %d: matched %v, delivered + queued + dropped %v", q, matched, sum)
		}
	}
}

// The list follows the conventions, and whatever a new Set writes is in it.
func TestFamilies(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Families() {
		if seen[f.Name] {
			t.Errorf("%s is listed twice", f.Name)
		}
		seen[f.Name] = true
		if !strings.HasPrefix(f.Name, "loopmq_") || f.Help == "" || !strings.HasSuffix(f.Help, ".") || strings.Contains(f.Help, "\n") {
			t.Errorf("%s: name without loopmq_, or help %q without a sentence", f.Name, f.Help)
		}
		if (f.Type == TypeCounter) != strings.HasSuffix(f.Name, "_total") {
			t.Errorf("%s is a %s", f.Name, f.Type)
		}
	}
	for sample := range scrape(t, New(1)) {
		name, _, _ := strings.Cut(sample, "{")
		if strings.HasPrefix(name, "loopmq_") && !seen[familyOf(name)] {
			t.Errorf("%s isn't listed", name)
		}
	}
}

func TestReasonLabels(t *testing.T) {
	seen := map[string]bool{}
	for r := range NumDropReasons {
		seen[DropReason(r).String()] = true
	}
	if len(seen) != NumDropReasons || seen[""] || seen["unknown"] {
		t.Errorf("drop reasons are not named one by one: %v", seen)
	}
	clear(seen)
	for r := range NumCloseReasons {
		seen[CloseReason(r).String()] = true
	}
	if len(seen) != NumCloseReasons || seen[""] || seen["unknown"] {
		t.Errorf("close reasons are not named one by one: %v", seen)
	}
	clear(seen)
	for m := range NumAuthMethods {
		seen[AuthMethod(m).String()] = true
	}
	for r := range NumAuthResults {
		seen[AuthResult(r).String()] = true
	}
	for b := range NumBanSources {
		seen[BanSource(b).String()] = true
	}
	if len(seen) != NumAuthMethods+NumAuthResults+NumBanSources || seen[""] || seen["unknown"] {
		t.Errorf("methods, results and sources of bans are not named one by one: %v", seen)
	}
	if DropReason(200).String() != "unknown" || CloseReason(200).String() != "unknown" {
		t.Error("a reason out of range has a name")
	}
}

// No two loops write the same pair of cache lines.
func TestLoopsShareNoCacheLine(t *testing.T) {
	s := New(2)
	a, b := s.Loop(0), s.Loop(1)
	end := uintptr(unsafe.Pointer(&a.PublishToDeliver)) + unsafe.Sizeof(a.PublishToDeliver)
	if gap := uintptr(unsafe.Pointer(&b.PacketsReceived)) - end; gap < 128 {
		t.Errorf("%d bytes between the counters of two loops, want at least 128", gap)
	}
}

func TestCountingDoesNotAllocate(t *testing.T) {
	s := New(1)
	l := s.Loop(0)
	if n := testing.AllocsPerRun(100, func() {
		l.MessagesDropped[0][DropOffline].Inc()
		s.ConnectionsClosed[CloseLost].Inc()
		s.ProtocolErrors[0x80].Inc()
		if l.PublishToDeliver.Sample() {
			l.PublishToDeliver.Observe(time.Millisecond)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

type failingWriter struct{ writes int }

func (w *failingWriter) Write([]byte) (int, error) {
	w.writes++
	return 0, fmt.Errorf("gone")
}

func TestWritePrometheusStopsWhenTheScraperIsGone(t *testing.T) {
	var w failingWriter
	New(1).WritePrometheus(&w)
	if w.writes != 1 {
		t.Errorf("%d writes after the first failed", w.writes-1)
	}
}

func BenchmarkCounterInc(b *testing.B) {
	l := New(1).Loop(0)
	for b.Loop() {
		l.PacketsReceived[3].Inc()
		l.MessagesAcked.Add(64)
		l.MessagesReceived[1].Inc()
		l.MessagesMatched[1].Inc()
		l.MessagesDelivered[1].Inc()
		l.PacketsSent[3].Inc()
		l.PublishToDeliver.Sample()
	}
}

func BenchmarkWritePrometheus(b *testing.B) {
	s := New(2)
	b.ReportAllocs()
	for b.Loop() {
		var buf bytes.Buffer
		s.WritePrometheus(&buf)
	}
}
