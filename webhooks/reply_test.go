package webhooks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// question is the record of a message whose publisher waits for an answer at a topic.
func question(id byte, responseTopic string) []byte {
	r := record{
		id: [16]byte{id}, kind: kindPublished, at: happened, topicName: []byte("ask"), payload: []byte("?"),
		properties: properties(func(p *codec.Properties) {
			p.ResponseTopic, p.CorrelationData = []byte(responseTopic), []byte("c1")
			p.Set(codec.PropResponseTopic)
			p.Set(codec.PropCorrelationData)
		}),
	}
	return r.encode()
}

// mustReply starts a broker, what answers at it, and a client that waits for the answers.
func mustReply(t *testing.T, r *Replies, options ...func(*loopmq.Options)) (*Replier, *brokertest.Client) {
	t.Helper()
	b := brokertest.Start(t, options...)
	replier := NewReplier(b.Broker, endpoint(t, func(e *Endpoint) { e.Replies = r }))
	t.Cleanup(replier.Close)
	c := brokertest.Connect(t, b.Addr, codec.V5)
	c.Subscribe("answer/#", 1)
	return replier, c
}

// What a response becomes.
func TestReplies(t *testing.T) {
	r, c := mustReply(t, &Replies{TopicFilters: []string{"answer/+"}, QoS: 1, Expiry: time.Minute})
	for i, test := range []struct {
		response    Response
		payload     string
		contentType string
		text        bool // Payload Format Indicator
		user        string
	}{
		{Response{Status: 200, ContentType: "application/json", Body: []byte(`{"a":1}`)}, `{"a":1}`, "application/json", true, "http-status=200"},
		{Response{Status: 200, ContentType: "text/plain", Body: []byte("\xff")}, "\xff", "text/plain", false, "http-status=200"},
		{Response{Status: 202, ContentType: "image/png", Body: []byte("x")}, "x", "image/png", false, "http-status=202"},
		{Response{Status: 204}, "", "", false, "http-status=204"},
		{Response{Status: 302}, "", "", false, "http-status=302 reason-code=0x80"},
		{Response{Status: 403, ContentType: "application/problem+json", Body: []byte("{}")}, "{}", "application/problem+json", true, "http-status=403 reason-code=0x87"},
		{Response{Status: 413}, "", "", false, "http-status=413 reason-code=0x95"},
		{Response{Status: 422, ContentType: "a\x00b", Body: []byte("no")}, "no", "", false, "http-status=422 reason-code=0x99"},
		{Response{Status: 429}, "", "", false, "http-status=429 reason-code=0x97"},
		{Response{Status: 500}, "", "", false, "http-status=500 reason-code=0x80"},
		{Response{Status: 503}, "", "", false, "http-status=503 reason-code=0x88"},
		{Response{Status: 200, Body: []byte("half of i"), Truncated: true}, "", "", false, "http-status=502 reason-code=0x88"},
		{Response{}, "", "", false, "http-status=504 reason-code=0x88"},
	} {
		if sent, err := r.Reply(t.Context(), question(byte(i), "answer/7"), &test.response); !sent || err != nil {
			t.Fatalf("%+v: %v, %v", test.response, sent, err)
		}
		m := brokertest.Expect[*codec.Publish](c)
		var user []string
		for _, u := range m.Properties.UserProperties {
			user = append(user, string(u.Key)+"="+string(u.Value))
		}
		got := fmt.Sprintf("%s %q %q %v %s %s %d", m.TopicName, m.Payload, m.Properties.ContentType, m.Properties.PayloadFormatIndicator == 1, strings.Join(user, " "),
			m.Properties.CorrelationData, m.Properties.MessageExpiryInterval)
		want := fmt.Sprintf("answer/7 %q %q %v %s c1 60", test.payload, test.contentType, test.text, test.user)
		if got != want || m.QoS != 1 || m.Retain {
			t.Errorf("%+v:\ngot  %s\nwant %s", test.response, got, want)
		}
	}
}

