package auth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
)

// matches is the standard's definition of a match, level by level [MQTT-4.7.1].
func matches(filter, topic []string) bool {
	switch {
	case len(filter) == 1 && filter[0] == "#":
		return true
	case len(filter) == 0 || len(topic) == 0:
		return len(filter) == len(topic)
	}
	return (filter[0] == "+" || filter[0] == topic[0]) && matches(filter[1:], topic[1:])
}

func matchesTopic(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && strings.ContainsRune("+#", rune(filter[0])) {
		return false
	}
	return matches(strings.Split(filter, "/"), strings.Split(topic, "/"))
}

// A filter covers another one if it matches each topic that the other one matches.
func TestCoversAgainstAllTopics(t *testing.T) {
	// Topics are a level deeper than filters, and have a word that no filter has: so
	// what # and + match more shows.
	words := []string{"a", "b", "", "$x"}
	topics, filters := combine(append(words, "c"), 4), combine(append(words, "+", "#"), 3)
	topics = append(topics, "") // No topic is, but /# would match it.
	filters = slices.DeleteFunc(filters, func(f string) bool { return !codec.ValidTopicFilter([]byte(f)) })
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	covered := 0
	for range 3000 {
		f, g := filters[r.IntN(len(filters))], filters[r.IntN(len(filters))]
		want := !slices.ContainsFunc(topics, func(topic string) bool { return matchesTopic(g, topic) && !matchesTopic(f, topic) })
		got := covers(f, g)
		if f == "+/#" && g == "#" {
			want = false // They match the same, but who lists the one is not taken to mean the other.
		}
		if got != want {
			t.Fatalf("seed %d: covers(%q, %q) = %v, want %v", seed, f, g, got, want)
		}
		if got {
			covered++
		}
	}
	for range 20_000 {
		f, topic := filters[r.IntN(len(filters))], topics[r.IntN(len(topics))]
		if got, want := covers(f, topic), matchesTopic(f, topic); got != want {
			t.Fatalf("seed %d: covers(%q, %q) = %v, want %v", seed, f, topic, got, want)
		}
	}
	if covered < 100 {
		t.Errorf("seed %d: only %d of the pairs were covered", seed, covered)
	}
}

// combine returns all topics of up to so many levels out of words.
func combine(words []string, levels int) []string {
	if levels == 0 {
		return nil
	}
	var out []string
	for _, w := range words {
		if w != "" {
			out = append(out, w)
		}
		for _, rest := range combine(words, levels-1) {
			out = append(out, w+"/"+rest)
		}
		if levels > 1 {
			out = append(out, w+"/")
		}
	}
	return out
}

func TestGrantNames(t *testing.T) {
	lists := `{"publish": ["a/%c", "b/%u/x", "c/%c%u", "d"], "subscribe": ["%u/#"]}`
	for _, c := range []struct {
		clientID, username string
		publish            []string
		subscribe          []string
	}{
		{"c", "u", []string{"a/c", "b/u/x", "c/cu", "d"}, []string{"u/#"}},
		{"c/d", "u", []string{"b/u/x", "d"}, []string{"u/#"}},
		{"#", "+", []string{"d"}, nil},
		{"%u", "u", []string{"a/%u", "b/u/x", "c/%uu", "d"}, []string{"u/#"}},
		{"c", "", []string{"a/c", "d"}, nil},
		{"c", "$SYS", []string{"a/c", "b/$SYS/x", "c/c$SYS", "d"}, []string{"$SYS/#"}},
	} {
		g, err := parseGrant([]byte(lists), c.clientID, c.username)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(g.publish, c.publish) || !slices.Equal(g.subscribe, c.subscribe) {
			t.Errorf("%q %q: got %q and %q", c.clientID, c.username, g.publish, g.subscribe)
		}
	}
	many := `{"publish": ["a"` + strings.Repeat(`, "a"`, grantFiltersMax) + `]}`
	for _, bad := range []string{many, `[]`, `"#"`, `{"publish": "#"}`, `{"publish": [""]}`, `{"publish": ["a/#/b"]}`, `{"Subscribed": []}`, ``} {
		if g, err := parseGrant([]byte(bad), "c", "u"); err == nil {
			t.Errorf("%.60s became %v", bad, g)
		}
	}
	if g, err := parseGrant([]byte(`{}`), "c", "u"); err != nil || g.Allows(loopmq.ActionPublish, "a") || g.Allows(loopmq.ActionSubscribe, "a") {
		t.Errorf("got %v, %v: nothing listed allows something", g, err)
	}
}

