package loopmq

import (
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"

	"loopmq/store/memory"
)

// A cursor comes from whoever uses the admin API.
func FuzzSubscriptionCursor(f *testing.F) {
	for _, s := range []string{"", "1:ab", "3:a/b$share/g/#", "-1:", "0:", "9:a", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseSubscriptionCursor(s)
		if err != nil {
			if !errors.Is(err, ErrCursor) {
				t.Error(err)
			}
			return
		}
		if s != "" {
			if again, err := parseSubscriptionCursor(c.String()); err != nil || again != c {
				t.Errorf("%q came back as %+v, %v; want %+v", s, again, err, c)
			}
		}
	})
}

// A question comes from another node, which may be of another version: whatever it is, there is an answer that can be read.
func FuzzAsked(f *testing.F) {
	b, err := New(Options{Store: memory.New(memory.Options{})})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"", "{}", `{"undrain":true}`, `{"drain":{"Rate":-1}}`, `{"drain_by_own":true}`, `{"subscriptions":{"Clients":[{"ClientID":"a","After":"b"}]}}`, `{"later":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, question []byte) {
		answer := node{&cluster{b: b}}.Asked(question)
		var fields map[string]any
		if err := json.Unmarshal(answer, &fields); err != nil || !utf8.Valid(answer) {
			t.Errorf("%q is answered by %q: %v", question, answer, err)
		}
	})
}
