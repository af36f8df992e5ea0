package metrics

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Type is the type of a family, in the words of the Prometheus text format.
type Type string

// The types of families.
const (
	TypeCounter   Type = "counter"
	TypeGauge     Type = "gauge"
	TypeHistogram Type = "histogram"
)

// Family describes the metrics of one name.
type Family struct {
	Name string
	Type Type
	// Labels are the names of its labels, separated by a comma, or empty.
	Labels string
	Help   string

	// register connects the name to where a new Set counts it. It is nil for what
	// is registered with Set.Gauge, or written by Set.WritePrometheus itself.
	register func(s *Set, name string)
}

// The names which are needed twice.
const (
	nameProtocolErrors   = "loopmq_protocol_errors_total"
	namePublishToDeliver = "loopmq_publish_to_deliver_seconds"
)

// families is the list of all names, and the only place that has them. It is
// ordered as a reader wants it: connections, packets, messages, state, loops.
var families = slices.Concat(brokerFamilies, authFamilies, webhookFamilies, adminFamilies, httpFamilies, streamFamilies, coapFamilies, opcuaFamilies, opcuaServerFamilies)

var brokerFamilies = []Family{
	{
		"loopmq_build_info", TypeGauge, "version",
		"1, with the version of the broker as a label.", nil,
	},
	{
		"loopmq_connections", TypeGauge, "",
		"Open network connections.", nil,
	},
	{
		"loopmq_clients_connected", TypeGauge, "",
		"Open network connections whose CONNECT was accepted.", nil,
	},
	{
		"loopmq_connections_opened_total", TypeCounter, "",
		"Network connections accepted.",
		once(func(s *Set, c *Count) { s.ConnectionsOpened = c }),
	},
	{
		"loopmq_connections_closed_total", TypeCounter, "reason",
		"Network connections ended, by reason.",
		func(s *Set, name string) {
			for r := range s.ConnectionsClosed {
				s.ConnectionsClosed[r] = s.vm.NewCounter(fmt.Sprintf("%s{reason=%q}", name, closeReasons[r]))
			}
		},
	},
	{
		"loopmq_connections_refused_total", TypeCounter, "reason",
		"Network connections closed before any MQTT was spoken but a refusal, by reason.", nil,
	},
	{
		"loopmq_tls_handshakes_total", TypeCounter, "",
		"TLS handshakes completed; loopmq_connections_refused_total has the others.", nil,
	},
	{
		"loopmq_tls_handshakes_under_way", TypeGauge, "",
		"TLS handshakes begun, and neither completed nor refused.", nil,
	},
	{
		"loopmq_websocket_bad_frames_total", TypeCounter, "reason",
		"Connections over WebSocket closed because of a frame, by reason.", nil,
	},
	{
		"loopmq_certificate_reloads_total", TypeCounter, "result",
		"Times that changed files of TLS were read: ok, they hold for new handshakes; failed, the former ones do.",
		func(s *Set, name string) {
			for r := range s.CertificateReloads {
				s.CertificateReloads[r] = s.vm.NewCounter(fmt.Sprintf("%s{result=%q}", name, reloadResults[r]))
			}
		},
	},
	{
		"loopmq_accept_pauses_total", TypeCounter, "",
		"Times that accepting paused because file descriptors or memory ran out.", nil,
	},
	{
		"loopmq_accept_delays_total", TypeCounter, "",
		"Times that accepting waited for the limit on the rate of connections.", nil,
	},
	{
		"loopmq_connects_pending", TypeGauge, "",
		"CONNECT packets that are being decided on.", nil,
	},
	{
		"loopmq_traffic_exceeded_total", TypeCounter, "scope",
		"Times that a client was slowed down or disconnected for a limit on messages or bytes, by whose limit it was.",
		byScope(func(s *Set) *[NumScopes]*Count { return &s.TrafficExceeded }),
	},
	{
		nameProtocolErrors, TypeCounter, "reason_code",
		"Packets refused, by the MQTT 5.0 reason code that names the error (codes that occurred only).", nil,
	},
	{
		"loopmq_auth_failures_total", TypeCounter, "",
		"CONNECT and AUTH packets whose credentials were refused.",
		once(func(s *Set, c *Count) { s.AuthFailures = c }),
	},
	{
		"loopmq_packets_received_total", TypeCounter, "type",
		"MQTT control packets received, by packet type.",
		byPacketType(func(l *Loop) *[numPacketTypes]Counter { return &l.PacketsReceived }),
	},
	{
		"loopmq_packets_sent_total", TypeCounter, "type",
		"MQTT control packets written to the output of connections, by packet type.",
		byPacketType(func(l *Loop) *[numPacketTypes]Counter { return &l.PacketsSent }),
	},
	{
		"loopmq_received_bytes_total", TypeCounter, "",
		"Bytes read from network connections.", nil,
	},
	{
		"loopmq_sent_bytes_total", TypeCounter, "",
		"Bytes written to network connections.", nil,
	},
	{
		"loopmq_messages_received_total", TypeCounter, "qos",
		"Messages published to the broker, by QoS.",
		byQoS(func(l *Loop) *[numQoS]Counter { return &l.MessagesReceived }),
	},
	{
		"loopmq_messages_matched_total", TypeCounter, "qos",
		"Copies of messages that subscriptions asked for, by effective QoS: the sum of delivered, queued, forwarded and dropped.",
		byQoS(func(l *Loop) *[numQoS]Counter { return &l.MessagesMatched }),
	},
	{
		"loopmq_messages_delivered_total", TypeCounter, "qos",
		"Matches written to the output of the subscriber at once, by effective QoS.",
		byQoS(func(l *Loop) *[numQoS]Counter { return &l.MessagesDelivered }),
	},
	{
		"loopmq_messages_queued_total", TypeCounter, "qos",
		"Matches that had to wait in the queue of a session, by effective QoS.",
		byQoS(func(l *Loop) *[numQoS]Counter { return &l.MessagesQueued }),
	},
	{
		"loopmq_messages_forwarded_total", TypeCounter, "qos",
		"Matches handed to another node, for its sessions that are not durable, by QoS.",
		byQoS(func(l *Loop) *[numQoS]Counter { return &l.MessagesForwarded }),
	},
	{
		"loopmq_messages_dropped_total", TypeCounter, "qos,reason",
		"Matches given up without having been queued, by effective QoS and reason.",
		byQoSAndDropReason(func(l *Loop) *[numQoS][NumDropReasons]Counter { return &l.MessagesDropped }),
	},
	{
		"loopmq_queue_messages_delivered_total", TypeCounter, "qos",
		"Queued messages sent for the first time, by effective QoS.",
		byQoS(func(l *Loop) *[numQoS]Counter { return &l.QueueDelivered }),
	},
	{
		"loopmq_queue_messages_dropped_total", TypeCounter, "qos,reason",
		"Queued messages removed without having been sent, by effective QoS and reason.",
		byQoSAndDropReason(func(l *Loop) *[numQoS][NumDropReasons]Counter { return &l.QueueDropped }),
	},
	{
		"loopmq_messages_acked_total", TypeCounter, "",
		"Messages whose delivery the subscriber completed with PUBACK or PUBCOMP.",
		single(func(l *Loop) *Counter { return &l.MessagesAcked }),
	},
	{
		"loopmq_events_recorded_total", TypeCounter, "event",
		"Events to be put into outboxes, once for each endpoint, by kind.",
		func(s *Set, name string) {
			for k, event := range eventNames {
				s.sumLoops(fmt.Sprintf("%s{event=%q}", name, event), func(l *Loop) *Counter { return &l.EventsRecorded[k] })
			}
		},
	},
	{
		"loopmq_events_dropped_total", TypeCounter, "reason",
		"Events of loopmq_events_recorded_total that did not come into their outbox, by reason.",
		func(s *Set, name string) {
			for r, reason := range eventDropReasons {
				s.sumLoops(fmt.Sprintf("%s{reason=%q}", name, reason), func(l *Loop) *Counter { return &l.EventsDropped[r] })
			}
		},
	},
	{
		namePublishToDeliver, TypeHistogram, "",
		"Time from receiving a PUBLISH to writing it to the output of a subscriber, for one in " +
			strconv.Itoa(SampleEvery) + " deliveries.", nil,
	},
	{
		"loopmq_sessions", TypeGauge, "",
		"Sessions, with and without a connection.", nil,
	},
	{
		"loopmq_sessions_created_total", TypeCounter, "",
		"Sessions that began.",
		once(func(s *Set, c *Count) { s.SessionsCreated = c }),
	},
	{
		"loopmq_sessions_expired_total", TypeCounter, "",
		"Sessions that ended because their session expiry interval passed.",
		once(func(s *Set, c *Count) { s.SessionsExpired = c }),
	},
	{
		"loopmq_connections_unclaimed_total", TypeCounter, "",
		"Connections accepted while the store that nodes share could not be reached.",
		once(func(s *Set, c *Count) { s.ConnectionsUnclaimed = c }),
	},
	{
		"loopmq_wills_published_total", TypeCounter, "",
		"Will messages published.",
		once(func(s *Set, c *Count) { s.WillsPublished = c }),
	},
	{
		"loopmq_retained_refused_total", TypeCounter, "",
		"Messages passed on but not retained, because the retained messages are at their bound.",
		once(func(s *Set, c *Count) { s.RetainedRefused = c }),
	},
	{
		"loopmq_subscriptions", TypeGauge, "",
		"Subscriptions of all sessions.", nil,
	},
	{
		"loopmq_subscriptions_refused_total", TypeCounter, "scope",
		"Topic Filters refused for a limit on subscriptions: client, of the session; node, of all.",
		byScope(func(s *Set) *[NumScopes]*Count { return &s.SubscriptionsRefused }, ScopeClient, ScopeNode),
	},
	{
		"loopmq_retained_messages", TypeGauge, "",
		"Retained messages.", nil,
	},
	{
		"loopmq_retained_bytes", TypeGauge, "",
		"Bytes that retained messages take.", nil,
	},
	{
		"loopmq_inflight_messages", TypeGauge, "",
		"QoS 1 and 2 messages sent to subscribers and not yet completed.",
		single(func(l *Loop) *Counter { return &l.Inflight }),
	},
	{
		"loopmq_queued_messages", TypeGauge, "",
		"Messages in queues that were neither sent nor dropped yet, and those that the store held at the start and this process has not seen to.", nil,
	},
	{
		"loopmq_mailbox_messages", TypeGauge, "loop",
		"Batches of deliveries waiting in the mailbox of an event loop.", nil,
	},
	{
		"loopmq_loop_connections", TypeGauge, "loop",
		"Open network connections of an event loop.", nil,
	},
	{
		"loopmq_loop_lag_seconds", TypeGauge, "loop",
		"How long an event loop took to answer when it was last asked, once a second.", nil,
	},
}