// saying is a Rule that says the same about everything.
type saying struct {
	name string
	d    Decision
	err  error
}

func (s saying) Name() string { return s.name }

func (s saying) Judge(context.Context, *loopmq.ClientInfo, loopmq.Action, string, byte, bool) (Decision, error) {
	return s.d, s.err
}

// fastSaying says it at once, and nothing about deliveries.
type fastSaying struct{ saying }

func (s fastSaying) JudgeFast(*loopmq.ClientInfo, loopmq.Action, string, byte, bool) (Decision, bool) {
	return s.d, true
}

func (fastSaying) JudgesDeliveries() bool { return false }

func TestRules(t *testing.T) {
	set := metrics.New(1)
	o := RulesOptions{Metrics: set, Logger: discard}
	yes, no, next := saying{"acl_file", Accept, nil}, saying{"acl_file", Reject, nil}, saying{"claims", Next, nil}
	broken := saying{"http_acl", Next, errors.New("away")}
	c := &loopmq.ClientInfo{ClientID: "c"}
	for _, x := range []struct {
		name  string
		rules *Rules
		a     loopmq.Action
		slow  bool
		fast  string
	}{
		{"none", NewRules(o), loopmq.ActionPublish, false, "false true"},
		{"none, allowed", NewRules(RulesOptions{AllowByDefault: true}), loopmq.ActionPublish, true, "true true"},
		{"yes", NewRules(o, next, yes, no), loopmq.ActionPublish, true, "false false"},
		{"no", NewRules(o, next, no, yes), loopmq.ActionPublish, false, "false false"},
		{"fast yes", NewRules(o, fastSaying{next}, fastSaying{yes}, no), loopmq.ActionPublish, true, "true true"},
		{"fast no", NewRules(o, fastSaying{no}, yes), loopmq.ActionSubscribe, false, "false true"},
		{"fast next, then slow", NewRules(o, fastSaying{next}, yes), loopmq.ActionSubscribe, true, "false false"},
		{"away", NewRules(o, broken, yes), loopmq.ActionPublish, false, "false false"},
		{"delivery, no say", NewRules(o, fastSaying{no}, no), loopmq.ActionDeliver, true, "true true"},
		{"delivery", NewRules(o, no), loopmq.ActionDeliver, false, "false false"},
	} {
		if got := x.rules.Authorize(t.Context(), c, x.a, "t", 0, false); got != x.slow {
			t.Errorf("%s: Authorize = %v", x.name, got)
		}
		allowed, known := x.rules.AuthorizeFast(c, x.a, "t", 0, false)
		if got := fmt.Sprint(allowed, known); got != x.fast {
			t.Errorf("%s: AuthorizeFast = %s, want %s", x.name, got, x.fast)
		}
	}
	if set.Auth.Decisions[metrics.AuthHTTPACL][metrics.AuthFailed].Get() != 1 || set.Auth.Decisions[metrics.AuthACL][metrics.AuthAccepted].Get() != 4 {
		t.Error("decisions aren't counted")
	}
	if NewRules(o, fastSaying{yes}).AuthorizesDeliveries() || !NewRules(o, fastSaying{yes}, Claims{}).AuthorizesDeliveries() {
		t.Error("deliveries are asked about though no Rule has a say, or the other way round")
	}
	rule, err := NewHTTPRule(HTTPOptions{URL: "https://auth.example"})
	if err != nil {
		t.Fatal(err)
	}
	if NewRules(o, Claims{}).DecisionTTL() >= 0 || NewRules(o, Claims{}, rule).DecisionTTL() != 0 {
		t.Error("decisions of an HTTP service are kept, or others aren't")
	}
}

