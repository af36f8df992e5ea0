package metrics

import "fmt"

// CoAPReason says why a CoAP request was refused.
type CoAPReason uint8

// The reasons. Each is a value of the label `reason`.
const (
	// CoAPBadRequest: the request, or the message that it is to be, is not valid.
	CoAPBadRequest CoAPReason = iota
	// CoAPCredentials: none, where they are needed, or wrong ones.
	CoAPCredentials
	// CoAPBadOption: an option that can't be ignored isn't known.
	CoAPBadOption
	// CoAPNotAuthorized: the Authorizer doesn't allow it, or the client is banned.
	CoAPNotAuthorized
	// CoAPNotFound: there is no such path, or no retained message.
	CoAPNotFound
	// CoAPMethod: the path doesn't have this method.
	CoAPMethod
	// CoAPNotAcceptable: what there is has another Content-Format than is accepted.
	CoAPNotAcceptable
	// CoAPIncomplete: a block comes without those before it.
	CoAPIncomplete
	// CoAPTooLarge: the body or the message is above its limit.
	CoAPTooLarge
	// CoAPMediaType: the Content-Format isn't known.
	CoAPMediaType
	// CoAPRate: more came than is allowed in the time, or at one time.
	CoAPRate
	// CoAPBusy: too much was under way.
	CoAPBusy
	// CoAPUnavailable: the broker is stopping, or its store did not take a message.
	CoAPUnavailable
	// CoAPInternal: an error of the broker.
	CoAPInternal

	// NumCoAPReasons is the number of reasons.
	NumCoAPReasons = int(iota)
)

var coapReasons = [NumCoAPReasons]string{
	CoAPBadRequest:    "bad_request",
	CoAPCredentials:   "credentials",
	CoAPBadOption:     "bad_option",
	CoAPNotAuthorized: "not_authorized",
	CoAPNotFound:      "not_found",
	CoAPMethod:        "method",
	CoAPNotAcceptable: "not_acceptable",
	CoAPIncomplete:    "incomplete",
	CoAPTooLarge:      "too_large",
	CoAPMediaType:     "media_type",
	CoAPRate:          "rate",
	CoAPBusy:          "busy",
	CoAPUnavailable:   "unavailable",
	CoAPInternal:      "internal",
}

// String returns the value of the label, such as "rate". It doesn't allocate.
func (r CoAPReason) String() string { return label(coapReasons[:], uint8(r)) }

// CoAPIgnored says why a datagram got no answer, or an answer wasn't sent.
type CoAPIgnored uint8

// The reasons. Each is a value of the label `reason`.
const (
	// CoAPMalformed: it is no message of CoAP.
	CoAPMalformed CoAPIgnored = iota
	// CoAPPeers: there are as many peers as there may be.
	CoAPPeers
	// CoAPAddress: there are too many peers at the address.
	CoAPAddress
	// CoAPUnverified: the answer is larger than what may be sent to an address that
	// may be forged.
	CoAPUnverified
	// CoAPHandshake: a DTLS handshake failed, or took too long.
	CoAPHandshake

	// NumCoAPIgnored is the number of reasons.
	NumCoAPIgnored = int(iota)
)

var coapIgnored = [NumCoAPIgnored]string{
	CoAPMalformed: "malformed", CoAPPeers: "peers", CoAPAddress: "address", CoAPUnverified: "unverified", CoAPHandshake: "handshake",
}

// String returns the value of the label, such as "peers". It doesn't allocate.
func (r CoAPIgnored) String() string { return label(coapIgnored[:], uint8(r)) }

// CoAPEnd says why an observation ended.
type CoAPEnd uint8

// The ends of an observation. Each is a value of the label `reason`.
const (
	// CoAPCancelled: the client doesn't want to know any more.
	CoAPCancelled CoAPEnd = iota
	// CoAPReset: the client doesn't know what it was told of.
	CoAPReset
	// CoAPUnanswered: the client acknowledged nothing.
	CoAPUnanswered
	// CoAPDisconnected: the session ended, or its connection.
	CoAPDisconnected

	// NumCoAPEnds is the number of reasons.
	NumCoAPEnds = int(iota)
)

var coapEnds = [NumCoAPEnds]string{
	CoAPCancelled: "cancelled", CoAPReset: "reset", CoAPUnanswered: "unanswered", CoAPDisconnected: "disconnected",
}

// String returns the value of the label, such as "reset". It doesn't allocate.
func (e CoAPEnd) String() string { return label(coapEnds[:], uint8(e)) }

// coapFamilies are the names of what the CoAP listeners count.
var coapFamilies = []Family{
	{
		"loopmq_coap_requests_total", TypeCounter, "",
		"CoAP requests, repetitions not counted; loopmq_coap_refused_total has those of them that were refused.",
		once(func(s *Set, c *Count) { s.CoAPRequests = c }),
	},
	{
		"loopmq_coap_refused_total", TypeCounter, "reason",
		"CoAP requests that were refused, by reason.",
		func(s *Set, name string) {
			for r := range s.CoAPRefused {
				s.CoAPRefused[r] = s.vm.NewCounter(fmt.Sprintf("%s{reason=%q}", name, CoAPReason(r)))
			}
		},
	},
	{
		"loopmq_coap_duplicates_total", TypeCounter, "",
		"CoAP requests that came again with the same Message ID.",
		once(func(s *Set, c *Count) { s.CoAPDuplicates = c }),
	},
	{
		"loopmq_coap_ignored_total", TypeCounter, "reason",
		"CoAP datagrams that were ignored, or answers that were not sent, by reason.",
		func(s *Set, name string) {
			for r := range s.CoAPIgnored {
				s.CoAPIgnored[r] = s.vm.NewCounter(fmt.Sprintf("%s{reason=%q}", name, CoAPIgnored(r)))
			}
		},
	},
	{
		"loopmq_coap_peers", TypeGauge, "",
		"Addresses that have sent a CoAP request, and are known still.",
		once(func(s *Set, c *Count) { s.CoAPPeers = c }),
	},
	{
		"loopmq_coap_connections", TypeGauge, "",
		"Connections of CoAP clients that asked for one.",
		once(func(s *Set, c *Count) { s.CoAPConnections = c }),
	},
	{
		"loopmq_coap_observations", TypeGauge, "",
		"Topic Filters that CoAP clients observe.",
		once(func(s *Set, c *Count) { s.CoAPObservations = c }),
	},
	{
		"loopmq_coap_observations_ended_total", TypeCounter, "reason",
		"Observations that ended, by reason.",
		func(s *Set, name string) {
			for e := range s.CoAPEnded {
				s.CoAPEnded[e] = s.vm.NewCounter(fmt.Sprintf("%s{reason=%q}", name, CoAPEnd(e)))
			}
		},
	},
	{
		"loopmq_coap_notifications_total", TypeCounter, "",
		"Messages sent to observers, retransmissions not counted.",
		once(func(s *Set, c *Count) { s.CoAPNotifications = c }),
	},
	{
		"loopmq_coap_notifications_dropped_total", TypeCounter, "",
		"QoS 0 messages that an observer's queue had no room for, and messages of a session that nobody observed in time.",
		once(func(s *Set, c *Count) { s.CoAPDropped = c }),
	},
	{
		"loopmq_coap_retransmissions_total", TypeCounter, "",
		"CoAP messages sent again, since they were not acknowledged.",
		once(func(s *Set, c *Count) { s.CoAPRetransmissions = c }),
	},
}
