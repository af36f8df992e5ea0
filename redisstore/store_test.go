package redisstore

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"loopmq/internal/redistest"
	"loopmq/store"
	"loopmq/store/storetest"
)

var prefixes atomic.Int64

// open opens a Store with keys of its own on a server. More parameters may follow.
func open(t testing.TB, r *redistest.Server, parameters string) *Store {
	t.Helper()
	s, err := NewStore(t.Context(), fmt.Sprintf("%s?prefix=t%d:%s", r.URL(), prefixes.Add(1), parameters), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// withRights makes the user that docs/cluster.md tells of, and returns the URL that has
// it. What a user with these rights was refused fails the test.
func withRights(t *testing.T, r *redistest.Server, prefix string, more ...any) string {
	t.Helper()
	text, err := os.ReadFile("../docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^    (ACL SETUSER loopmq .*)$`).FindStringSubmatch(string(text))
	if line == nil {
		t.Fatal("docs/cluster.md doesn't say which rights a user needs")
	}
	var command []any
	for word := range strings.FieldsSeq(strings.NewReplacer(">PASSWORD", ">secret", "~lmq:", "~"+prefix).Replace(line[1])) {
		command = append(command, word)
	}
	if err := r.Client().Do(t.Context(), append(command, more...)...).Err(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		refused, err := r.Client().ACLLog(context.Background(), 10).Result()
		if err != nil {
			t.Error(err)
		}
		for _, entry := range refused {
			t.Errorf("the rights of docs/cluster.md don't do: %+v", entry)
		}
	})
	return strings.Replace(r.URL(), "://", "://loopmq:secret@", 1)
}

// The whole of it with the rights that are documented.
func TestStore(t *testing.T) {
	r := redistest.Start(t, "appendfsync no")
	url := withRights(t, r, "t")
	open := func(t *testing.T, prefix string) *Store {
		s, err := NewStore(t.Context(), url+"?prefix="+prefix, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, fmt.Sprintf("t%d:", prefixes.Add(1))) }, storetest.Capabilities{
		Reopen: func(t *testing.T, s store.Store) store.Store {
			old := s.(*Store)
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, old.config.prefix)
		},
	})
}
