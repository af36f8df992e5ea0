package auth

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"loopmq"
	"loopmq/metrics"
)

// Rule is one way of knowing what clients may do. It is called by several goroutines
// at a time, never on an event loop, and has to return when ctx ends.
type Rule interface {
	// Name is what logs and metrics call the Rule, such as "claims".
	Name() string
	// Judge returns Accept, Reject, or Next for another Rule. c is valid during the
	// call only. An error means that it couldn't decide: the client may not, then.
	Judge(ctx context.Context, c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) (Decision, error)
}

// FastRule is a Rule that has answers which it needn't wait for.
type FastRule interface {
	Rule
	// JudgeFast is Judge on an event loop: it must not block. known is false if it
	// takes longer to find out.
	JudgeFast(c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) (d Decision, known bool)
}

// DeliveryRule is a Rule that may have no say in deliveries. What a client may
// subscribe to, by a Rule whose JudgesDeliveries is false, it may get. Other Rules are
// asked about deliveries.
type DeliveryRule interface {
	Rule
	JudgesDeliveries() bool
}

// RulesOptions are what Rules do where no Rule has a say.
type RulesOptions struct {
	// AllowByDefault allows what no Rule decided on. Default: it is refused.
	AllowByDefault bool
	// Logger is for Rules that fail; nil means slog.Default().
	Logger *slog.Logger
	// Metrics counts the decisions; nil: nothing.
	Metrics *metrics.Set
}

// Rules is a loopmq.Authorizer that asks each Rule in order until one decides. It does
// not change, and may be used by any number of goroutines.
type Rules struct {
	o      RulesOptions
	rules  []ruleStep
	failed rate.Sometimes // A service that is away would fill the log.
}

// ruleStep is a Rule, and what it was asked once and for all.
type ruleStep struct {
	Rule
	fast       FastRule // nil: it has to be waited for
	deliveries bool
	method     metrics.AuthMethod
	counted    bool
}

var (
	_ loopmq.FastAuthorizer     = (*Rules)(nil)
	_ loopmq.DeliveryAuthorizer = (*Rules)(nil)
	_ loopmq.DecisionTTL        = (*Rules)(nil)
)

// NewRules returns Rules that ask rules in this order.
func NewRules(o RulesOptions, rules ...Rule) *Rules {
	o.Logger = cmp.Or(o.Logger, slog.Default())
	r := &Rules{o: o, failed: rate.Sometimes{First: 1, Interval: time.Second}}
	for _, rule := range rules {
		s := ruleStep{Rule: rule, deliveries: true}
		s.fast, _ = rule.(FastRule)
		if d, ok := rule.(DeliveryRule); ok {
			s.deliveries = d.JudgesDeliveries()
		}
		s.method, s.counted = metrics.AuthMethodNamed(rule.Name())
		r.rules = append(r.rules, s)
	}
	return r
}

// Authorize asks the Rules.
func (r *Rules) Authorize(ctx context.Context, c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) bool {
	for i := range r.rules {
		s := &r.rules[i]
		if a == loopmq.ActionDeliver && !s.deliveries {
			return true
		}
		d, err := s.Judge(ctx, c, a, topic, qos, retain)
		r.count(s, d, err)
		switch {
		case err != nil:
			r.failed.Do(func() {
				r.o.Logger.Warn("authorize_failed", "method", s.Name(), "client_id", c.ClientID, "err", err)
			})
			return false
		case d != Next:
			return d == Accept
		}
	}
	return r.o.AllowByDefault
}

// AuthorizeFast asks the Rules as long as they needn't be waited for.
func (r *Rules) AuthorizeFast(c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) (allowed, known bool) {
	for i := range r.rules {
		s := &r.rules[i]
		if a == loopmq.ActionDeliver && !s.deliveries {
			return true, true
		}
		if s.fast == nil {
			return false, false
		}
		d, known := s.fast.JudgeFast(c, a, topic, qos, retain)
		if !known {
			return false, false
		}
		if d != Next {
			r.count(s, d, nil)
			return d == Accept, true
		}
	}
	return r.o.AllowByDefault, true
}

// AuthorizesDeliveries reports whether any Rule has a say in deliveries.
func (r *Rules) AuthorizesDeliveries() bool {
	for i := range r.rules {
		if r.rules[i].deliveries {
			return true
		}
	}
	return false
}

// DecisionTTL is 0, so that each decision is asked for, if a Rule isn't sure of its own
// for longer, and else endless.
func (r *Rules) DecisionTTL() time.Duration {
	for i := range r.rules {
		if _, ok := r.rules[i].Rule.(*HTTPRule); ok {
			return 0 // It knows by each answer how long that holds.
		}
	}
	return -1
}

func (r *Rules) count(s *ruleStep, d Decision, err error) {
	if s.counted {
		count(r.o.Metrics, s.method, d, err)
	}
}

// count counts a decision. set may be nil.
func count(set *metrics.Set, m metrics.AuthMethod, d Decision, err error) {
	if set == nil {
		return
	}
	result := metrics.AuthNext
	switch {
	case err != nil:
		result = metrics.AuthFailed
	case d == Accept:
		result = metrics.AuthAccepted
	case d == Reject:
		result = metrics.AuthRejected
	}
	set.Auth.Decisions[m][result].Inc()
}
