package metrics_test

import (
	"bytes"
	"fmt"
	"strings"

	"loopmq/metrics"
)

func Example() {
	set := metrics.New(2)
	set.Gauge("loopmq_sessions", func() float64 { return 7 })

	// Each loop counts on its own.
	set.Loop(0).MessagesMatched[1].Inc()
	set.Loop(0).MessagesDelivered[1].Inc()
	set.Loop(1).MessagesMatched[1].Inc()
	set.Loop(1).MessagesDropped[1][metrics.DropQueueFull].Inc()

	var text bytes.Buffer
	set.WritePrometheus(&text)
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "loopmq_") && !strings.HasSuffix(line, " 0\n") {
			fmt.Print(line)
		}
	}
	// Output:
	// loopmq_messages_delivered_total{qos="1"} 1
	// loopmq_messages_dropped_total{qos="1",reason="queue_full"} 1
	// loopmq_messages_matched_total{qos="1"} 2
	// loopmq_sessions 7
}