// A function that is called twice with an event answers once.
func TestReplyOnce(t *testing.T) {
	r, c := mustReply(t, &Replies{TopicFilters: []string{"answer/+"}})
	for _, body := range []string{"one", "two"} {
		if sent, err := r.Reply(t.Context(), question(1, "answer/7"), &Response{Status: 200, Body: []byte(body)}); !sent || err != nil {
			t.Fatal(sent, err)
		}
	}
	if _, err := r.Reply(t.Context(), question(2, "answer/7"), &Response{Status: 200, Body: []byte("three")}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "three"} {
		if got := string(brokertest.Expect[*codec.Publish](c).Payload); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// authorizer lets nobody publish below answer/secret, and remembers who asked.
type authorizer struct{ who atomic.Value }

func (a *authorizer) Authorize(_ context.Context, c *loopmq.ClientInfo, _ loopmq.Action, topic string, _ byte, _ bool) bool {
	a.who.Store(c.ClientID + " " + c.Username)
	return !strings.HasPrefix(topic, "answer/secret")
}

func TestRepliesThatAreRefused(t *testing.T) {
	a := new(authorizer)
	r, c := mustReply(t, &Replies{TopicFilters: []string{"answer/+"}, Username: "functions", Authorizer: a})
	for _, topic := range []string{"elsewhere", "answer/7/8", "answer/secret", "$SYS/broker"} {
		if sent, err := r.Reply(t.Context(), question(1, topic), &Response{Status: 200}); sent || !errors.Is(err, ErrReply) {
			t.Errorf("to %.20q: got %v, %v, want ErrReply", topic, sent, err)
		}
	}
	if _, err := r.Reply(t.Context(), []byte("damaged"), &Response{Status: 200}); !errors.Is(err, ErrRecord) {
		t.Errorf("a damaged record: got %v", err)
	}
	of := aMessage("x", "")
	delivered := record{kind: "message.delivered", topicName: []byte("a"), properties: question(1, "answer/7")}
	for _, data := range [][]byte{of.encode(), delivered.encode()} {
		if sent, err := r.Reply(t.Context(), data, &Response{Status: 200}); sent || err != nil {
			t.Errorf("nobody waits: got %v, %v", sent, err)
		}
	}
	if sent, err := r.Reply(t.Context(), question(1, "answer/7"), &Response{Status: 200}); !sent || err != nil {
		t.Error(sent, err)
	}
	if brokertest.Expect[*codec.Publish](c); a.who.Load() != "webhook-test functions" {
		t.Errorf("who asked: %v", a.who.Load())
	}
}

// An answer that no packet can carry tells the client that there was one; and who publishes is another one after Close.
func TestReplyThatIsTooLarge(t *testing.T) {
	r, c := mustReply(t, &Replies{TopicFilters: []string{"#"}}, func(o *loopmq.Options) { o.Limits.PacketSize = 200 })
	if sent, err := r.Reply(t.Context(), question(1, "answer/7"), &Response{Status: 200, Body: make([]byte, 1000)}); !sent || err != nil {
		t.Fatal(sent, err)
	}
	if m := brokertest.Expect[*codec.Publish](c); len(m.Payload) > 0 || string(m.Properties.UserProperties[0].Value) != "502" {
		t.Errorf("got %d bytes, %s", len(m.Payload), m.Properties.UserProperties)
	}
	r.Close()
	if sent, err := r.Reply(t.Context(), question(2, "answer/7"), &Response{Status: 200}); !sent || err != nil {
		t.Fatal(sent, err)
	}
}

// What passes isn't called final.
func TestReplyWhileTheBrokerIsDown(t *testing.T) {
	b, err := brokertest.Run()
	if err != nil {
		t.Fatal(err)
	}
	r := NewReplier(b.Broker, endpoint(t, func(e *Endpoint) { e.Replies = &Replies{TopicFilters: []string{"#"}} }))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if sent, err := r.Reply(t.Context(), question(1, "answer/7"), &Response{Status: 200}); sent || err == nil || errors.Is(err, ErrReply) {
		t.Errorf("got %v, %v", sent, err)
	}
}
