package auth

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// scripted is a Method that answers as it is told.
type scripted struct {
	name   string
	result Result
	err    error
	calls  int
	block  bool
}

func (s *scripted) Name() string { return s.name }

func (s *scripted) Authenticate(ctx context.Context, _ *loopmq.ConnectRequest) (Result, error) {
	s.calls++
	if s.block {
		<-ctx.Done()
		return Result{}, ctx.Err()
	}
	return s.result, s.err
}

// talkative asks once, and then does as it is told.
type talkative struct {
	scripted
	then Result
	got  any
}

func (s *talkative) Continue(_ context.Context, _ *loopmq.ConnectRequest, state any, data []byte) (Result, error) {
	s.got = [2]any{state, string(data)}
	return s.then, s.err
}

func accepted(username string) Result {
	return Result{Decision: Accept, Identity: loopmq.Identity{Username: username}}
}

func reasonOf(err error) codec.ReasonCode {
	var e *codec.Error
	if errors.As(err, &e) {
		return e.ReasonCode
	}
	return 0
}

func TestChainAsksInOrder(t *testing.T) {
	t.Parallel()
	errAway := errors.New("it is away, and the password was secret")
	for _, test := range []struct {
		name    string
		results []Result
		errs    []error
		calls   string
		user    string
		reason  codec.ReasonCode
	}{
		{"the first", []Result{accepted("one"), accepted("two")}, nil, "1.", "one", 0},
		{"the second", []Result{{}, accepted("two")}, nil, "11", "two", 0},
		{"a rejection ends it", []Result{{Decision: Reject}, accepted("two")}, nil, "1.", "", codec.BadUserNameOrPassword},
		{"with a reason", []Result{{Decision: Reject, ReasonCode: codec.Banned}, accepted("two")}, nil, "1.", "", codec.Banned},
		{"nobody", []Result{{}, {}}, nil, "11", "", codec.BadUserNameOrPassword},
		{"a failure is no pass", []Result{{}, accepted("two")}, []error{errAway, nil}, "1.", "", codec.ServerUnavailable},
		{"a failure with a code", []Result{{}, accepted("two")}, []error{codec.NewError(codec.ServerBusy, "busy")}, "1.", "", codec.ServerBusy},
		{"an Ask without a Challenge", []Result{{Decision: Ask}, accepted("two")}, nil, "1.", "", codec.BadUserNameOrPassword},
		{"a decision that isn't one", []Result{{Decision: 77}, accepted("two")}, nil, "1.", "", codec.BadUserNameOrPassword},
	} {
		var log bytes.Buffer
		var steps []Step
		var methods []*scripted
		for i, r := range test.results {
			m := &scripted{name: "m", result: r}
			if i < len(test.errs) {
				m.err = test.errs[i]
			}
			methods = append(methods, m)
			steps = append(steps, Step{Method: m})
		}
		c := NewChain(Options{AllowAnonymous: true, Logger: slog.New(slog.NewTextHandler(&log, nil))}, steps...)
		id, ch, err := c.Authenticate(t.Context(), login("user", "topsecret"))
		calls := ""
		for _, m := range methods {
			calls += strings.Repeat("1", m.calls) + strings.Repeat(".", 1-m.calls)
		}
		if ch != nil || id.Username != test.user || reasonOf(err) != test.reason || calls != test.calls {
			t.Errorf("%s: %q, %v, calls %s; want %+v", test.name, id.Username, err, calls, test)
		}
		if strings.Contains(log.String(), "topsecret") {
			t.Errorf("%s: the log has the password: %s", test.name, log.String())
		}
		if failed := len(test.errs) > 0 && reasonOf(test.errs[0]) == 0; failed != strings.Contains(log.String(), "authenticate_failed") {
			t.Errorf("%s: the log has %q", test.name, log.String())
		}
	}
}

