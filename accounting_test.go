package loopmq_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq"
)

// counters are what the metrics say of messages at one QoS.
type counters struct {
	matched, delivered, queued, queueDelivered float64
	dropped, queueDropped                      map[string]float64 // by reason, those that are not 0
}

// countersOf reads the counters of one QoS.
func countersOf(t testing.TB, b *loopmq.Broker, qos byte) counters {
	t.Helper()
	c := counters{dropped: map[string]float64{}, queueDropped: map[string]float64{}}
	label := fmt.Sprintf(`{qos="%d"`, qos)
	for name, v := range metricsOf(t, b) {
		family, labels, _ := strings.Cut(name, label)
		_, reason, _ := strings.Cut(labels, `reason="`)
		reason, _, _ = strings.Cut(reason, `"`)
		if labels == "" {
			continue
		}
		switch family {
		case "loopmq_messages_matched_total":
			c.matched = v
		case "loopmq_messages_delivered_total":
			c.delivered = v
		case "loopmq_messages_queued_total":
			c.queued = v
		case "loopmq_queue_messages_delivered_total":
			c.queueDelivered = v
		case "loopmq_messages_dropped_total":
			if v != 0 {
				c.dropped[reason] = v
			}
		case "loopmq_queue_messages_dropped_total":
			if v != 0 {
				c.queueDropped[reason] = v
			}
		}
	}
	return c
}

func sum(byReason map[string]float64) (total float64) {
	for _, v := range byReason {
		total += v
	}
	return total
}

// waiting is how many queued messages were neither sent nor dropped.
func (c counters) waiting() float64 { return c.queued - c.queueDelivered - sum(c.queueDropped) }

// String is for the messages of failures.
func (c counters) String() string {
	reasons := func(m map[string]float64) (s string) {
		for _, r := range slices.Sorted(maps.Keys(m)) {
			s += fmt.Sprintf(" %s %v", r, m[r])
		}
		return s
	}
	return fmt.Sprintf("matched %v = delivered %v + queued %v + dropped%s; queued = queue delivered %v + queue dropped%s + waiting %v",
		c.matched, c.delivered, c.queued, reasons(c.dropped), c.queueDelivered, reasons(c.queueDropped), c.waiting())
}

// expectCountersAddUp waits until the broker has come to rest with these many messages waiting, and checks that for each QoS every match
// has one outcome, and every queued message one end.
func expectCountersAddUp(t testing.TB, b *loopmq.Broker, waiting [3]float64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		ok, total := true, 0.0
		var seen [3]counters
		for qos := range seen {
			c := countersOf(t, b, byte(qos))
			seen[qos] = c
			total += c.waiting()
			ok = ok && c.matched == c.delivered+c.queued+sum(c.dropped) && c.waiting() == waiting[qos]
		}
		if ok && metricsOf(t, b)["loopmq_queued_messages"] == total {
			return
		}
		if time.Now().After(deadline) {
			for qos, c := range seen {
				t.Errorf("QoS %d: %v, want waiting %v", qos, c, waiting[qos])
			}
			return
		}
	}
}
