// Package metrics counts what a Broker does and writes it as Prometheus text.
//
// There is one [Set] per Broker and none is global, so that two Brokers in a
// process don't mix their numbers. A Set has two kinds of values:
//
//   - What happens per packet or per message is counted in a [Loop], one for
//     each event loop. Its fields are plain words with a single writer, so that
//     loops share no cache line, and are summed only when somebody scrapes.
//   - What happens per connection or less often is a [Count], which any
//     goroutine may increment.
//
// Everything is a direct call on a field and allocates nothing:
//
//	l := set.Loop(i)
//	l.PacketsReceived[packetType].Inc()
//	l.MessagesDropped[qos][metrics.DropOutputFull].Inc()
//	set.ConnectionsClosed[metrics.CloseKeepAlive].Inc()
//
// # What adds up
//
// A match is one copy of a message that a subscription asks for, after
// overlapping subscriptions of a session became one copy and one member of each
// Shared Subscription was chosen. A copy that No Local holds back is no match.
// Every match is counted in MessagesMatched, by effective QoS (the smaller of
// the message's and the subscription's), and has exactly one outcome:
//
//   - MessagesDelivered: the PUBLISH was written to the subscriber's output
//     without having waited for anything but the commit of this message.
//   - MessagesQueued: it has to wait in the Session's queue, on disk or in
//     memory, because the client is offline or its window is full.
//   - MessagesForwarded: another node has it, whose Sessions without a queue it is
//     for. There its matches count again.
//   - MessagesDropped: it was given up, for the stated [DropReason].
//
// So, once all loops are at rest, for each QoS
//
//	matched = delivered + queued + forwarded + dropped
//
// What becomes of a queued message later doesn't touch these counters. It has
// its own, counted once for each entry, and again for each QoS
//
//	queued = queue delivered + queue dropped + entries never sent so far
//
// (since the start of the process: entries which a durable store already held
// are in the first two only, when they are sent or dropped; of nodes that share a
// store, one may count what another queued, so it is their sums that add up). A PUBLISH that is sent again when a Session
// resumes is in PacketsSent and nowhere else.
package metrics

import (
	"bytes"
	"io"
	"math"
	"strconv"

	vm "github.com/VictoriaMetrics/metrics"
)

// Count is a counter that any goroutine may increment, for what isn't counted
// per message.
type Count = vm.Counter

