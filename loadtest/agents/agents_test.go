package agents

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"loopmq/loadtest"
)

var quiet = slog.New(slog.DiscardHandler)

// scenario is one that Check takes.
func scenario(t testing.TB, change ...func(*loadtest.Scenario)) *loadtest.Scenario {
	t.Helper()
	s := &loadtest.Scenario{Shape: loadtest.P2P, Pairs: 10, QoS: 1, Duration: 3 * time.Second, Targets: []string{"tcp://127.0.0.1:1883"}}
	for _, f := range change {
		f(s)
	}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	return s
}

// play is an engine without clients: it begins with the others, has a Second each second, and ends after the scenario's Duration.
func play(ctx context.Context, s *loadtest.Scenario, o loadtest.Options) (*loadtest.Result, error) {
	r := &loadtest.Result{Version: loadtest.ResultVersion, Scenario: s, Started: time.Now(), Processes: 1}
	if _, err := o.Started(ctx); err != nil {
		return nil, err
	}
	for i := range s.Duration / time.Second {
		select {
		case <-time.After(time.Second):
			o.Progress(loadtest.Second{At: float64(i + 1), Seconds: 1, Phase: "measure", Sent: 100, Connections: 20})
		case <-ctx.Done():
			r.Interrupted = true
			return r, nil
		}
	}
	r.Totals.Sent = 300
	return r, nil
}

// crewOf is agents that run in this process, connected by pipes, and what ends their sides of them.
func crewOf(ctx context.Context, t testing.TB, engines ...engine) (crew []*agent, cut []func() error) {
	for i, e := range engines {
		theirs, ours := net.Pipe()
		crew = append(crew, &agent{name: string(rune('a' + i)), link: newLink(ours, ours, ours.Close)})
		cut = append(cut, theirs.Close)
		go func() {
			_ = session(ctx, newLink(theirs, theirs, theirs.Close), e, quiet)
			_ = theirs.Close()
		}()
	}
	return crew, cut
}

// groups are errors of a result as text.
func groups(r *loadtest.Result) string {
	var b strings.Builder
	for _, g := range r.Errors {
		b.WriteString(g.What + ": " + g.Example + "\n")
	}
	return b.String()
}

// TestTogether: all begin when the last is ready, and each has its share.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var begun []time.Duration
		shares := map[int]loadtest.Share{}
		began := time.Now()
		slow := func(delay time.Duration) engine {
			return func(ctx context.Context, s *loadtest.Scenario, o loadtest.Options) (*loadtest.Result, error) {
				<-time.After(delay)
				started := o.Started
				o.Started = func(ctx context.Context) (time.Time, error) {
					at, err := started(ctx)
					mu.Lock()
					defer mu.Unlock()
					begun = append(begun, time.Since(began))
					shares[s.Share.Index] = s.Share
					return at, err
				}
				return play(ctx, s, o)
			}
		}
		crew, _ := crewOf(t.Context(), t, slow(0), slow(70*time.Second), slow(time.Second))
		var progress []loadtest.Second
		r, err := conduct(t.Context(), scenario(t), crew, Options{Logger: quiet, Progress: func(s loadtest.Second) { progress = append(progress, s) }})
		if err != nil {
			t.Fatal(err)
		}
		if r.Processes != 3 || len(r.Errors) != 0 {
			t.Errorf("%d processes, errors: %s", r.Processes, groups(r))
		}
		for _, at := range begun {
			if at != 70*time.Second {
				t.Errorf("one began after %v, want 70s", at)
			}
		}
		run := shares[0].Run
		for i := range 3 {
			if want := (loadtest.Share{Index: i, Of: 3, Run: run}); shares[i] != want || run == "" {
				t.Errorf("share %+v, want %+v", shares[i], want)
			}
		}
		if len(progress) == 0 || progress[0].Sent != 300 || progress[0].Connections != 60 || progress[0].Phase != "measure" {
			t.Errorf("progress: %+v", progress)
		}
	})
}

// TestLost: what ends one agent is an error of the result, whenever it happens, and not the end of the others.
func TestLost(t *testing.T) {
	hang := func(ctx context.Context, _ *loadtest.Scenario, o loadtest.Options) (*loadtest.Result, error) {
		if _, err := o.Started(ctx); err == nil {
			<-ctx.Done()
		}
		return nil, ctx.Err()
	}
	for _, test := range []struct {
		name  string
		other engine
		cut   time.Duration // when the link is cut; 0: it isn't
		want  string
	}{
		{"before all are ready", func(ctx context.Context, _ *loadtest.Scenario, _ loadtest.Options) (*loadtest.Result, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, time.Minute, "agent lost: b: EOF\n"},
		{"while it runs", hang, 2 * time.Second, "agent lost: b: EOF\n"},
		{"it fails", func(context.Context, *loadtest.Scenario, loadtest.Options) (*loadtest.Result, error) {
			return nil, errors.New("no room")
		}, 0, "agent failed: b: no room\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				crew, cut := crewOf(t.Context(), t, play, test.other, play)
				if test.cut > 0 {
					time.AfterFunc(test.cut, func() { _ = cut[1]() })
				}
				r, err := conduct(t.Context(), scenario(t), crew, Options{Logger: quiet})
				if err != nil {
					t.Fatal(err)
				}
				if got := groups(r); got != test.want || r.Processes != 2 || r.AgentsLost != 1 {
					t.Errorf("%d processes, %d lost, errors %q, want 2, 1 and %q", r.Processes, r.AgentsLost, got, test.want)
				}
			})
		})
	}
}

