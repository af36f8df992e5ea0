package loopmq_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
	"loopmq/rate"
)

// callerAuth knows the users alice and expired, and lets users publish and subscribe
// below their own name.
type callerAuth struct{ asked chan string }

func (callerAuth) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	switch {
	case r.AuthenticationMethod != "":
		return loopmq.Identity{}, &loopmq.Challenge{}, nil
	case string(r.Password) != "right":
		return loopmq.Identity{}, nil, codec.NewError(codec.BadUserNameOrPassword, "wrong")
	case r.Username == "brief":
		return loopmq.Identity{Username: r.Username, ExpiresAt: time.Now().Add(time.Second)}, nil, nil
	case r.Username == "expired":
		return loopmq.Identity{Username: r.Username, ExpiresAt: time.Now().Add(-time.Second)}, nil, nil
	}
	return loopmq.Identity{Username: r.Username}, nil, nil
}

func (callerAuth) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, errors.New("never")
}

func (a callerAuth) Authorize(_ context.Context, c *loopmq.ClientInfo, _ loopmq.Action, topic string, _ byte, _ bool) bool {
	if a.asked != nil {
		a.asked <- topic
	}
	return len(topic) > len(c.Username) && topic[:len(c.Username)+1] == c.Username+"/"
}

func callerRequest(username string) *loopmq.ConnectRequest {
	return &loopmq.ConnectRequest{
		ClientID: username + "-id", Username: username, HasUsername: true, Password: []byte("right"),
		RemoteAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}, Listener: "http",
	}
}

func mustAuthenticate(t *testing.T, b *loopmq.Broker, r *loopmq.ConnectRequest, s *loopmq.Settings) *loopmq.Caller {
	t.Helper()
	c, err := b.Authenticate(t.Context(), r, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func wantReason(t *testing.T, what string, err error, want codec.ReasonCode) {
	t.Helper()
	var e *codec.Error
	if !errors.As(err, &e) || e.ReasonCode != want {
		t.Errorf("%s: got %v, want reason code %v", what, err, want)
	}
}

func TestCallerPublishesAsAClientDoes(t *testing.T) {
	t.Parallel()
	published := make(chan loopmq.ClientInfo, 10)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Recorder = loopmq.OnEvent(func(e *loopmq.Event) { published <- *e.Client }, loopmq.EventMessagePublished)
	})
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("alice/#", 2)
	c := mustAuthenticate(t, s.Broker, callerRequest("alice"), &loopmq.Settings{Authenticator: callerAuth{}, Authorizer: callerAuth{}})
	for qos := range byte(3) {
		p, err := c.Publish(t.Context(), &loopmq.Message{TopicName: "alice/t", Payload: []byte("x"), QoS: qos, ContentType: "text/plain"})
		if err != nil || p.Matched != 1 {
			t.Fatalf("got %+v, %v", p, err)
		}
		m := sub.ExpectPublish("alice/t", "x")
		if m.QoS != qos || string(m.Properties.ContentType) != "text/plain" {
			t.Errorf("got %s", brokertest.Describe(m))
		}
		sub.Acknowledge(m)
		info := <-published
		if info.ClientID != "alice-id" || info.Username != "alice" || info.Listener != "http" || info.RemoteAddr().String() != "192.0.2.7:1" {
			t.Errorf("got %+v", info)
		}
	}
	_, err := c.Publish(t.Context(), &loopmq.Message{TopicName: "bob/t"})
	wantReason(t, "another's topic", err, codec.NotAuthorized)
	if !c.Authorize(t.Context(), loopmq.ActionSubscribe, "$share/g/alice/#", 1, false) || c.Authorize(t.Context(), loopmq.ActionSubscribe, "bob/#", 1, false) {
		t.Error("wrong decision on a Topic Filter")
	}
	for what, m := range map[string]*loopmq.Message{
		"$SYS": {TopicName: "$SYS/broker/x"}, "$share": {TopicName: "$share/g/x"},
	} {
		_, err := c.Publish(t.Context(), m)
		wantReason(t, what, err, codec.NotAuthorized)
	}
	_, err = c.Publish(t.Context(), &loopmq.Message{TopicName: "alice/+"})
	wantReason(t, "wildcard", err, codec.TopicNameInvalid)
}