// Who presents nothing may be anonymous; who presents something that nobody knows may not.
func TestAnonymous(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		allow  bool
		r      loopmq.ConnectRequest
		reason codec.ReasonCode
	}{
		{"nothing", true, loopmq.ConnectRequest{}, 0},
		{"nothing, not allowed", false, loopmq.ConnectRequest{}, codec.NotAuthorized},
		{"a user name", true, loopmq.ConnectRequest{HasUsername: true, Username: "x"}, codec.BadUserNameOrPassword},
		{"an empty user name", true, loopmq.ConnectRequest{HasUsername: true}, codec.BadUserNameOrPassword},
		{"a password", true, loopmq.ConnectRequest{Password: []byte{}}, codec.BadUserNameOrPassword},
		{"a method", true, loopmq.ConnectRequest{AuthenticationMethod: "X"}, codec.BadAuthenticationMethod},
	} {
		set := metrics.New(1)
		id, ch, err := NewChain(Options{AllowAnonymous: test.allow, Metrics: set}).Authenticate(t.Context(), &test.r)
		if ch != nil || id.Username != "" || reasonOf(err) != test.reason {
			t.Errorf("%s: %v, want %v", test.name, err, test.reason)
		}
		result := metrics.AuthAccepted
		if err != nil {
			result = metrics.AuthRejected
		}
		if n := set.Auth.Decisions[metrics.AuthAnonymous][result].Get(); n != 1 {
			t.Errorf("%s: counted %d times", test.name, n)
		}
	}
}

// A Method that takes too long has failed.
func TestChainTimeouts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct{ timeout, want time.Duration }{{0, DefaultTimeout}, {time.Second, time.Second}} {
			begin := time.Now()
			c := NewChain(Options{Logger: slog.New(slog.DiscardHandler)}, Step{&scripted{block: true}, test.timeout})
			_, _, err := c.Authenticate(t.Context(), login("a", "b"))
			if reasonOf(err) != codec.ServerUnavailable || time.Since(begin) != test.want {
				t.Errorf("after %v: %v", time.Since(begin), err)
			}
		}
	})
}

func TestChainConversation(t *testing.T) {
	t.Parallel()
	set := metrics.New(1)
	m := &talkative{scripted: scripted{name: "scram", result: Result{
		Decision: Ask, Challenge: &loopmq.Challenge{AuthenticationData: []byte("who?"), State: 42},
	}}}
	c := NewChain(Options{Metrics: set}, Step{Method: &scripted{name: "other"}}, Step{Method: m})
	r := &loopmq.ConnectRequest{AuthenticationMethod: "X"}
	_, ch, err := c.Authenticate(t.Context(), r)
	if err != nil || string(ch.AuthenticationData) != "who?" {
		t.Fatal(ch, err)
	}
	r.AuthenticationData = []byte("me")
	for _, test := range []struct {
		then     Result
		username string
		reauth   bool
		reason   codec.ReasonCode
	}{
		{accepted("me"), "", false, 0},
		{Result{Decision: Reject}, "", false, codec.BadUserNameOrPassword},
		{Result{}, "", false, codec.BadUserNameOrPassword}, // nobody else is asked now
		{accepted("me"), "me", true, 0},
		{accepted("me"), "someone else", true, codec.NotAuthorized},
	} {
		m.then, r.Reauthentication, r.Username = test.then, test.reauth, test.username
		_, _, err := c.Continue(t.Context(), r, ch.State, r.AuthenticationData)
		if reasonOf(err) != test.reason || m.got != [2]any{42, "me"} {
			t.Errorf("%+v: %v, and the Method got %v", test, err, m.got)
		}
	}
	r.Reauthentication = false
	if _, _, err := c.Continue(t.Context(), r, "not ours", nil); reasonOf(err) != codec.BadAuthenticationMethod {
		t.Error(err)
	}
	silent := NewChain(Options{}, Step{Method: &scripted{result: m.result}})
	if _, ch, err = silent.Authenticate(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, _, err := silent.Continue(t.Context(), r, ch.State, nil); reasonOf(err) != codec.BadAuthenticationMethod {
		t.Error(err)
	}
	d := &set.Auth.Decisions[metrics.AuthScram]
	if a, r := d[metrics.AuthAccepted].Get(), d[metrics.AuthRejected].Get(); a != 3 || r != 2 || d[metrics.AuthNext].Get() != 0 {
		t.Errorf("%d accepted, %d rejected", a, r)
	}
}

func TestDecisionStrings(t *testing.T) {
	t.Parallel()
	got := []string{Next.String(), Accept.String(), Reject.String(), Ask.String(), Decision(9).String()}
	if s := strings.Join(got, " "); s != "next accept reject ask unknown" {
		t.Error(s)
	}
}