// TestSilent: an agent whose host is gone without a word is lost after a while.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crew, _ := crewOf(t.Context(), t, play)
		theirs, ours := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }() // takes all, says nothing
		crew = append(crew, &agent{name: "mute", link: newLink(ours, ours, ours.Close)})
		deaf, ours := net.Pipe() // doesn't even take anything
		defer deaf.Close()
		crew = append(crew, &agent{name: "deaf", link: newLink(ours, ours, ours.Close)})
		r, err := conduct(t.Context(), scenario(t), crew, Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Errors) != 1 || r.Errors[0].What != "agent lost" || r.Errors[0].Count != 2 {
			t.Errorf("errors: %+v", r.Errors)
		}
	})
}

// TestNobodyLeft: with no result there is an error that says why.
func TestNobodyLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := func(context.Context, *loadtest.Scenario, loadtest.Options) (*loadtest.Result, error) {
			return nil, errors.New("no room")
		}
		crew, _ := crewOf(t.Context(), t, fail)
		_, err := conduct(t.Context(), scenario(t), crew, Options{Logger: quiet})
		if err == nil || !strings.Contains(err.Error(), "no room") {
			t.Errorf("got %v", err)
		}
	})
}

// TestStop: the end of the context is an early end for all, with a report of what there is. An agent that doesn't obey is lost.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		deaf := func(ctx context.Context, _ *loadtest.Scenario, o loadtest.Options) (*loadtest.Result, error) {
			defer close(done)
			if _, err := o.Started(ctx); err != nil {
				return nil, err
			}
			<-time.After(time.Hour)
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		crew, _ := crewOf(t.Context(), t, play, deaf)
		r, err := conduct(ctx, scenario(t, func(s *loadtest.Scenario) { s.Duration = time.Hour }), crew, Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		if !r.Interrupted || groups(r) != "agent lost: b: no report after it was told to stop\n" {
			t.Errorf("interrupted: %v, errors: %s", r.Interrupted, groups(r))
		}
		<-done
	})
}

// TestCoordinatorLost: an agent whose coordinator is gone stops by itself.
func TestCoordinatorLost(t *testing.T) {
	for _, hangUp := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			theirs, ours := net.Pipe()
			l := newLink(ours, ours, ours.Close)
			ended := make(chan error)
			go func() { ended <- session(t.Context(), newLink(theirs, theirs, theirs.Close), play, quiet) }()
			heard := make(chan struct{})
			go func() {
				for {
					var m message
					if l.receive(&m, messageBytesMax) != nil {
						return
					}
					if m.Ready {
						close(heard)
					}
				}
			}()
			if err := l.send(message{Scenario: scenario(t)}); err != nil {
				t.Fatal(err)
			}
			<-heard
			if hangUp {
				_ = l.close()
			}
			if err := <-ended; !errors.Is(err, ErrLost) {
				t.Errorf("hang up %v: got %v, want ErrLost", hangUp, err)
			}
			_, _ = theirs.Close(), ours.Close()
		})
	}
}

// TestNoScenario: an agent doesn't wait for ever for what it is to run.
func TestNoScenario(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := net.Pipe()
		defer ours.Close()
		go func() { _, _ = io.Copy(io.Discard, ours) }()
		time.AfterFunc(time.Minute, func() { _ = theirs.Close() })
		if err := session(t.Context(), newLink(theirs, theirs, theirs.Close), play, quiet); !errors.Is(err, ErrLost) {
			t.Errorf("got %v, want ErrLost", err)
		}
	})
}

// TestKill: the coordinator runs the commands, agents none, and what fails is an error of the result.
func TestKill(t *testing.T) {
	t.Parallel()
	var kills int
	crew, _ := crewOf(t.Context(), t, func(ctx context.Context, s *loadtest.Scenario, o loadtest.Options) (*loadtest.Result, error) {
		kills += len(s.Kill)
		if !s.Reconnect {
			t.Error("clients don't connect again")
		}
		return play(ctx, s, o)
	})
	s := scenario(t, func(s *loadtest.Scenario) {
		s.Duration = time.Second
		s.Kill = []loadtest.Kill{{Command: "echo never; exit 7"}}
	})
	r, err := conduct(t.Context(), s, crew, Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if want := "kill command: echo never; exit 7: exit status 7: never\n"; groups(r) != want || kills != 0 {
		t.Errorf("the agent got %d commands; errors %q, want %q", kills, groups(r), want)
	}

	theirs, ours := net.Pipe()
	l := newLink(ours, ours, ours.Close)
	go func() { _ = session(t.Context(), newLink(theirs, theirs, theirs.Close), play, quiet) }()
	if err := l.send(message{Scenario: s}); err != nil {
		t.Fatal(err)
	}
	for {
		var m message
		if err := l.receive(&m, messageBytesMax); err != nil {
			t.Fatal(err)
		}
		if m.Error != "" {
			if !strings.Contains(m.Error, "agents run no commands") {
				t.Error(m.Error)
			}
			_ = l.close()
			return
		}
	}
}
