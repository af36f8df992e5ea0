package redisstore

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"loopmq/store"
)

func TestMessageIsReadAsItWasWritten(t *testing.T) {
	expiry := time.UnixMilli(1_700_000_000_123)
	for _, m := range []store.Message{
		{TopicName: []byte("t"), Payload: []byte{}, Properties: []byte{}},
		{TopicName: []byte("a/b"), Payload: []byte("p\x00"), Properties: []byte{1, 2}, QoS: 2, Retain: true, Expiry: expiry, PublisherID: "me"},
		{TopicName: []byte(strings.Repeat("t", 65535)), Payload: make([]byte, 100_000), Properties: make([]byte, 70_000), QoS: 1},
	} {
		b := appendMessage(nil, &m)
		if len(b) > encodedSize(&m) {
			t.Errorf("%d bytes, but %d were expected", len(b), encodedSize(&m))
		}
		got, err := decodeMessage(string(b))
		if err != nil || !reflect.DeepEqual(*got, m) {
			t.Errorf("got %+v (%v), want %+v", got, err, m)
		}
		w := store.Will{ClientID: "c", Epoch: 5, Message: m, DelayInterval: 30, ExpirySeconds: -1, Due: expiry}
		if got, err := decodeWill("c", 5, expiry, string(encodeWill(&w))); err != nil || !reflect.DeepEqual(got, w) {
			t.Errorf("got %+v (%v), want %+v", got, err, w)
		}
		for n := range len(b) - len(m.Payload) {
			if _, err := decodeMessage(string(b[:n])); !errors.Is(err, errFormat) {
				t.Fatalf("the first %d bytes: got %v", n, err)
			}
			if n > 100 {
				break
			}
		}
	}
}

// What Redis holds may be of another version, or of somebody else.
func TestBadRecordsAreErrors(t *testing.T) {
	good := string(appendMessage(nil, message("x")))
	bad := []error{
		second(decodeMessage("")), second(decodeMessage("\x20" + good[1:])),
		second(decodeWill("c", 1, time.Time{}, "")), second(decodeWill("c", 1, time.Time{}, "x 1")), second(decodeWill("c", 1, time.Time{}, "1 \x01")),
		second(decodeLimits("1 2")),
		second(decodeEntry(streamEntry{})), second(decodeEntry(streamEntry{fields: []string{"x", good}})), second(decodeEntry(streamEntry{fields: []string{"1", ""}})),
		second(decodeEntry(streamEntry{fields: []string{"11:", good}})), second(decodeEntry(streamEntry{fields: []string{"11:\xff0:0:", good}})),
		second(decodeSubscriptions([]any{"t", ""})),
		second(decodeHint("c:1", "1", "1-1")), second(decodeHint("{c}:x", "1", "1-1")), second(decodeHint("{c}:1", "", "1-1")),
		second(decodeSession("c", []any{})), second(decodeSession("c", []any{"x", "1", "", "1", "1", "0", ""})),
		second(decodeClaimed(&store.Claim{}, nil)),
		second(decodeMoved(store.Number{}, []any{"", ""})),
	}
	for _, news := range []string{"r", "x", "m1", "m9:", "m1:x", "m0:h", "m0:x", "m0:h1:x1:11:1", "m0:g1:a", "m-1:", "mx:"} {
		_, _, err := decodeNews(news)
		bad = append(bad, err)
	}
	for i, err := range bad {
		if !errors.Is(err, errFormat) {
			t.Errorf("%d: got %v, want an error of the format", i, err)
		}
	}
	if _, err := decodeHint("{c}:1", "1", "x"); err == nil {
		t.Error("a bad number passed")
	}
	old := []any{"1", "1", "", "1", "1", "0", ""}
	reply := func(change func(r []any)) []any {
		r := []any{"2", "1", int64(1), old, []any{}, "", int64(0), nil, []any{}, []any{}, []any{}, "1-0"}
		change(r)
		return r
	}
	for what, change := range map[string]func(r []any){
		"session":       func(r []any) { r[3] = []any{"x"} },
		"Will":          func(r []any) { r[7] = "x" },
		"subscriptions": func(r []any) { r[8] = []any{"t", ""} },
		"released":      func(r []any) { r[9] = []any{"x"} },
		"held":          func(r []any) { r[10] = []any{"x"} },
		"last":          func(r []any) { r[11] = "x" },
	} {
		if _, err := decodeClaimed(&store.Claim{}, reply(change)); err == nil {
			t.Errorf("a claim with a bad %s passed", what)
		}
	}
	if _, err := decodeClaimed(&store.Claim{}, reply(func([]any) {})); err != nil {
		t.Error(err)
	}
	for _, results := range []string{"", "D", "X D1", "D Dx", "D D1:x", "D D1 D"} {
		b := store.Batch{Ops: []store.Op{publish("x", store.Session{})}}
		var a batchArgs
		if err := a.decode(t.Context(), nil, &b, []any{int64(0), "1", results, nil, []any{}, []any{}}); !errors.Is(err, errFormat) {
			t.Errorf("results %q: got %v", results, err)
		}
	}
}

func TestUnknownOperationPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	new(batchArgs).encodeOp(&store.Op{}, false)
}

func FuzzDecode(f *testing.F) {
	f.Add(string(appendMessage(nil, message("x"))))
	f.Add("m0:h5:{c}:11:15:1-100r" + "g1:a1:b")
	f.Add(string(appendDelivery(nil, 1, true, []uint32{1, 300}, "s", "t")))
	f.Add(strings.Repeat("0", 40) + "14:400 3 1000 why" + "data")
	f.Add("5 60 1 1700000000000 3:ann14:127.0.0.1:18833:tcp")
	f.Add("1700000000000 no packet within the Keep Alive")
	f.Add("1700000000000 operator scans")
	f.Fuzz(func(t *testing.T, s string) {
		_, _, _ = decodeNews(s)
		if m, err := decodeMessage(s); err == nil {
			again, err := decodeMessage(string(appendMessage(nil, m)))
			if err != nil || !reflect.DeepEqual(m, again) {
				t.Errorf("%+v came back as %+v, %v", m, again, err)
			}
		}
		var e store.Entry
		_ = decodeDelivery(&e, s)
		_, _ = decodeChange(s)
		_, _ = decodeWill("c", 1, time.Time{}, s)
		_, _ = decodeLetter(s)
		if c, err := decodeConnection(s); err == nil && s != "" {
			if again, err := decodeConnection(string(encodeConnection(&c))); err != nil || again != c {
				t.Errorf("%+v came back as %+v, %v", c, again, err)
			}
		}
		if d, err := decodeDisconnected(s); err == nil && d != nil {
			if again, err := decodeDisconnected(encodeDisconnected(*d)); err != nil || *again != *d {
				t.Errorf("%+v came back as %+v, %v", d, again, err)
			}
		}
		if b, err := decodeBan("kind/value", s); err == nil {
			if again, err := decodeBan("kind/value", encodeBan(&b)); err != nil || again != b {
				t.Errorf("%+v came back as %+v, %v", b, again, err)
			}
		}
	})
}
