package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"loopmq/store"
)

func routed(i int) store.Change {
	return store.Change{Kind: store.ChangeRouted, Instance: "x", TopicFilters: []string{strconv.Itoa(i)}}
}

// filters returns the filters of x's routes in the order in which they were applied.
func (n *node) filters() []int {
	var list []int
	for _, change := range n.changes {
		if change.Instance == "x" {
			i, _ := strconv.Atoi(change.TopicFilters[0])
			list = append(list, i)
		}
	}
	return list
}

func TestFeedInOrderForAllWhoJoin(t *testing.T) {
	c := newCluster(t, "appendfsync no")
	const records, joins = 3000, 4
	var players []*player
	var from []int // how many records there were at most before each joined
	third := make(chan struct{}, joins)
	var wg sync.WaitGroup
	first := c.start(longLease)
	wg.Go(func() {
		for i := range records {
			c.change(routed(i))
			if i%(records/(joins+1)) == 1 {
				select {
				case third <- struct{}{}:
				default:
				}
			}
		}
	})
	players, from = append(players, first), append(from, 0)
	for range joins {
		<-third
		p := c.join(c.config(c.server.Addr, longLease))
		from = append(from, int(p.feed.mu.passed)-1) // the stream was created with one
		// Commits bring the same records at the same time.
		for range 2 {
			wg.Go(func() {
				for {
					reply, err := c.client.Do(context.Background(), "XRANGE", c.keys.feed(), "("+p.feed.position(), "+", "COUNT", 100).Slice()
					if err != nil {
						t.Error(err)
						return
					}
					entries, err := parseEntries(reply)
					if err != nil {
						t.Error(err)
						return
					}
					before := p.Additions()
					p.feed.advance(entries)
					if started := p.started(); started && len(entries) > 0 && p.Additions() < before {
						t.Error("additions went back")
					}
					p.node.mu.Lock()
					all := p.node.filters()
					p.node.mu.Unlock()
					if len(all) > 0 && all[len(all)-1] == records-1 {
						return
					}
				}
			})
		}
		if err := p.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		players = append(players, p)
	}
	wg.Wait()
	for i, p := range players {
		p.node.await(t, "the last record", func() bool {
			all := p.node.filters()
			return len(all) > 0 && all[len(all)-1] == records-1
		})
		p.node.mu.Lock()
		all := p.node.filters()
		p.node.mu.Unlock()
		if len(all) != records-from[i] || all[0] != from[i] {
			t.Fatalf("member %d applied %d records from %d on, want %d from %d on", i, len(all), all[0], records-from[i], from[i])
		}
		for k := range all {
			if all[k] != all[0]+k {
				t.Fatalf("member %d applied %d after %d", i, all[k], all[k-1])
			}
		}
		if got, want := p.Additions(), uint64(1+len(all)); got != want {
			t.Errorf("additions %d, want %d", got, want)
		}
	}
}

func TestCommitWaitsForWhatIsBeingApplied(t *testing.T) {
	n := newNode()
	f := newFeed(nil, n, feedState{})
	in, out := make(chan struct{}), make(chan struct{})
	n.applying = func() {
		in <- struct{}{}
		<-out
	}
	records := []streamEntry{{id: store.Number{Generation: 5}, fields: []string{changeField, string(encodeChange(new(routed(0))))}}}
	f.advance(records) // before start nothing is applied
	f.start(nil)
	go f.advance(records)
	<-in
	done := make(chan struct{})
	go func() {
		f.advance(records)
		if f.additions() != 2 || f.position() != "5-0" {
			t.Errorf("additions %d, position %s; want 2, 5-0", f.additions(), f.position())
		}
		close(done)
	}()
	select {
	case <-done:
		t.Fatal("advance returned before what it was given had been applied")
	default:
	}
	close(out)
	<-done
	if len(n.changes) != 1 {
		t.Errorf("applied %d times", len(n.changes))
	}
	f.stop()
	records[0].id.Seq++
	if f.advance(records); f.position() != "5-0" {
		t.Error("advanced after stop")
	}
}

func TestMissedRecords(t *testing.T) {
	record := func(generation, seq uint64) streamEntry {
		return streamEntry{store.Number{Generation: generation, Seq: seq}, []string{changeField, string(encodeChange(new(routed(0))))}}
	}
	id := func(generation, seq uint64) store.Number { return store.Number{Generation: generation, Seq: seq} }
	for name, test := range map[string]struct {
		do     func(f *feed)
		missed string
	}{
		"none": {func(f *feed) {
			f.verify(feedState{last: id(5, 9), added: 10})
			f.advance([]streamEntry{record(5, 8), record(5, 9), record(5, 10), record(6, 0), record(6, 1)})
			f.verify(feedState{last: id(6, 0), added: 99}) // has been passed
			f.verify(feedState{last: id(6, 1), added: 13})
			f.verify(feedState{last: id(6, 2), added: 14})
			f.advance([]streamEntry{record(6, 2)})
		}, ""},
		"trimmed":         {func(f *feed) { f.advance([]streamEntry{record(5, 11)}) }, "feed trimmed"},
		"trimmed before":  {func(f *feed) { f.advance([]streamEntry{record(6, 1)}) }, "feed trimmed"},
		"trimmed between": {func(f *feed) { f.advance([]streamEntry{record(5, 10), record(5, 12)}) }, "feed trimmed"},
		"a generation": {func(f *feed) {
			f.verify(feedState{last: id(7, 0), added: 13})
			f.advance([]streamEntry{record(5, 10), record(7, 0)})
		}, "feed counted"},
		"tail lost": {func(f *feed) {
			f.advance([]streamEntry{record(5, 10), record(6, 0)})
			f.verify(feedState{last: id(6, 0), added: 11})
		}, "feed counted"},
		"tail lost and nothing since": {func(f *feed) {
			f.advance([]streamEntry{record(5, 10), record(6, 0)})
			f.verify(feedState{last: id(5, 10), added: 11, generation: 6}) // was asked before
			f.verify(feedState{last: id(5, 10), added: 11, generation: 7})
		}, "feed lost"},
		"malformed": {func(f *feed) { f.advance([]streamEntry{{id(5, 10), []string{changeField, "\x01"}}}) }, "feed malformed"},
		"no field":  {func(f *feed) { f.advance([]streamEntry{{id(5, 10), []string{"x", "y"}}}) }, "feed malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(quiet, newNode(), feedState{last: id(5, 9), added: 10})
			var missed string
			f.missed = func(reason string) { missed += reason }
			f.start(nil)
			test.do(f)
			if missed != test.missed {
				t.Errorf("missed %q, want %q", missed, test.missed)
			}
		})
	}
}

func TestMemberThatMissesTheFeedIsExpelled(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	a, x := c.startBehind(longLease)
	b := c.start(longLease)
	c.claim(a.Instance(), "c", true, 100, nil)
	x.Cut()
	for i := range 10 {
		c.change(routed(i))
	}
	c.client.XTrimMaxLen(ctx, c.keys.feed(), 3)
	x.Heal()
	a.node.awaitSaid(t, "expelled")
	// It has declared itself dead, though its lease would last for long.
	b.node.awaitSaid(t, "dead "+a.Instance())
	for i, change := range a.node.changes {
		if change.Kind == store.ChangeRouted {
			t.Errorf("change %d was applied behind the gap: %+v", i, change)
		}
	}
	if _, err := c.session("c"); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(c.client.ZRange(ctx, c.keys.leases(), 0, -1).Val()); got != "["+b.Instance()+"]" {
		t.Errorf("leases of %s, want that of b", got)
	}
}
