package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"strings"
	"time"

	"loopmq"
	"loopmq/config"
	"loopmq/webhooks"
)

// webhookGrace is the time that requests to an endpoint get to finish when it is
// changed or removed.
const webhookGrace = 5 * time.Second

// hooks are the endpoints that are told of events, from the configuration to their
// end.
type hooks struct {
	started  *config.Config // authorization is as it was then
	identity *identity
	matcher  *webhooks.Matcher
	current  []hook
	running  *webhooks.Webhooks // nil: not yet
}

// hook is an endpoint, and what it was made of.
type hook struct {
	said     config.Webhook
	files    [][]byte
	endpoint *webhooks.Endpoint
}

// newHooks returns the endpoints of a configuration.
func newHooks(c *config.Config, who *identity) (*hooks, error) {
	h := &hooks{started: c, identity: who}
	var err error
	if h.current, err = h.make(c.Webhooks); err != nil {
		return nil, err
	}
	h.matcher = webhooks.NewMatcher(endpointsOf(h.current))
	return h, nil
}

// start has events delivered, from the store of a running broker.
func (h *hooks) start(b *loopmq.Broker, o *loopmq.Options) error {
	w, err := webhooks.New(webhooks.Options{Store: o.Store, Broker: b, Endpoints: endpointsOf(h.current), Metrics: o.Metrics, Logger: o.Logger})
	if err != nil {
		return err
	}
	h.running = w
	w.Start()
	return nil
}

// stop ends delivering.
func (h *hooks) stop(grace time.Duration) {
	if h.running == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(grace, webhookGrace))
	defer cancel()
	h.running.Close(ctx)
}

// prepare reads the endpoints of another configuration, and their files, and returns
// what makes them hold.
func (h *hooks) prepare(next *config.Config) (apply func() error, err error) {
	made, err := h.make(next.Webhooks)
	if err != nil {
		return nil, err
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), webhookGrace)
		defer cancel()
		h.current = made
		h.matcher.Set(endpointsOf(made))
		return h.running.Reload(ctx, endpointsOf(made))
	}, nil
}

func endpointsOf(all []hook) []*webhooks.Endpoint {
	endpoints := make([]*webhooks.Endpoint, len(all))
	for i := range all {
		endpoints[i] = all[i].endpoint
	}
	return endpoints
}

// make returns endpoints, or all that is wrong with them. Those of which nothing has
// changed stay the same.
func (h *hooks) make(said []config.Webhook) ([]hook, error) {
	all := make([]hook, len(said))
	var wrong []error
	for i := range said {
		var err error
		if all[i], err = h.makeOne(&said[i]); err != nil {
			wrong = append(wrong, fmt.Errorf("webhooks[%d].%w", i, err))
		}
	}
	return all, errors.Join(wrong...)
}

func (h *hooks) makeOne(c *config.Webhook) (hook, error) {
	made := hook{said: *c}
	if err := made.readFiles(); err != nil {
		return hook{}, err
	}
	for _, former := range h.current {
		if reflect.DeepEqual(former.said, made.said) && reflect.DeepEqual(former.files, made.files) {
			return former, nil
		}
	}
	e, err := h.endpoint(c)
	if err != nil {
		return hook{}, err
	}
	for i, path := range c.SecretFiles {
		s, err := webhooks.ParseSecret(string(made.files[i]))
		if err != nil {
			return hook{}, fmt.Errorf("secret_files[%d]: %s %w", i, path, err)
		}
		e.Secrets = append(e.Secrets, s)
	}
	if err := e.SetDefaults(); err != nil {
		field, text, _ := strings.Cut(err.Error(), ":")
		return hook{}, fmt.Errorf("%s:%s", keyOf(field), text)
	}
	made.endpoint = e
	return made, nil
}

// readFiles reads the files that an endpoint needs, those with secrets first.
func (k *hook) readFiles() error {
	paths := k.said.SecretFiles
	if t := k.said.TLS; t != nil {
		paths = append(paths[:len(paths):len(paths)], t.CA, t.Certificate, t.Key)
	}
	for _, path := range paths {
		var text []byte
		if path != "" {
			var err error
			if text, err = os.ReadFile(path); err != nil {
				return fmt.Errorf("secret_files, tls: %w", err)
			}
		}
		k.files = append(k.files, text)
	}
	return nil
}

// endpoint returns what a configuration says of an endpoint, without its secrets.
func (h *hooks) endpoint(c *config.Webhook) (*webhooks.Endpoint, error) {
	t, err := tlsClient(c.TLS)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	e := &webhooks.Endpoint{
		Name: c.Name, URL: c.URL, AllowPlainHTTP: c.AllowPlainHTTP, Events: c.Events, TopicFilters: c.TopicFilters, ClientIDs: c.ClientIDs,
		Usernames: c.Usernames, Payload: webhooks.Payload(c.Payload), Format: webhooks.Format(c.Format), Mode: webhooks.Mode(c.Mode), Source: c.Source,
		Batch: webhooks.Batch(c.Batch), Headers: http.Header{}, TLS: t, Order: webhooks.Order(c.Order), Concurrency: c.Concurrency, Timeout: c.Timeout,
		ResponseBytes: c.ResponseBytes, MaxAge: c.MaxAge, RetryMin: c.RetryMin, RetryMax: c.RetryMax, BreakerFailures: c.BreakerFailures,
		BreakerDelay: c.BreakerDelay, Durability: webhooks.Durability(c.Durability), MaxQueued: c.MaxQueued, MaxQueuedBytes: int64(c.MaxQueuedBytes),
		MaxDead: c.MaxDead, Allow: c.Allow, AllowPrivate: c.AllowPrivate,
	}
	if c.Payload == "auto" {
		e.Payload = ""
	}
	for _, line := range c.Headers {
		name, value, _ := strings.Cut(line, ":")
		e.Headers.Add(name, strings.TrimSpace(value))
	}
	if r := c.Replies; r != nil {
		e.Replies = &webhooks.Replies{
			TopicFilters: r.TopicFilters, ClientID: r.ClientID, Username: r.Username, QoS: byte(r.QoS), Timeout: r.Timeout, Expiry: r.Expiry,
		}
		if e.Replies.Authorizer, err = h.identity.authorizer("authorization", h.started.Authorization, h.started.AllowByDefault); err != nil {
			return nil, fmt.Errorf("replies: %w", err)
		}
	}
	return e, nil
}

var wordEnd = regexp.MustCompile(`([a-z])([A-Z])`)

// keyOf returns the key of a field: topic_filters for TopicFilters.
func keyOf(field string) string {
	return strings.ToLower(wordEnd.ReplaceAllString(field, "${1}_$2"))
}
