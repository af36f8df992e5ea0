package chaos

import (
	"reflect"
	"strings"
	"testing"
)

// What goes wrong shows, and what MQTT allows doesn't.
func TestLedger(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		qos      byte
		received []int
		want     string // of the error
		doubled  int
	}{
		"all":           {1, []int{1, 2, 3}, "", 0},
		"again":         {1, []int{1, 2, 1, 2, 3}, "", 2},
		"lost":          {1, []int{1, 3}, "lost: 1 messages (p to s: 2)", 0},
		"order":         {1, []int{1, 3, 2}, "out of order: 1 messages (p to s: 2)", 0},
		"twice":         {2, []int{1, 2, 2, 3}, "QoS 2 more than once: 1 messages (p to s: 2, 2 times)", 0},
		"nothing":       {2, nil, "lost: 3 messages", 0},
		"without ack":   {1, []int{1, 2, 3, 4}, "", 0},
		"lost and late": {1, []int{3, 1}, "lost: 1 messages (p to s: 2)\nout of order: 1", 0},
	} {
		var l Ledger
		l.Expect("s")
		for seq := 1; seq <= 4; seq++ {
			l.Sent("p", seq, c.qos)
		}
		for seq := 1; seq <= 3; seq++ {
			l.Acked("p", seq)
		}
		for _, seq := range c.received {
			l.Received("s", "p", seq)
		}
		r := l.Check()
		if err := r.Err(); (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		got := []int{r.Sent, r.Acked, r.Pending, r.Received, r.Doubled}
		if want := []int{4, 3, 1, len(c.received), c.doubled}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v in %s", name, got, want, r.String())
		}
	}
}
