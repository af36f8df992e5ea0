package metrics

import (
	"fmt"
	"sync/atomic"
	"time"
)

// WebhookResult is what came of a request to an endpoint of webhooks.
type WebhookResult uint8

// The results. Each is a value of the label `result`.
const (
	// Webhook2xx to Webhook5xx: the class of the answer's status.
	Webhook2xx WebhookResult = iota
	Webhook3xx
	Webhook4xx
	Webhook5xx
	// WebhookTimeout: no whole answer in time.
	WebhookTimeout
	// WebhookUnreachable: no connection, or it broke, or what came isn't HTTP.
	WebhookUnreachable
	// WebhookAddress: the address isn't one that requests may go to.
	WebhookAddress
	// WebhookUnsent: there is no request to be made of the events.
	WebhookUnsent

	// NumWebhookResults is the number of results.
	NumWebhookResults = int(iota)
)

var webhookResults = [NumWebhookResults]string{
	Webhook2xx:         "2xx",
	Webhook3xx:         "3xx",
	Webhook4xx:         "4xx",
	Webhook5xx:         "5xx",
	WebhookTimeout:     "timeout",
	WebhookUnreachable: "unreachable",
	WebhookAddress:     "address_refused",
	WebhookUnsent:      "no_request",
}

// String returns the value of the label, such as "timeout". It doesn't allocate.
func (r WebhookResult) String() string { return label(webhookResults[:], uint8(r)) }

// WebhookStatus returns the result of an answer by its status.
func WebhookStatus(status int) WebhookResult {
	switch status / 100 {
	case 2:
		return Webhook2xx
	case 3:
		return Webhook3xx
	case 4:
		return Webhook4xx
	case 5:
		return Webhook5xx
	}
	return WebhookUnreachable
}

// Webhook holds the metrics of one endpoint of webhooks.
type Webhook struct {
	// Requests counts requests by what came of them, Retries those that were not the
	// first with their events, and Seconds times them.
	Requests [NumWebhookResults]*Count
	Retries  *Count
	Seconds  *Duration
	// BreakersOpened counts times that the endpoint was left alone because it failed too
	// often.
	BreakersOpened *Count
	// RepliesFailed counts answers that could not be published.
	RepliesFailed *Count
	// Lag is how long after its event the last successful request ended.
	Lag atomic.Int64 // nanoseconds
	// Open is whether it is left alone.
	Open atomic.Bool
	// Outbox is what the endpoint's outbox held when it was last asked.
	Outbox atomic.Pointer[WebhookOutbox]
}

// WebhookOutbox is what the outbox of an endpoint holds: Matched = Delivered + Queued + InFlight + Dead + Dropped.
type WebhookOutbox struct {
	Matched, Delivered, Queued, InFlight, Dead, Dropped uint64
	Bytes                                               uint64
	Oldest                                              time.Time // zero: there is none
	Disabled                                            bool
}

// Names of webhooks.
const (
	nameWebhookRequests = "loopmq_webhook_requests_total"
	nameWebhookRetries  = "loopmq_webhook_retries_total"
	nameWebhookSeconds  = "loopmq_webhook_request_seconds"
	nameWebhookOpened   = "loopmq_webhook_breakers_opened_total"
	nameWebhookReplies  = "loopmq_webhook_replies_failed_total"
)