func TestCallerIsRefusedAsAConnectIs(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	set := &loopmq.Settings{Authenticator: callerAuth{}}
	wrong := callerRequest("alice")
	wrong.Password = []byte("wrong")
	stepwise := callerRequest("alice")
	stepwise.AuthenticationMethod = "SCRAM"
	nobody := &loopmq.ConnectRequest{}
	for _, c := range []struct {
		what string
		r    *loopmq.ConnectRequest
		s    *loopmq.Settings
		want codec.ReasonCode
	}{
		{"wrong password", wrong, set, codec.BadUserNameOrPassword},
		{"expired", callerRequest("expired"), set, codec.NotAuthorized},
		{"a method of several steps", stepwise, set, codec.BadAuthenticationMethod},
		{"a method that nobody knows", stepwise, nil, codec.BadAuthenticationMethod},
		{"no ClientID", nobody, &loopmq.Settings{RefuseEmptyClientID: true}, codec.ClientIdentifierNotValid},
		{"no user name", nobody, &loopmq.Settings{UsernameAsClientID: true}, codec.BadUserNameOrPassword},
		{"anonymous", nobody, &loopmq.Settings{Anonymous: loopmq.AnonymousRefused}, codec.NotAuthorized},
	} {
		_, err := s.Broker.Authenticate(t.Context(), c.r, c.s)
		wantReason(t, c.what, err, c.want)
	}
	if n := s.Broker.Metrics().AuthFailures.Get(); n != 6 {
		t.Errorf("%d failures counted, want 6", n)
	}
	if c := mustAuthenticate(t, s.Broker, nobody, nil); c.Info().ClientID == "" {
		t.Error("no ClientID was made up")
	}
}

func TestCallerEnds(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	set := &loopmq.Settings{Authenticator: callerAuth{}}
	c, other := mustAuthenticate(t, s.Broker, callerRequest("alice"), set), mustAuthenticate(t, s.Broker, callerRequest("bob"), set)
	n := s.Broker.DisconnectWhere(func(c *loopmq.ClientInfo) bool { return c.Username == "alice" }, codec.Banned)
	if n != 1 || other.Err() != nil {
		t.Errorf("%d ended, the other one: %v", n, other.Err())
	}
	wantReason(t, "Err", c.Err(), codec.Banned)
	_, err := c.Publish(t.Context(), &loopmq.Message{TopicName: "t"})
	wantReason(t, "Publish", err, codec.Banned)
	other.Close()
	if n := s.Broker.DisconnectWhere(func(*loopmq.ClientInfo) bool { return true }, codec.Banned); n != 0 || other.Err() != nil {
		t.Errorf("%d ended, that were closed: %v", n, other.Err())
	}
	brief := mustAuthenticate(t, s.Broker, callerRequest("brief"), set)
	<-time.After(time.Until(brief.ExpiresAt()))
	wantReason(t, "expired", brief.Err(), codec.NotAuthorized)
}

func TestCallerDecisionsAreKept(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	auth := callerAuth{make(chan string, 10)}
	c := mustAuthenticate(t, s.Broker, callerRequest("alice"), &loopmq.Settings{Authorizer: auth})
	publish := func() {
		t.Helper()
		if _, err := c.Publish(t.Context(), &loopmq.Message{TopicName: "alice/t"}); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	publish()
	if len(auth.asked) != 1 {
		t.Errorf("asked %d times, want once", len(auth.asked))
	}
	s.Broker.DropDecisions()
	publish()
	if len(auth.asked) != 2 {
		t.Errorf("asked %d times, want twice", len(auth.asked))
	}
}

func TestCallerWaitsForItsRate(t *testing.T) {
	t.Parallel()
	for scope, limits := range map[metrics.Scope]loopmq.Limits{
		metrics.ScopeClient:  {Client: loopmq.Traffic{MessageRate: rate.Limit{PerSecond: 1, Burst: 3}}},
		metrics.ScopeAddress: {Address: loopmq.Quota{Traffic: loopmq.Traffic{ByteRate: rate.Limit{PerSecond: 1, Burst: 8}}}},
		metrics.ScopeNode:    {Node: loopmq.Traffic{MessageRate: rate.Limit{PerSecond: 1, Burst: 3}}},
	} {
		s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits = limits })
		c := mustAuthenticate(t, s.Broker, callerRequest("alice"), nil)
		three := []loopmq.Message{{TopicName: "a/1"}, {TopicName: "a/2"}, {TopicName: "a/3"}}
		if _, err := c.PublishAll(t.Context(), three); err != nil {
			t.Fatal(err)
		}
		var wait *loopmq.RateError
		var err error
		eventually(t, "it has to wait", func() bool { // at once, but where a second passes meanwhile
			_, err = c.Publish(t.Context(), &three[0])
			return err != nil
		})
		if !errors.As(err, &wait) || wait.Scope != scope || wait.RetryAfter <= 0 || wait.RetryAfter > 2*time.Second {
			t.Errorf("%v: got %v, %+v", scope, err, wait)
		}
		if n := s.Broker.Metrics().TrafficExceeded[scope].Get(); n != 1 {
			t.Errorf("%v: counted %d", scope, n)
		}
	}
}