var familyByName = func() map[string]*Family {
	m := make(map[string]*Family, len(families))
	for i := range families {
		m[families[i].Name] = &families[i]
	}
	return m
}()

// Families returns the list of all metrics that begin with loopmq_, for
// documentation. Metrics of the process and the Go runtime aren't in it.
func Families() []Family { return slices.Clone(families) }

// familyOf returns the name of the family of a line: those of a histogram have more.
func familyOf(name string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && familyByName[base] != nil && familyByName[base].Type == TypeHistogram {
			return base
		}
	}
	return name
}

func (f *Family) appendHeader(out []byte) []byte {
	return fmt.Appendf(out, "# HELP %s %s\n# TYPE %s %s\n", f.Name, f.Help, f.Name, f.Type)
}

func once(field func(s *Set, c *Count)) func(*Set, string) {
	return func(s *Set, name string) { field(s, s.vm.NewCounter(name)) }
}

// byScope registers counters for the scopes given, or for all.
func byScope(counters func(s *Set) *[NumScopes]*Count, some ...Scope) func(*Set, string) {
	if len(some) == 0 {
		some = []Scope{ScopeClient, ScopeAddress, ScopeListener, ScopeNode}
	}
	return func(s *Set, name string) {
		for _, scope := range some {
			counters(s)[scope] = s.vm.NewCounter(fmt.Sprintf("%s{scope=%q}", name, scope.String()))
		}
	}
}