// Set holds the metrics of one Broker. Its methods are safe for concurrent use.
// The zero value is not usable, call [New].
type Set struct {
	vm    *vm.Set
	loops []Loop

	// ConnectionsOpened counts the Network Connections that were accepted.
	ConnectionsOpened *Count
	// ConnectionsClosed counts the accepted Network Connections that ended.
	// Opened minus the sum of closed is the number of open connections.
	ConnectionsClosed [NumCloseReasons]*Count
	// ProtocolErrors counts packets that were refused, by the MQTT 5.0 reason
	// code that names what was wrong. 3.x has no such codes on the wire, but its
	// errors are counted here under the same ones.
	ProtocolErrors [256]Count
	// AuthFailures counts CONNECT and AUTH packets whose credentials were refused.
	AuthFailures *Count
	// SessionsCreated counts Sessions that began; a resumed Session isn't one.
	SessionsCreated *Count
	// SessionsExpired counts Sessions that ended because their Session Expiry
	// Interval passed.
	SessionsExpired *Count
	// WillsPublished counts Will Messages that were published.
	WillsPublished *Count
	// ConnectionsUnclaimed counts connections that were accepted while the store that
	// nodes share was away.
	ConnectionsUnclaimed *Count
	// CertificateReloads counts the times that files of TLS were read again.
	CertificateReloads [NumReloadResults]*Count
	// TrafficExceeded counts the times that a client was slowed down or disconnected,
	// since somebody sent more than may come in the time: by whose limit it was.
	TrafficExceeded [NumScopes]*Count
	// SubscriptionsRefused counts Topic Filters that were refused for a limit on
	// subscriptions: of the session (ScopeClient), or of all (ScopeNode).
	SubscriptionsRefused [NumScopes]*Count
	// RetainedRefused counts messages that were passed on but not retained,
	// because the retained messages are at their bound.
	RetainedRefused *Count
	// StreamsEnded counts streams of server-sent events that ended, StreamEvents the messages
	// that were written to them.
	StreamsEnded [NumStreamEnds]*Count
	StreamEvents *Count
	// HTTPStreams and RepliesAwaited go down as well as up: streams that are open, and
	// requests that wait for a reply.
	HTTPStreams, RepliesAwaited *Count
	// RepliesIgnored counts replies that no request waited for.
	RepliesIgnored *Count
	// CoAPRequests counts requests, CoAPDuplicates those that came again, CoAPRefused those
	// that were refused, and CoAPIgnored datagrams that got no answer.
	CoAPRequests, CoAPDuplicates *Count
	CoAPRefused                  [NumCoAPReasons]*Count
	CoAPIgnored                  [NumCoAPIgnored]*Count
	// CoAPPeers, CoAPConnections and CoAPObservations go down as well as up.
	CoAPPeers, CoAPConnections, CoAPObservations *Count
	// CoAPEnded counts observations that ended; CoAPNotifications what observers were sent,
	// CoAPDropped what they were not, CoAPRetransmissions what was sent again.
	CoAPEnded                                           [NumCoAPEnds]*Count
	CoAPNotifications, CoAPDropped, CoAPRetransmissions *Count
	// OPCUAServer is what the OPC UA server counts.
	OPCUAServer OPCUAServer
	// Auth is what authentication, authorization and bans count.
	Auth Auth
	// AdminRefused counts requests to the admin listener that were refused, by reason.
	AdminRefused [NumAdminReasons]*Count
	// HTTPRequests counts requests to the HTTP listener.
	HTTPRequests *Count
	// HTTPRefused counts those that were refused, by reason.
	HTTPRefused [NumHTTPReasons]*Count
	// HTTPUnderWay and HTTPIdentities go down as well as up: requests that are being
	// answered, and callers that are known.
	HTTPUnderWay, HTTPIdentities *Count
}

// New returns a Set for a Broker with the given number of event loops (at
// least 1).
func New(loops int) *Set {
	s := &Set{vm: vm.NewSet(), loops: make([]Loop, max(loops, 1))}
	for _, f := range families {
		if f.register != nil {
			f.register(s, f.Name)
		}
	}
	return s
}

// Loop returns the counters of event loop i, counting from 0. Only that loop
// may write them. The pointer is valid as long as the Set.
func (s *Set) Loop(i int) *Loop { return &s.loops[i] }

// Loops returns the number of event loops.
func (s *Set) Loops() int { return len(s.loops) }

// Sum adds up one counter over all loops, as for the topics under $SYS:
//
//	acked := set.Sum(func(l *metrics.Loop) uint64 { return l.MessagesAcked.Load() })
func (s *Set) Sum(value func(l *Loop) uint64) uint64 {
	var sum uint64
	for i := range s.loops {
		sum += value(&s.loops[i])
	}
	return sum
}

// Gauge registers a value that is asked for when somebody scrapes, such as the
// number of Sessions. The name may carry labels: `loopmq_retained{shard="1"}`.
// f is called from the goroutine of the scrape, from several at once when there
// are several scrapes, and must not wait for a loop. A name that isn't valid or
// that is registered already is an error of the program, and panics.
//
// The names are listed with type and help in names.go. The type is the listed
// one, so a total that is counted elsewhere, as by the event loops, is registered
// here as well. A name that isn't listed is written without TYPE and HELP.
func (s *Set) Gauge(name string, f func() float64) { s.vm.NewGauge(name, f) }