func TestCallerPublishesAllOrNone(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("t/#", 1)
	c := mustAuthenticate(t, s.Broker, callerRequest("alice"), nil)
	_, err := c.PublishAll(t.Context(), []loopmq.Message{{TopicName: "t/1"}, {TopicName: "t/+"}, {TopicName: "t/3", QoS: 3}})
	var none *loopmq.NonePublishedError
	if !errors.As(err, &none) || none.Errors[0] != nil || !errors.Is(none.Errors[1], loopmq.ErrTopicName) || !errors.Is(none.Errors[2], loopmq.ErrQoS) || none.Error() == "" {
		t.Errorf("got %v", err)
	}
	got, err := c.PublishAll(t.Context(), []loopmq.Message{{TopicName: "t/1", QoS: 1}, {TopicName: "nobody", QoS: 1}, {TopicName: "t/2"}})
	if err != nil || got[0].Matched != 1 || got[1].Matched != 0 || got[2].Matched != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	sub.Acknowledge(sub.ExpectPublish("t/1", ""))
	sub.ExpectPublish("t/2", "")
	if got, err := c.PublishAll(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
}

func TestCallerReadsRetained(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	c := mustAuthenticate(t, s.Broker, callerRequest("alice"), &loopmq.Settings{Authorizer: callerAuth{}, MountPoint: "alice/"})
	sent := &loopmq.Message{
		TopicName: "t", Payload: []byte("x"), QoS: 1, Retain: true, MessageExpiryInterval: 100, PayloadFormatIndicator: 1, ContentType: "c", ResponseTopic: "r",
		CorrelationData: []byte{0, 1}, UserProperties: []loopmq.UserProperty{{Key: "k", Value: "v"}},
	}
	if _, err := c.Retained(t.Context(), "t"); !errors.Is(err, loopmq.ErrNoRetained) {
		t.Errorf("got %v", err)
	}
	if c.MayBeRetained("#") {
		t.Error("there may be a retained message")
	}
	if _, err := c.Publish(t.Context(), sent); err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]bool{"t": true, "+": true, "#": true, "t/+": false, "$share/g/t": false, "": false} {
		if got := c.MayBeRetained(filter); got != want {
			t.Errorf("%q: it may be retained: %t", filter, got)
		}
	}
	m, err := c.Retained(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	if m.TopicName != "t" || string(m.Payload) != "x" || m.QoS != 1 || !m.Retain || m.MessageExpiryInterval != 100 || m.PayloadFormatIndicator != 1 ||
		m.ContentType != "c" || m.ResponseTopic != "r" || string(m.CorrelationData) != "\x00\x01" || len(m.UserProperties) != 1 || m.UserProperties[0].Value != "v" ||
		m.PublisherID != "alice-id" {
		t.Errorf("got %+v", m)
	}
	bob := mustAuthenticate(t, s.Broker, callerRequest("bob"), &loopmq.Settings{Authorizer: callerAuth{}})
	_, err = bob.Retained(t.Context(), "alice/t")
	wantReason(t, "another's topic", err, codec.NotAuthorized)
	_, err = bob.Retained(t.Context(), "bob/#")
	wantReason(t, "wildcard", err, codec.TopicNameInvalid)
}

func TestCallerPublishesOnce(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	sub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable(brokertest.Name()))
	sub.Subscribe("t/#", 2)
	live := brokertest.Connect(t, s.Addr, codec.V5)
	live.Subscribe("t/#", 1)
	alice, bob := mustAuthenticate(t, s.Broker, callerRequest("alice"), nil), mustAuthenticate(t, s.Broker, callerRequest("bob"), nil)
	again := mustAuthenticate(t, s.Broker, callerRequest("alice"), nil)
	for qos := range byte(3) {
		key := "key" + string('0'+qos)
		publish := func(c *loopmq.Caller, text string) (string, bool) {
			t.Helper()
			noted, first, err := c.PublishOnce(t.Context(), &loopmq.Message{TopicName: "t/" + text, QoS: qos, Payload: []byte(text)}, key, time.Hour, func(p loopmq.Published) []byte {
				return []byte(text + string(rune('0'+p.Matched)))
			})
			if err != nil {
				t.Fatal(err)
			}
			return string(noted), first
		}
		if noted, first := publish(alice, "a"); noted != "a2" || !first {
			t.Errorf("QoS %d: %q, %v", qos, noted, first)
		}
		if noted, first := publish(again, "b"); noted != "a2" || first {
			t.Errorf("QoS %d: %q, %v: the same user's again", qos, noted, first)
		}
		if noted, first := publish(bob, "c"); noted != "c2" || !first {
			t.Errorf("QoS %d: %q, %v: another user's", qos, noted, first)
		}
		for _, c := range []*brokertest.Client{sub, live} {
			c.Acknowledge(c.ExpectPublish("t/a", "a"))
			c.Acknowledge(c.ExpectPublish("t/c", "c"))
			c.ExpectNothing()
		}
	}
}

