package metrics

import "fmt"

// HTTPReason says why a request to the HTTP listener was refused.
type HTTPReason uint8

// The reasons. Each is a value of the label `reason`.
const (
	// HTTPBadRequest: the request, or a message in it, is not valid.
	HTTPBadRequest HTTPReason = iota
	// HTTPCredentials: none, where they are needed, or wrong ones.
	HTTPCredentials
	// HTTPNotAuthorized: the Authorizer doesn't allow it, or the client is banned.
	HTTPNotAuthorized
	// HTTPHost: a Host header that isn't the listener's, as when a page of another
	// site has its own name resolve to a loopback address.
	HTTPHost
	// HTTPOrigin: a page of a site that isn't listed.
	HTTPOrigin
	// HTTPNotFound: there is no such path, or no retained message.
	HTTPNotFound
	// HTTPMethod: the path doesn't have this method.
	HTTPMethod
	// HTTPKeyInUse: a request with the same Idempotency-Key is under way.
	HTTPKeyInUse
	// HTTPKeyReused: an Idempotency-Key came before with another request.
	HTTPKeyReused
	// HTTPConflict: the request doesn't go with what is there, such as a session that is
	// in use.
	HTTPConflict
	// HTTPTooLarge: the body, a message, or the number of messages is above its limit.
	HTTPTooLarge
	// HTTPMediaType: the body is of a type that isn't understood.
	HTTPMediaType
	// HTTPRate: more came than is allowed in the time.
	HTTPRate
	// HTTPBusy: too many requests, or bytes of bodies, were under way.
	HTTPBusy
	// HTTPUnavailable: the broker is stopping, or its store did not take a message.
	HTTPUnavailable
	// HTTPNoReply: nobody replied in time.
	HTTPNoReply
	// HTTPInternal: an error of the broker.
	HTTPInternal

	// NumHTTPReasons is the number of reasons.
	NumHTTPReasons = int(iota)
)

var httpReasons = [NumHTTPReasons]string{
	HTTPBadRequest:    "bad_request",
	HTTPCredentials:   "credentials",
	HTTPNotAuthorized: "not_authorized",
	HTTPHost:          "host",
	HTTPOrigin:        "origin",
	HTTPNotFound:      "not_found",
	HTTPMethod:        "method",
	HTTPKeyInUse:      "key_in_use",
	HTTPKeyReused:     "key_reused",
	HTTPConflict:      "conflict",
	HTTPTooLarge:      "too_large",
	HTTPMediaType:     "media_type",
	HTTPRate:          "rate",
	HTTPBusy:          "busy",
	HTTPUnavailable:   "unavailable",
	HTTPNoReply:       "no_reply",
	HTTPInternal:      "internal",
}

// String returns the value of the label, such as "rate". It doesn't allocate.
func (r HTTPReason) String() string { return label(httpReasons[:], uint8(r)) }

// httpFamilies are the names of what the HTTP listener counts.
var httpFamilies = []Family{
	{
		"loopmq_http_requests_total", TypeCounter, "",
		"Requests to the HTTP listener; loopmq_http_refused_total has those of them that were refused.",
		once(func(s *Set, c *Count) { s.HTTPRequests = c }),
	},
	{
		"loopmq_http_refused_total", TypeCounter, "reason",
		"Requests to the HTTP listener that were refused, by reason.",
		func(s *Set, name string) {
			for r := range s.HTTPRefused {
				s.HTTPRefused[r] = s.vm.NewCounter(fmt.Sprintf("%s{reason=%q}", name, HTTPReason(r)))
			}
		},
	},
	{
		"loopmq_http_requests_under_way", TypeGauge, "",
		"Requests to the HTTP listener that are being answered.",
		once(func(s *Set, c *Count) { s.HTTPUnderWay = c }),
	},
	{
		"loopmq_http_identities", TypeGauge, "",
		"Identities that the HTTP listener knows without asking again.",
		once(func(s *Set, c *Count) { s.HTTPIdentities = c }),
	},
}