// WritePrometheus writes all metrics in Prometheus text format, then those of
// the process and of the Go runtime. The counters go on meanwhile, so sums that
// hold at rest may be off by what happens during the scrape.
func (s *Set) WritePrometheus(w io.Writer) {
	var samples bytes.Buffer
	s.vm.WritePrometheus(&samples)
	out := make([]byte, 0, samples.Len()*2)
	out = appendDescribed(out, samples.Bytes())
	out = s.appendProtocolErrors(out)
	out = s.appendPublishToDeliver(out)
	if _, err := w.Write(out); err != nil {
		return // The scraper has gone; it knows.
	}
	vm.WriteProcessMetrics(w)
	writeFiles(w)
}

// appendDescribed copies sample lines and puts HELP and TYPE above the first of
// each family. The library sorts by family, but can write these two lines only
// without help text, with the type of its own value, and by a global switch.
func appendDescribed(out, samples []byte) []byte {
	var family string
	for line := range bytes.Lines(samples) {
		name := familyOf(string(line[:bytes.IndexAny(line, "{ ")]))
		if name != family {
			family = name
			if f, ok := familyByName[family]; ok {
				out = f.appendHeader(out)
			}
		}
		out = append(out, line...)
	}
	return out
}

// appendProtocolErrors leaves out the codes that never occurred: most never will.
func (s *Set) appendProtocolErrors(out []byte) []byte {
	f := familyByName[nameProtocolErrors]
	out = f.appendHeader(out)
	for code := range s.ProtocolErrors {
		n := s.ProtocolErrors[code].Get()
		if n == 0 {
			continue
		}
		const hex = "0123456789abcdef"
		out = append(out, f.Name+`{reason_code="0x`...)
		out = append(out, hex[code>>4], hex[code&15])
		out = append(out, `"} `...)
		out = strconv.AppendUint(out, n, 10)
		out = append(out, '\n')
	}
	return out
}

// Totals returns each counter by its name, all labels of a name together. Those that
// are 0 are left out.
func (s *Set) Totals() map[string]uint64 {
	var samples bytes.Buffer
	s.vm.WritePrometheus(&samples)
	totals := map[string]uint64{}
	for line := range bytes.Lines(samples.Bytes()) {
		name, value := line[:bytes.IndexAny(line, "{ ")], line[bytes.LastIndexByte(line, ' ')+1:]
		f := familyByName[string(name)]
		if f == nil || f.Type != TypeCounter {
			continue
		}
		if n, err := strconv.ParseFloat(string(bytes.TrimSpace(value)), 64); err == nil && n > 0 {
			totals[f.Name] += uint64(n)
		}
	}
	for code := range s.ProtocolErrors {
		if n := s.ProtocolErrors[code].Get(); n > 0 {
			totals[nameProtocolErrors] += n
		}
	}
	return totals
}

func (s *Set) appendPublishToDeliver(out []byte) []byte {
	f := familyByName[namePublishToDeliver]
	out = f.appendHeader(out)
	var cumulative, sumNanos uint64
	for b := range numBuckets {
		le := math.Inf(1)
		if b < len(bucketBounds) {
			le = bucketBounds[b].Seconds()
		}
		cumulative += s.Sum(func(l *Loop) uint64 { return l.PublishToDeliver.buckets[b].Load() })
		out = append(out, f.Name+`_bucket{le="`...)
		out = strconv.AppendFloat(out, le, 'g', -1, 64)
		out = append(out, `"} `...)
		out = strconv.AppendUint(out, cumulative, 10)
		out = append(out, '\n')
	}
	sumNanos = s.Sum(func(l *Loop) uint64 { return l.PublishToDeliver.sumNanos.Load() })
	out = append(out, f.Name+"_sum "...)
	out = strconv.AppendFloat(out, float64(sumNanos)/1e9, 'g', -1, 64)
	out = append(out, "\n"+f.Name+"_count "...)
	// The sum of the buckets, so that it equals the last one whatever the loops
	// counted meanwhile.
	out = strconv.AppendUint(out, cumulative, 10)
	return append(out, '\n')
}