func TestCallerPublishesAllOnce(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("t/#", 1)
	c := mustAuthenticate(t, s.Broker, callerRequest("alice"), nil)
	publish := func(mark string, texts ...string) ([][]byte, bool, error) {
		var messages []loopmq.Message
		for _, text := range texts {
			messages = append(messages, loopmq.Message{TopicName: "t/" + text, QoS: 1})
		}
		return c.PublishAllOnce(t.Context(), messages, "key", time.Hour, func(i int, _ loopmq.Published) []byte { return []byte(mark + texts[i]) },
			func(noted []byte) bool { return string(noted[:1]) == mark })
	}
	noted, first, err := publish("x", "1") // as of a call that died after the first message
	if err != nil || !first || len(noted) != 1 || string(noted[0]) != "x1" {
		t.Fatalf("%q, %v, %v", noted, first, err)
	}
	if noted, first, err = publish("x", "1", "2", "3"); err != nil || first || len(noted) != 3 || string(noted[0]) != "x1" || string(noted[2]) != "x3" {
		t.Errorf("%q, %v, %v", noted, first, err)
	}
	if noted, first, err = publish("x", "1", "2", "3"); err != nil || first || len(noted) != 3 || string(noted[1]) != "x2" {
		t.Errorf("%q, %v, %v", noted, first, err)
	}
	if noted, first, err = publish("y", "7", "8"); err != nil || first || len(noted) != 1 || string(noted[0]) != "x1" {
		t.Errorf("another call: %q, %v, %v", noted, first, err)
	}
	var none *loopmq.NonePublishedError
	if _, _, err = publish("x", "1", "+"); !errors.As(err, &none) {
		t.Errorf("got %v", err)
	}
	for _, text := range []string{"1", "2", "3"} {
		sub.Acknowledge(sub.ExpectPublish("t/"+text, ""))
	}
	sub.ExpectNothing()
}

// A retained message that is published under a key of before doesn't replace a newer one.
func TestCallerPublishesRetainedOnce(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	c := mustAuthenticate(t, s.Broker, callerRequest("alice"), nil)
	m := &loopmq.Message{TopicName: "t", QoS: 1, Retain: true, Payload: []byte("old")}
	none := func(loopmq.Published) []byte { return nil }
	if _, first, err := c.PublishOnce(t.Context(), m, "k", time.Hour, none); err != nil || !first {
		t.Fatal(first, err)
	}
	if _, err := c.Publish(t.Context(), &loopmq.Message{TopicName: "t", QoS: 1, Retain: true, Payload: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	if _, first, err := c.PublishOnce(t.Context(), m, "k", time.Hour, none); err != nil || first {
		t.Fatal(first, err)
	}
	for deadline := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		got, err := c.Retained(t.Context(), "t")
		if err == nil && string(got.Payload) == "new" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
}
