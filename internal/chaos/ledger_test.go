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
		kind     Kind
		received []int
		want     string // of the error
		doubled  int
	}{
		"all":                   {1, Durable, []int{1, 2, 3}, "", 0},
		"again":                 {1, Durable, []int{1, 2, 1, 2, 3}, "", 2},
		"lost":                  {1, Durable, []int{1, 3}, "lost: 1 messages (p to s: 2)", 0},
		"order":                 {1, Durable, []int{1, 3, 2}, "out of order: 1 messages (p to s: 2 after 3)", 0},
		"twice":                 {2, Durable, []int{1, 2, 2, 3}, "QoS 2 more than once: 1 messages (p to s: 2, 2 times)", 0},
		"nothing":               {2, Durable, nil, "lost: 3 messages", 0},
		"without ack":           {1, Durable, []int{1, 2, 3, 4}, "", 0},
		"lost and late":         {1, Durable, []int{3, 1}, "lost: 1 messages (p to s: 2)\nout of order: 1", 0},
		"never sent":            {1, Durable, []int{1, 2, 3, 7}, "never sent: 1 messages (p to s: 7)", 0},
		"refused":               {1, Durable, []int{1, 5, 2, 3}, "", 0},
		"group":                 {1, Group, []int{3, 2, 2, 1}, "", 1},
		"group, twice":          {2, Group, []int{3, 2, 2, 1}, "QoS 2 more than once", 0},
		"group, lost":           {2, Group, []int{3, 1}, "lost: 1", 0},
		"volatile":              {2, Volatile, []int{1, 3}, "", 0},
		"volatile, order":       {1, Volatile, []int{3, 1}, "out of order: 1 messages (p to s: 1 after 3)", 0},
		"volatile, sent again":  {1, Volatile, []int{2, 1, 3}, "", 0},
		"volatile, twice":       {2, Volatile, []int{1, 1}, "QoS 2 more than once", 0},
		"unordered":             {2, Unordered, []int{3, 2, 1}, "", 0},
		"unordered, not enough": {2, Unordered, []int{3, 2}, "lost: 1", 0},
	} {
		var l Ledger
		l.Expect("s", c.kind, 2)
		for seq := 1; seq <= 5; seq++ {
			l.Sent("p", seq, c.qos)
		}
		l.Again("p", 2)
		l.Refused("p", 5)
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
		got := []int{r.Sent[c.qos], r.Again[c.qos], r.Acked[c.qos], r.Refused[c.qos], r.Pending, r.Received[c.kind], r.Doubled[c.kind]}
		if want := []int{5, 1, 3, 1, 1, len(c.received), c.doubled}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v in %s", name, got, want, r.String())
		}
	}
}

// An account that begins later gets what is sent from then on.
func TestLedgerFrom(t *testing.T) {
	t.Parallel()
	var l Ledger
	l.Sent("p", 1, 1)
	l.Sent("p", 2, 1)
	l.Received("s", "p", 2) // may come before the SUBACK
	l.Expect("s", Durable, 1)
	l.Sent("p", 3, 1)
	l.Sent("p", 4, 1)
	for seq := 1; seq <= 4; seq++ {
		l.Acked("p", seq)
	}
	l.Received("s", "p", 1)
	l.Received("s", "p", 4)
	l.Received("other", "nobody", 1)
	r := l.Check()
	if got, want := r.Err().Error(), "lost: 1 messages (p to s: 3)\nnever sent: 1 messages (nobody to other)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
