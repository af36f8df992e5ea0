package auth

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// DefaultTimeout bounds a call of a Method whose Step says nothing else.
const DefaultTimeout = 5 * time.Second

// Decision is what a Method makes of a client.
type Decision uint8

// The decisions.
const (
	// Next: another Method has to know this client.
	Next Decision = iota
	// Accept: the client is who the Result says.
	Accept
	// Reject: the client is refused, and no other Method is asked.
	Reject
	// Ask: the Result's Challenge goes to the client, and Continue gets the answer
	// [MQTT-4.12.0-2].
	Ask
)

var decisions = [...]string{Next: "next", Accept: "accept", Reject: "reject", Ask: "ask"}

// String returns a word for the decision, such as "accept".
func (d Decision) String() string {
	if int(d) >= len(decisions) {
		return "unknown"
	}
	return decisions[d]
}

// Result is the answer of a Method. Its zero value passes the client on.
type Result struct {
	Decision Decision
	// Identity is who an accepted client is.
	Identity loopmq.Identity
	// Challenge is what an Ask asks.
	Challenge *loopmq.Challenge
	// ReasonCode is what a rejected client is told; 0 means BadUserNameOrPassword.
	ReasonCode codec.ReasonCode
}

// Method is one way of knowing clients. It is called by several goroutines at a
// time, never on an event loop, and has to return when ctx ends.
type Method interface {
	// Name is what logs and metrics call the Method, such as "password_file".
	Name() string
	// Authenticate judges a CONNECT, or the begin of a re-authentication. A Method
	// that knows nothing of r.AuthenticationMethod, if there is one, returns Next.
	//
	// An error means that it couldn't decide, as when what it asks is away. The
	// client is refused then: with the reason code if it is a *codec.Error, else
	// with ServerUnavailable. It is not passed on, since a door must not open
	// because its keeper is away.
	Authenticate(ctx context.Context, r *loopmq.ConnectRequest) (Result, error)
}

// Conversation is a Method that asks clients in several steps: an enhanced
// authentication.
type Conversation interface {
	Method
	// Continue judges the Authentication Data that answers a Challenge; state is
	// what was in it. It doesn't return Next.
	Continue(ctx context.Context, r *loopmq.ConnectRequest, state any, data []byte) (Result, error)
}

// Step is a Method in a Chain.
type Step struct {
	Method Method
	// Timeout bounds each call; 0 means DefaultTimeout. The Broker allows 10 s for
	// all of a Chain's.
	Timeout time.Duration
}

// Options are what a Chain does where its Methods have no say.
type Options struct {
	// AllowAnonymous accepts clients that present no user name, password or
	// Authentication Method, if no Method decided on them. They have no user name.
	AllowAnonymous bool
	// Metrics counts decisions by the names of the Methods, if it knows them; nil:
	// nothing is counted.
	Metrics *metrics.Set
	// Logger is for Methods that fail; nil means slog.Default.
	Logger *slog.Logger
}

// Chain is a loopmq.Authenticator that asks Methods in order until one decides.
// Whom none knows is refused, or is anonymous. It doesn't change, and may be used
// by any number of goroutines.
type Chain struct {
	steps  []Step
	o      Options
	failed rate.Sometimes // a service that is away would fill the log
}

var _ loopmq.Authenticator = (*Chain)(nil)

// NewChain returns a Chain of steps.
func NewChain(o Options, steps ...Step) *Chain {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Chain{steps: steps, o: o, failed: rate.Sometimes{First: 1, Interval: time.Second}}
}

// asked is the state of a Challenge: the Method that asked, and what it keeps.
type asked struct {
	step  *Step
	state any
}

// Authenticate asks the Methods about a CONNECT or a re-authentication.
func (c *Chain) Authenticate(ctx context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	for i := range c.steps {
		s := &c.steps[i]
		res, err := c.call(ctx, s, r, nil, false)
		c.count(s, res.Decision, err)
		if err != nil || res.Decision != Next {
			return c.answer(s, r, res, err)
		}
	}
	d, err := Accept, c.anonymous(r)
	if err != nil {
		d = Reject
	}
	count(c.o.Metrics, metrics.AuthAnonymous, d, nil)
	return loopmq.Identity{}, nil, err
}

// anonymous judges whom no Method knows.
func (c *Chain) anonymous(r *loopmq.ConnectRequest) error {
	switch {
	case r.AuthenticationMethod != "":
		return errNoMethod
	case r.HasUsername || r.Password != nil:
		return errRejected // it is somebody, who must not go for nobody
	case !c.o.AllowAnonymous:
		return errNotKnown
	}
	return nil
}

// Continue hands the client's answer to the Method that asked.
func (c *Chain) Continue(ctx context.Context, r *loopmq.ConnectRequest, state any, _ []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	a, ok := state.(asked)
	if !ok {
		return loopmq.Identity{}, nil, errNoMethod
	}
	res, err := c.call(ctx, a.step, r, a.state, true)
	if err == nil && res.Decision == Next {
		res.Decision = Reject
	}
	c.count(a.step, res.Decision, err)
	return c.answer(a.step, r, res, err)
}

// call asks one Method.
func (c *Chain) call(ctx context.Context, s *Step, r *loopmq.ConnectRequest, state any, goOn bool) (Result, error) {
	timeout := s.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if !goOn {
		return s.Method.Authenticate(ctx, r)
	}
	m, ok := s.Method.(Conversation)
	if !ok {
		return Result{}, errNoMethod
	}
	return m.Continue(ctx, r, state, r.AuthenticationData)
}

// count counts a decision, if it is one and metrics know the Method.
func (c *Chain) count(s *Step, d Decision, err error) {
	if m, known := metrics.AuthMethodNamed(s.Method.Name()); known && d != Ask {
		count(c.o.Metrics, m, d, err)
	}
}

// answer turns what a Method said into what the Broker wants to hear.
func (c *Chain) answer(s *Step, r *loopmq.ConnectRequest, res Result, err error) (loopmq.Identity, *loopmq.Challenge, error) {
	var none loopmq.Identity
	var e *codec.Error
	switch {
	case errors.As(err, &e):
		return none, nil, refusal(r, e)
	case err != nil:
		c.failed.Do(func() {
			c.o.Logger.Warn("authenticate_failed", "method", s.Method.Name(), "client_id", r.ClientID, "remote_addr", r.RemoteAddr, "err", err)
		})
		return none, nil, refusal(r, errUnavailable)
	case res.Decision == Ask && res.Challenge != nil:
		return none, &loopmq.Challenge{
			AuthenticationData: res.Challenge.AuthenticationData, State: asked{s, res.Challenge.State},
		}, nil
	case res.Decision != Accept && res.ReasonCode == 0:
		return none, nil, refusal(r, errRejected)
	case res.Decision != Accept:
		return none, nil, refusal(r, codec.NewError(res.ReasonCode, "rejected by "+s.Method.Name()))
	case r.Reauthentication && res.Identity.Username != r.Username:
		// The session, its subscriptions and its Will are the first user's.
		return none, nil, errOtherUser
	}
	return res.Identity, nil, nil
}

// refusal is e as the packet that it goes out with can have it: a CONNACK, or the
// DISCONNECT that ends a re-authentication [MQTT-4.12.1-2], which knows fewer codes.
func refusal(r *loopmq.ConnectRequest, e *codec.Error) error {
	if r.Reauthentication && e.ReasonCode != codec.ServerBusy {
		return errNotRenewed
	}
	return e
}
