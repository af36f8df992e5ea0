package redisstore

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq/store"
)

func TestAskAndInstances(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.start(longLease), c.start(longLease/4)
	answers := func(f func([]byte) []byte) { b.node.note(func() { b.node.asked = f }) }
	answers(func(q []byte) []byte { return append([]byte("answer to "), q...) })
	got, err := a.Ask(t.Context(), b.Instance(), []byte("a\x00\xffquestion"))
	if err != nil || string(got) != "answer to a\x00\xffquestion" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := a.Ask(t.Context(), b.Instance(), make([]byte, store.AnswerMax+1)); err == nil {
		t.Error("a question that is too large was asked")
	}
	large := strings.Repeat("x", store.AnswerMax)
	answers(func([]byte) []byte { return []byte(large + "more") })
	if got, err = a.Ask(t.Context(), b.Instance(), nil); err != nil || string(got) != large {
		t.Errorf("a large answer: %d bytes, %v", len(got), err)
	}

	// Who is asked too much at a time leaves questions unanswered, and who asks gives up.
	var begun sync.WaitGroup
	begun.Add(maxQuestions)
	hold := make(chan struct{})
	answers(func([]byte) []byte {
		begun.Done()
		<-hold
		return []byte("late")
	})
	ctx, giveUp := context.WithCancel(t.Context())
	var asked sync.WaitGroup
	for range maxQuestions {
		asked.Go(func() {
			if _, err := a.Ask(ctx, b.Instance(), nil); !errors.Is(err, context.Canceled) {
				t.Errorf("given up: %v", err)
			}
		})
	}
	begun.Wait()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Ask(short, b.Instance(), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one question too many: %v", err)
	}
	giveUp()
	asked.Wait()
	close(hold)

	b.node.note(func() { b.node.reports = "what b says" })
	find := func(instance string) (found store.Instance) {
		list, err := a.Instances(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			if i.Name == instance {
				found = i
			}
		}
		return found
	}
	await(t, "b has said something", func() bool { return string(find(b.Instance()).Report) == "what b says" })
	if find(b.Instance()).Lapses.IsZero() || find(a.Instance()).Lapses.IsZero() {
		t.Error("an instance that lives has no lease")
	}
	gone := b.Instance()
	if err := b.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "b is gone", func() bool { return find(gone).Name == "" })
	if n, err := c.client.HExists(t.Context(), c.keys.reports(), gone).Result(); n || err != nil {
		t.Errorf("its report is there: %t, %v", n, err)
	}
	if _, err := a.Ask(t.Context(), gone, nil); !errors.Is(err, store.ErrGone) {
		t.Errorf("asking it: %v", err)
	}
}