func single(counter func(l *Loop) *Counter) func(*Set, string) {
	return func(s *Set, name string) { s.sumLoops(name, counter) }
}

func byQoS(counters func(l *Loop) *[numQoS]Counter) func(*Set, string) {
	return func(s *Set, name string) {
		for q := range numQoS {
			s.sumLoops(fmt.Sprintf(`%s{qos="%d"}`, name, q), func(l *Loop) *Counter { return &counters(l)[q] })
		}
	}
}

func byQoSAndDropReason(counters func(l *Loop) *[numQoS][NumDropReasons]Counter) func(*Set, string) {
	return func(s *Set, name string) {
		for q := range numQoS {
			for r, reason := range dropReasons {
				s.sumLoops(fmt.Sprintf(`%s{qos="%d",reason=%q}`, name, q, reason),
					func(l *Loop) *Counter { return &counters(l)[q][r] })
			}
		}
	}
}

func byPacketType(counters func(l *Loop) *[numPacketTypes]Counter) func(*Set, string) {
	return func(s *Set, name string) {
		for t := 1; t < numPacketTypes; t++ {
			s.sumLoops(fmt.Sprintf("%s{type=%q}", name, packetTypes[t]), func(l *Loop) *Counter { return &counters(l)[t] })
		}
	}
}

// sumLoops registers a counter that is summed over the loops for each scrape.
// To the library it is a gauge, since its counters can't ask; appendDescribed
// writes the right type. A float64 holds it exactly up to 2^53.
func (s *Set) sumLoops(name string, counter func(l *Loop) *Counter) {
	s.vm.NewGauge(name, func() float64 {
		return float64(s.Sum(func(l *Loop) uint64 { return counter(l).Load() }))
	})
}
