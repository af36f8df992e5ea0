package loadtest

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

var (
	baseTime = time.Now()
	baseUnix = baseTime.UnixNano()
)

// now returns nanoseconds of Unix time by the monotonic clock, so that processes on one machine agree.
func now() int64 { return baseUnix + int64(time.Since(baseTime)) }

// counts are what a loop counts between two looks at it.
type counts struct {
	sent, acknowledged   uint64
	expected, delivered  uint64
	connects, reconnects uint64
	disconnects          uint64
	retained             uint64
	errors               uint64
	bytesIn, bytesOut    uint64
	calls                uint64

	publishAck, deliver, connect, reply, delay *hdrhistogram.Histogram
}

func newCounts() *counts {
	return &counts{
		publishAck: newHistogram(), deliver: newHistogram(), connect: newHistogram(), reply: newHistogram(), delay: newHistogram(),
	}
}

// add adds what another has, and empties it.
func (c *counts) add(o *counts) {
	c.sent += o.sent
	c.acknowledged += o.acknowledged
	c.expected += o.expected
	c.delivered += o.delivered
	c.connects += o.connects
	c.reconnects += o.reconnects
	c.disconnects += o.disconnects
	c.retained += o.retained
	c.errors += o.errors
	c.bytesIn += o.bytesIn
	c.bytesOut += o.bytesOut
	c.calls += o.calls
	c.addLatencies(o)
	o.clear()
}

// clear empties the counts.
func (c *counts) clear() {
	for _, h := range c.histograms() {
		if h.TotalCount() > 0 {
			h.Reset()
		}
	}
	*c = counts{publishAck: c.publishAck, deliver: c.deliver, connect: c.connect, reply: c.reply, delay: c.delay}
}

// totals are the counts as a result has them.
func (c *counts) totals() Totals {
	return Totals{
		Sent: c.sent, Acknowledged: c.acknowledged, Expected: c.expected, Delivered: c.delivered, Connects: c.connects,
		Reconnects: c.reconnects, Disconnects: c.disconnects, Retained: c.retained, BytesOut: c.bytesOut, BytesIn: c.bytesIn,
	}
}

// addLatencies adds the latencies of another.
func (c *counts) addLatencies(o *counts) {
	to := c.histograms()
	for i, h := range o.histograms() {
		if h.TotalCount() > 0 {
			to[i].Merge(h)
		}
	}
}

func (c *counts) histograms() [5]*hdrhistogram.Histogram {
	return [5]*hdrhistogram.Histogram{c.publishAck, c.deliver, c.connect, c.reply, c.delay}
}

// latencyNames are the names of counts.histograms.
var latencyNames = [5]string{PublishAck, Deliver, Connect, RetainedReply, SendDelay}