// webhookGauges are asked for when somebody scrapes.
var webhookGauges = []struct {
	Family
	value func(w *Webhook, o *WebhookOutbox) float64
}{
	{
		Family{"loopmq_webhook_events_matched_total", TypeCounter, "endpoint", "Events for an endpoint, of all nodes: the sum of delivered, queued, in flight, dead and dropped.", nil},
		func(_ *Webhook, o *WebhookOutbox) float64 { return float64(o.Matched) },
	},
	{
		Family{"loopmq_webhook_events_delivered_total", TypeCounter, "endpoint", "Events that an endpoint has taken, of all nodes.", nil},
		func(_ *Webhook, o *WebhookOutbox) float64 { return float64(o.Delivered) },
	},
	{
		Family{"loopmq_webhook_events_queued", TypeGauge, "endpoint", "Events in the outbox of an endpoint that no node has taken yet.", nil},
		func(_ *Webhook, o *WebhookOutbox) float64 { return float64(o.Queued) },
	},
	{
		Family{"loopmq_webhook_events_in_flight", TypeGauge, "endpoint", "Events of an endpoint that a node has taken and not finished, of all nodes.", nil},
		func(_ *Webhook, o *WebhookOutbox) float64 { return float64(o.InFlight) },
	},
	{
		Family{"loopmq_webhook_events_dead", TypeGauge, "endpoint", "Dead letters of an endpoint.", nil},
		func(_ *Webhook, o *WebhookOutbox) float64 { return float64(o.Dead) },
	},
	{
		Family{"loopmq_webhook_events_dropped_total", TypeCounter, "endpoint", "Events that found an outbox full, and dead letters that had to go, of all nodes.", nil},
		func(_ *Webhook, o *WebhookOutbox) float64 { return float64(o.Dropped) },
	},
	{
		Family{"loopmq_webhook_outbox_bytes", TypeGauge, "endpoint", "Bytes of events that are queued or in flight.", nil},
		func(_ *Webhook, o *WebhookOutbox) float64 { return float64(o.Bytes) },
	},
	{
		Family{"loopmq_webhook_oldest_seconds", TypeGauge, "endpoint", "Age of the oldest event that is queued or in flight.", nil},
		func(_ *Webhook, o *WebhookOutbox) float64 {
			if o.Oldest.IsZero() {
				return 0
			}
			return max(0, time.Since(o.Oldest).Seconds())
		},
	},
	{
		Family{"loopmq_webhook_lag_seconds", TypeGauge, "endpoint", "Time from an event to the end of the last request of this node that delivered one.", nil},
		func(w *Webhook, _ *WebhookOutbox) float64 { return time.Duration(w.Lag.Load()).Seconds() },
	},
	{
		Family{"loopmq_webhook_breaker_open", TypeGauge, "endpoint", "1 while this node leaves an endpoint alone because it failed too often.", nil},
		func(w *Webhook, _ *WebhookOutbox) float64 { return oneIf(w.Open.Load()) },
	},
	{
		Family{"loopmq_webhook_disabled", TypeGauge, "endpoint", "1 while nothing is sent to an endpoint, because it answered 410 or an operator said so.", nil},
		func(_ *Webhook, o *WebhookOutbox) float64 { return oneIf(o.Disabled) },
	},
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// webhookFamilies are the names of webhooks.
var webhookFamilies = func() []Family {
	all := []Family{
		{nameWebhookRequests, TypeCounter, "endpoint,result", "Requests to an endpoint of webhooks, by what came of them.", nil},
		{nameWebhookRetries, TypeCounter, "endpoint", "Requests with events that had been tried before.", nil},
		{nameWebhookSeconds, TypeHistogram, "endpoint", "Time that requests to an endpoint took.", nil},
		{nameWebhookOpened, TypeCounter, "endpoint", "Times that an endpoint failed so often that it was left alone for a while.", nil},
		{nameWebhookReplies, TypeCounter, "endpoint", "Answers of an endpoint that could not be published to the Response Topic.", nil},
	}
	for _, g := range webhookGauges {
		all = append(all, g.Family)
	}
	return all
}()

// Webhook registers the metrics of an endpoint of webhooks, until RemoveWebhook. There must not be two with one name.
func (s *Set) Webhook(endpoint string) *Webhook {
	w := &Webhook{}
	w.Outbox.Store(&WebhookOutbox{})
	for r := range w.Requests {
		w.Requests[r] = s.vm.NewCounter(fmt.Sprintf("%s{endpoint=%q,result=%q}", nameWebhookRequests, endpoint, WebhookResult(r)))
	}
	w.Retries = s.vm.NewCounter(webhookName(nameWebhookRetries, endpoint))
	w.Seconds = s.vm.NewPrometheusHistogramExt(webhookName(nameWebhookSeconds, endpoint), httpBounds)
	w.BreakersOpened = s.vm.NewCounter(webhookName(nameWebhookOpened, endpoint))
	w.RepliesFailed = s.vm.NewCounter(webhookName(nameWebhookReplies, endpoint))
	for _, g := range webhookGauges {
		s.vm.NewGauge(webhookName(g.Name, endpoint), func() float64 { return g.value(w, w.Outbox.Load()) })
	}
	return w
}

// RemoveWebhook ends what Webhook began.
func (s *Set) RemoveWebhook(endpoint string) {
	for r := range NumWebhookResults {
		s.vm.UnregisterMetric(fmt.Sprintf("%s{endpoint=%q,result=%q}", nameWebhookRequests, endpoint, WebhookResult(r)))
	}
	for _, f := range webhookFamilies {
		s.vm.UnregisterMetric(webhookName(f.Name, endpoint))
	}
}

func webhookName(name, endpoint string) string { return fmt.Sprintf("%s{endpoint=%q}", name, endpoint) }
