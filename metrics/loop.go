package metrics

import "time"

// numPacketTypes is the number of values of the 4 bits that hold the packet
// type; 0 is reserved and isn't exported. [MQTT-2.1.2]
const numPacketTypes = 16

// numQoS is the number of QoS levels.
const numQoS = 3

// Loop holds the counters that one event loop increments for each packet or
// message. Only that loop may write them; whoever scrapes reads them meanwhile.
// Work that runs elsewhere counts when its result is back on a loop.
type Loop struct {
	// Two cache lines, since processors fetch them in pairs, keep neighbours apart.
	_ [128]byte

	// PacketsReceived and PacketsSent count MQTT Control Packets by packet type
	// (1 is CONNECT, 15 is AUTH). Sent means written to a connection's output.
	PacketsReceived, PacketsSent [numPacketTypes]Counter
	// Inflight is the number of QoS 1 and 2 messages that were sent and are not
	// completed: what is taken off is added as its complement.
	Inflight Counter

	// MessagesReceived counts the messages that were published to the Broker, by
	// QoS and from whatever source. A QoS 2 duplicate isn't a message.
	MessagesReceived [numQoS]Counter
	// MessagesMatched, MessagesDelivered, MessagesQueued and MessagesDropped
	// count matches and their outcomes by effective QoS. The package comment says
	// how they add up.
	MessagesMatched, MessagesDelivered, MessagesQueued, MessagesForwarded [numQoS]Counter
	MessagesDropped                                                       [numQoS][NumDropReasons]Counter
	// QueueDelivered and QueueDropped count what became of messages that had been
	// in MessagesQueued: sent for the first time, or removed without.
	QueueDelivered [numQoS]Counter
	QueueDropped   [numQoS][NumDropReasons]Counter
	// MessagesAcked counts messages whose delivery the subscriber completed, with
	// PUBACK or PUBCOMP.
	MessagesAcked Counter

	// EventsRecorded counts what was to go into outboxes, by the kind of event, and
	// EventsDropped what of it did not come there.
	EventsRecorded [NumEventKinds]Counter
	EventsDropped  [NumEventDropReasons]Counter

	// PublishToDeliver is the time from receiving a PUBLISH to writing it to the
	// output of a subscriber, for a sample of the deliveries.
	PublishToDeliver Histogram

	_ [128]byte
}

// SampleEvery is the number of deliveries of which one is timed. It is prime:
// with a power of two and as many subscribers, it would always be the same one's.
const SampleEvery = 61

// bucketBounds are the upper bounds of the buckets, inclusive. The last bucket,
// above them all, has none.
var bucketBounds = [...]time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	1 * time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	1 * time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

const numBuckets = len(bucketBounds) + 1

// Histogram counts durations in fixed buckets from 10 µs to 10 s. It is part of
// a [Loop] and has that loop as its only writer. A delivery costs it one
// decrement unless it is timed:
//
//	if l.PublishToDeliver.Sample() {
//		l.PublishToDeliver.Observe(now.Sub(received))
//	}
type Histogram struct {
	buckets   [numBuckets]Counter
	sumNanos  Counter
	untilNext uint32
}

// Sample reports whether this delivery is to be timed: the first is, then one
// in [SampleEvery].
func (h *Histogram) Sample() bool {
	if h.untilNext > 0 {
		h.untilNext--
		return false
	}
	h.untilNext = SampleEvery - 1
	return true
}

// Observe counts d. A negative one, which a coarse clock can produce, counts as 0.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 0)
	b := 0
	for b < len(bucketBounds) && d > bucketBounds[b] {
		b++
	}
	h.buckets[b].Inc()
	h.sumNanos.Add(uint64(d))
}
