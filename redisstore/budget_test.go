package redisstore

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"loopmq/internal/redistest"
	"loopmq/store"
)

var calls = regexp.MustCompile(`cmdstat_([^:]+):calls=(\d+)`)

// commandsOf counts the commands that Redis runs for f, those inside scripts too.
func commandsOf(t *testing.T, r *redistest.Server, f func()) (all int, by string) {
	t.Helper()
	if err := r.Client().ConfigResetStat(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	f()
	var names []string
	for _, m := range calls.FindAllStringSubmatch(r.Client().Info(t.Context(), "commandstats").Val(), -1) {
		if strings.HasPrefix(m[1], "config") || m[1] == "info" || m[1] == "time" {
			continue // the test, and what each second costs
		}
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		all += n
		names = append(names, m[1]+" "+m[2])
	}
	return all, strings.Join(names, ", ")
}

// At ten messages per batch a delivered message of QoS 1 takes three commands: the
// deletions of former ones ride in the batches of new ones, as they do in a loop.
func TestCommandsPerDelivery(t *testing.T) {
	const rounds, perBatch = 50, 10
	r := redistest.Start(t, "appendfsync no")
	for _, across := range []bool{false, true} {
		t.Run(fmt.Sprint("across=", across), func(t *testing.T) {
			a := newFixture(t, open(t, r, ""))
			again, err := NewStore(t.Context(), r.URL()+"?prefix="+a.config.prefix, Options{})
			if err != nil {
				t.Fatal(err)
			}
			nodes := []*fixture{a, newFixture(t, again)}
			var sessions [2][]store.Session
			for i, n := range nodes {
				n.enlist()
				for j := range perBatch {
					sessions[i] = append(sessions[i], n.session(fmt.Sprint("client", i, j)))
				}
			}
			all, by := commandsOf(t, r, func() {
				var finish [2][]store.Op
				for range rounds {
					for i, n := range nodes {
						to := i
						if across {
							to = 1 - i
						}
						ops := finish[i]
						finish[i] = nil
						for _, se := range sessions[to] {
							op := publish("message", se)
							op.Additions = n.joined.Load().feed.additions()
							ops = append(ops, op)
						}
						ops = n.commit(ops...)
						for j, op := range ops[len(ops)-perBatch:] {
							finish[to] = append(finish[to], store.Op{
								Kind: store.OpFinish, Session: sessions[to][j].ID, Numbers: []store.Number{op.Targets[0].Number},
							})
						}
					}
				}
				for i, n := range nodes {
					n.commit(finish[i]...)
				}
			})
			perDelivery := float64(all) / (2 * rounds * perBatch)
			t.Logf("%.2f commands per delivery: %s", perDelivery, by)
			if perDelivery > 3 {
				t.Errorf("%.2f commands per delivery, want at most 3", perDelivery)
			}
			for i, n := range nodes {
				for _, se := range sessions[i] {
					if n := len(n.entries(store.QueueOf(se.ID))); n != 0 {
						t.Errorf("%d entries are left", n)
					}
				}
			}
		})
	}
}

func TestCommandsOfAFanOut(t *testing.T) {
	const sessions, messages = 1000, 5
	r := redistest.Start(t, "appendfsync no")
	a := newFixture(t, open(t, r, ""))
	var all []store.Session
	for i := range sessions {
		all = append(all, a.session(fmt.Sprint("client", i)))
	}
	for _, size := range []int{64, 8000} {
		n, by := commandsOf(t, r, func() {
			var ops []store.Op
			for range messages {
				ops = append(ops, a.commit(publish(strings.Repeat("x", size), all...))...)
			}
			var finish []store.Op
			for i, se := range all {
				op := store.Op{Kind: store.OpFinish, Session: se.ID}
				for _, published := range ops {
					op.Numbers = append(op.Numbers, published.Targets[i].Number)
				}
				finish = append(finish, op)
			}
			a.commit(finish...)
		})
		t.Logf("%.2f commands per delivery of %d bytes: %s", float64(n)/(sessions*messages), size, by)
		if n > 3*sessions*messages {
			t.Errorf("%d commands for %d deliveries", n, sessions*messages)
		}
	}
}
