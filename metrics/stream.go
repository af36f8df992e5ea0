package metrics

import "fmt"

// StreamEnd says why an answer to GET /subscribe ended.
type StreamEnd uint8

// The ends of a stream. Each is a value of the label `reason`.
const (
	// StreamLeft: the client closed its connection, or it was lost.
	StreamLeft StreamEnd = iota
	// StreamSlow: the client did not read for too long.
	StreamSlow
	// StreamWindow: so much was unacknowledged that the client is to come back.
	StreamWindow
	// StreamTakenOver: another stream has the session.
	StreamTakenOver
	// StreamNotAuthorized: the identity has expired, or was banned.
	StreamNotAuthorized
	// StreamAdministrative: an operator, or the application, asked for it.
	StreamAdministrative
	// StreamShutdown: the broker is stopping.
	StreamShutdown
	// StreamFailed: an error of the broker or its store.
	StreamFailed

	// NumStreamEnds is the number of reasons.
	NumStreamEnds = int(iota)
)

var streamEnds = [NumStreamEnds]string{
	StreamLeft:           "left",
	StreamSlow:           "slow",
	StreamWindow:         "window_full",
	StreamTakenOver:      "taken_over",
	StreamNotAuthorized:  "not_authorized",
	StreamAdministrative: "administrative",
	StreamShutdown:       "server_shutdown",
	StreamFailed:         "internal_error",
}

// String returns the value of the label, such as "slow". It doesn't allocate.
func (e StreamEnd) String() string { return label(streamEnds[:], uint8(e)) }

// streamFamilies are the names of what server-sent events and requests with a reply
// count.
var streamFamilies = []Family{
	{
		"loopmq_http_streams", TypeGauge, "",
		"Streams of server-sent events that are open.",
		once(func(s *Set, c *Count) { s.HTTPStreams = c }),
	},
	{
		"loopmq_http_streams_ended_total", TypeCounter, "reason",
		"Streams of server-sent events that ended, by reason.",
		func(s *Set, name string) {
			for e := range s.StreamsEnded {
				s.StreamsEnded[e] = s.vm.NewCounter(fmt.Sprintf("%s{reason=%q}", name, StreamEnd(e)))
			}
		},
	},
	{
		"loopmq_http_stream_events_total", TypeCounter, "",
		"Messages written as server-sent events, those that were sent again included.",
		once(func(s *Set, c *Count) { s.StreamEvents = c }),
	},
	{
		"loopmq_http_replies_awaited", TypeGauge, "",
		"Requests that wait for the reply of a device.",
		once(func(s *Set, c *Count) { s.RepliesAwaited = c }),
	},
	{
		"loopmq_http_replies_ignored_total", TypeCounter, "",
		"Replies that came too late, or without the Correlation Data of a request.",
		once(func(s *Set, c *Count) { s.RepliesIgnored = c }),
	},
}