// What a token says holds in the broker: who, what, and until when.
func TestJWTBroker(t *testing.T) {
	t.Parallel()
	j := mustJWT(t, JWTOptions{SecretFiles: []string{mustWrite(t, "secret", testKeys.secret)}, ClientIDClaim: "cid", ACLClaim: "acl"})
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = NewChain(Options{Logger: discard}, Step{Method: j})
		o.Authorizer = NewRules(RulesOptions{Logger: discard}, Claims{})
	})
	token := func(sub, cid string, life time.Duration) string {
		return sign(t, jwt.SigningMethodHS256, testKeys.secret, "", jwt.MapClaims{
			"sub": sub, "cid": cid, "exp": float64(time.Now().Add(life).UnixMilli()) / 1000,
			"acl": map[string]any{"publish": []string{"up/%c"}, "subscribe": []string{"down/%u/#"}},
		})
	}
	for _, version := range []string{"mqttv311", "mqttv5"} {
		args := []string{"-V", version, "-i", "pump-7", "-u", "any", "-q", "1", "-m", "x"}
		if out, code := mosquitto(t, "mosquitto_pub", s.Addr, append(args, "-P", token("alice", "pump-7", time.Hour), "-t", "up/pump-7")...); code != 0 || out != "" {
			t.Errorf("%s: %d %s", version, code, out)
		}
		for name, bad := range map[string]string{
			"another client's": token("alice", "pump-8", time.Hour), "expired": token("alice", "pump-7", -time.Minute), "none": "secret",
		} {
			if _, code := mosquitto(t, "mosquitto_pub", s.Addr, append(args, "-P", bad, "-t", "up/pump-7")...); code == 0 {
				t.Errorf("%s: a token is accepted: %s", version, name)
			}
		}
	}
	for _, version := range []codec.Version{codec.V311, codec.V5} {
		c := brokertest.Connect(t, s.Addr, version, brokertest.ClientID("pump-7"), brokertest.Credentials("any", token("alice", "pump-7", 4*time.Second)))
		c.Subscribe("down/alice/+", 0)
		if version == codec.V5 {
			refuseSubscribe(c, "down/#")
			id := c.PacketID()
			c.Send(&codec.Publish{TopicName: []byte("up/pump-8"), PacketID: id, QoS: 1})
			c.ExpectAck(codec.TypePuback, id, codec.NotAuthorized)
			c.ExpectDisconnect(codec.NotAuthorized)
		} else {
			c.ExpectClosed()
		}
	}
}

// A client of 5.0 presents a new token before the old one ends, and stays.
func TestJWTReauthentication(t *testing.T) {
	t.Parallel()
	j := mustJWT(t, JWTOptions{SecretFiles: []string{mustWrite(t, "secret", testKeys.secret)}, ACLClaim: "acl"})
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = NewChain(Options{Logger: discard}, Step{Method: j})
		o.Authorizer = NewRules(RulesOptions{Logger: discard}, Claims{})
	})
	data := func(life time.Duration, topic string) []any {
		token := sign(t, jwt.SigningMethodHS256, testKeys.secret, "", jwt.MapClaims{
			"sub": "alice", "exp": float64(time.Now().Add(life).UnixMilli()) / 1000, "acl": map[string]any{"publish": []string{topic}},
		})
		return []any{codec.PropAuthenticationMethod, "JWT", codec.PropAuthenticationData, token}
	}
	c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("c"), brokertest.With(data(4*time.Second, "first")...))
	publish := func(topic string, code codec.ReasonCode) {
		t.Helper()
		id := c.PacketID()
		c.Send(&codec.Publish{TopicName: []byte(topic), PacketID: id, QoS: 1})
		c.ExpectAck(codec.TypePuback, id, code)
	}
	publish("first", codec.NoMatchingSubscribers)
	publish("second", codec.NotAuthorized)
	began := time.Now()
	c.Send(&codec.Auth{ReasonCode: codec.ReAuthenticate, Properties: brokertest.Properties(data(5*time.Second, "second")...)})
	c.ExpectAuth(codec.Success)
	publish("second", codec.NoMatchingSubscribers)
	publish("first", codec.NotAuthorized)
	c.ExpectDisconnect(codec.NotAuthorized)
	if after := time.Since(began); after < 4*time.Second {
		t.Errorf("the connection ended %v after the new token, which was good for 5 s", after)
	}
}

func FuzzParseGrant(f *testing.F) {
	f.Add([]byte(`{"publish": ["a/%c/#", "%u"], "subscribe": ["+/%c%u"]}`), "c", "u", "a/c/x")
	f.Add([]byte(`{"publish": ["#"]}`), "#", "+", "$SYS/x")
	f.Fuzz(func(t *testing.T, text []byte, clientID, username, topic string) {
		g, err := parseGrant(text, clientID, username)
		if err != nil || !codec.ValidTopicName([]byte(topic)) {
			return
		}
		want := false
		for _, filter := range g.publish {
			want = want || matchesTopic(filter, topic)
		}
		if got := g.Allows(loopmq.ActionPublish, topic); got != want {
			t.Fatalf("%q allows %q: %v", g.publish, topic, got)
		}
	})
}
