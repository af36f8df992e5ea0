package loadtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// scenarioBytesMax bounds a scenario file.
const scenarioBytesMax = 1 << 20

// stampBytes is what the audit needs of each payload: publisher, number, time.
const stampBytes = 16

// Shape says whose messages go to whom.
type Shape string

// The shapes.
const (
	Idle     Shape = "idle"     // Connections clients connect, subscribe to Filters filters each, and stay
	Connects Shape = "connects" // Connections clients connect and disconnect, over and over
	P2P      Shape = "p2p"      // publisher i -> subscriber i
	FanIn    Shape = "fan-in"   // all publishers, a topic each -> every subscriber, with a wildcard
	FanOut   Shape = "fan-out"  // all publishers, a topic each -> every subscriber, with a filter for each topic
	Shared   Shape = "shared"   // all publishers, a topic each -> Groups shared subscriptions, each with its part of the subscribers
	Retained Shape = "retained" // Topics retained messages -> subscribers that subscribe to all of them, over and over
	Offline  Shape = "offline"  // as P2P, but the subscribers are away while messages are published, and then come for them
	Takeover Shape = "takeover" // Connections ClientIDs that connect again while they are connected
	Mixed    Shape = "mixed"    // Parts, all at once
)

var shapes = []Shape{Idle, Connects, P2P, FanIn, FanOut, Shared, Retained, Offline, Takeover, Mixed}

// Kill is a command that runs during the measured time, to see what a broker does when something dies.
type Kill struct {
	// After is when the command starts, from the beginning of the measured time.
	After time.Duration `yaml:"after" json:"after_ns"`
	// Command is run by sh. Its failure is an error of the run, which goes on.
	Command string `yaml:"command" json:"command"`
}

// TLS says how connections to tls:// and wss:// are secured. All are files of PEM.
type TLS struct {
	CAFile   string `yaml:"ca,omitempty" json:"ca,omitempty"`     // authorities of the broker's certificate; "": the system's
	CertFile string `yaml:"cert,omitempty" json:"cert,omitempty"` // the clients' certificate, with KeyFile
	KeyFile  string `yaml:"key,omitempty" json:"key,omitempty"`
	// ServerName is whom the broker's certificate has to name; "": the host of the target.
	ServerName string `yaml:"server_name,omitempty" json:"server_name,omitempty"`
	// Insecure takes any certificate.
	Insecure bool `yaml:"insecure,omitempty" json:"insecure,omitempty"`
}

// Scenario is a load. The zero value of a field means what its comment says; [Scenario.Check] fills in what is left out. A
// Scenario isn't changed while it runs.
type Scenario struct {
	// Name is what reports call it.
	Name  string `yaml:"name" json:"name"`
	Shape Shape  `yaml:"shape" json:"shape"`

	// Targets are the brokers as URLs, tcp:// (mqtt://), tls:// (mqtts://), ws:// or wss://, over which the clients are spread.
	// The path of a WebSocket is /mqtt if there is none.
	Targets []string `yaml:"targets,omitempty" json:"targets,omitempty"`

	// PublishURL is where publishers publish by HTTP, and not by MQTT: loopmq's /publish, or /api/v5/publish of EMQX. Each sends
	// one request at a time, since they have no order otherwise, at QoS 0 or 1. "" means by MQTT.
	PublishURL string `yaml:"publish_url,omitempty" json:"publish_url,omitempty"`
	// Webhook is the address of this machine, host:port, to which the broker's webhooks tell of messages. Then that is what
	// subscribers get, and they don't subscribe at the broker: those of p2p, or the one of fan-in. "" means by MQTT.
	Webhook string `yaml:"webhook,omitempty" json:"webhook,omitempty"`

	// Pairs is how many publishers and as many subscribers there are, in p2p and offline.
	Pairs int `yaml:"pairs,omitempty" json:"pairs,omitempty"`
	// Publishers and Subscribers are how many there are, in fan-in, fan-out, shared and retained.
	Publishers  int `yaml:"publishers,omitempty" json:"publishers,omitempty"`
	Subscribers int `yaml:"subscribers,omitempty" json:"subscribers,omitempty"`
	// Connections is how many clients there are, in idle and connects, and how many ClientIDs in takeover.
	Connections int `yaml:"connections,omitempty" json:"connections,omitempty"`
	// Groups is how many shared subscriptions there are; 0 means 1.
	Groups int `yaml:"groups,omitempty" json:"groups,omitempty"`
	// Topics is how many retained messages there are.
	Topics int `yaml:"topics,omitempty" json:"topics,omitempty"`
	// Filters is how many more Topic Filters each subscriber and each idle client subscribes to. Nothing is published to them.
	Filters int `yaml:"filters,omitempty" json:"filters,omitempty"`

	// QoS is that of messages and subscriptions.
	QoS byte `yaml:"qos" json:"qos"`
	// Payload is the size of a message's payload in bytes: at least 16, which the audit needs; 0 means 64.
	Payload int `yaml:"payload,omitempty" json:"payload,omitempty"`
	// Rate is how many messages a second all publishers send together, at times that are fixed beforehand. 0 means as fast as
	// windows allow.
	Rate float64 `yaml:"rate,omitempty" json:"rate,omitempty"`
	// Window is how many messages a publisher may have under way: unacknowledged, and without a Rate neither delivered. 0 means
	// 32 without a Rate, and with one what the broker's Receive Maximum allows.
	Window int `yaml:"window,omitempty" json:"window,omitempty"`

	// ConnectRate is how many clients connect in a second; 0 means as fast as 100 at a time can.
	ConnectRate float64 `yaml:"connect_rate,omitempty" json:"connect_rate,omitempty"`
	// RampUp is how long Rate takes to grow from 0, evenly. It comes before WarmUp.
	RampUp time.Duration `yaml:"ramp_up,omitempty" json:"ramp_up_ns,omitempty"`
	// WarmUp is how long the load is there before figures count. The audit counts everything.
	WarmUp time.Duration `yaml:"warm_up,omitempty" json:"warm_up_ns,omitempty"`
	// Duration is how long figures count; 0 means 10 s.
	Duration time.Duration `yaml:"duration,omitempty" json:"duration_ns"`
	// Drain is how long to wait, without any progress, for what is still under way before it counts as lost; 0 means 5 s.
	Drain time.Duration `yaml:"drain,omitempty" json:"drain_ns,omitempty"`

	// KeepAlive is sent in CONNECT, in whole seconds, and kept by PINGREQ; 0 means 300 s.
	KeepAlive time.Duration `yaml:"keep_alive,omitempty" json:"keep_alive_ns,omitempty"`
	// Version is the protocol's: 3 (3.1), 4 (3.1.1) or 5 (5.0); 0 means 4.
	Version byte `yaml:"version,omitempty" json:"version,omitempty"`
	// Durable has the subscribers' sessions outlive their connections. Sessions are deleted at the end.
	Durable bool `yaml:"durable,omitempty" json:"durable,omitempty"`
	// DurablePublishers is the same for publishers: after a reconnect they go on with what was not acknowledged.
	DurablePublishers bool `yaml:"durable_publishers,omitempty" json:"durable_publishers,omitempty"`

	TLS      TLS    `yaml:"tls,omitempty" json:"tls,omitzero"`
	User     string `yaml:"user,omitempty" json:"user,omitempty"`         // {i}: the client's number
	Password string `yaml:"password,omitempty" json:"password,omitempty"` // {i} as well; reports don't show it
	// ClientID is a template: {run} is another word for each run, {part} the part of a mixed scenario, {role} pub, sub or idle,
	// {i} the client's number in that role, and {n} is counted over all clients. "" means loadtest-{run}-{part}{role}-{i}.
	ClientID string `yaml:"client_id,omitempty" json:"client_id,omitempty"`
	// Topic is what all topics begin with; "" means loadtest/{run}. {run} is replaced.
	Topic string `yaml:"topic,omitempty" json:"topic,omitempty"`

	// Reconnect has clients whose connection ends connect again after a random time up to ReconnectJitter, which doubles up to
	// ten times with each failure. Without it the end of a connection is an error, and the client stays away.
	Reconnect bool `yaml:"reconnect,omitempty" json:"reconnect,omitempty"`
	// ReconnectJitter: 0 means 1 s.
	ReconnectJitter time.Duration `yaml:"reconnect_jitter,omitempty" json:"reconnect_jitter_ns,omitempty"`

	// Sources are addresses of this machine that connections are spread over, since each has about 28,000 ports for one target.
	// None means what the kernel chooses, and for a target at 127.0.0.0/8 as many of those as are needed.
	Sources []string `yaml:"sources,omitempty" json:"sources,omitempty"`

	// Kill are commands that run during the measured time. They imply Reconnect.
	Kill []Kill `yaml:"kill,omitempty" json:"kill,omitempty"`

	// Parts are the scenarios of which a mixed one consists. Of each count Shape, PublishURL, Webhook, numbers of clients, QoS, Payload, Rate, Window,
	// Filters, ConnectRate, Version, KeepAlive and whether sessions are durable; all else is the mixed one's.
	Parts []*Scenario `yaml:"parts,omitempty" json:"parts,omitempty"`

	// Share is which of the clients are this process's, if several run the scenario together.
	Share Share `yaml:"share,omitempty" json:"share,omitzero"`
}

// Share is a process's part of the clients: of pairs, publishers, subscribers and connections those whose number modulo Of is
// Index; of shared subscriptions whole groups. The zero value is all. Run is the same for all processes, and then the name of
// the run.
type Share struct {
	Index int    `yaml:"index" json:"index"`
	Of    int    `yaml:"of" json:"of"`
	Run   string `yaml:"run" json:"run"`
}

// LoadScenario reads a scenario of YAML. Keys that aren't known are errors. The scenario isn't checked yet, so that flags can
// fill in what it leaves out.
func LoadScenario(r io.Reader) (*Scenario, error) {
	text, err := io.ReadAll(io.LimitReader(r, scenarioBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read scenario: %w", err)
	}
	if len(text) > scenarioBytesMax {
		return nil, fmt.Errorf("%w: a scenario has at most %d bytes", ErrScenario, scenarioBytesMax)
	}
	s := new(Scenario)
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(s); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrScenario, err)
	}
	return s, nil
}

// WriteYAML writes the scenario so that LoadScenario reads the same.
func (s *Scenario) WriteYAML(w io.Writer) error {
	text, err := yaml.Marshal(s)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// Clone returns a copy that shares nothing with s.
func (s *Scenario) Clone() *Scenario {
	c := *s
	c.Targets, c.Sources, c.Kill = slices.Clone(s.Targets), slices.Clone(s.Sources), slices.Clone(s.Kill)
	c.Parts = nil
	for _, p := range s.Parts {
		c.Parts = append(c.Parts, p.Clone())
	}
	return &c
}

// Scale multiplies the numbers of clients and the rates by factor; of what there is any, one is left at least. The number of
// groups stays.
func (s *Scenario) Scale(factor float64) {
	for _, n := range []*int{&s.Pairs, &s.Publishers, &s.Subscribers, &s.Connections, &s.Topics} {
		if *n > 0 {
			*n = max(1, int(float64(*n)*factor+0.5))
		}
	}
	s.Rate *= factor
	s.ConnectRate *= factor
	for _, p := range s.Parts {
		p.Scale(factor)
	}
}

// Split returns the scenario as n processes run it together: each with its Share, under the name run. A process that finds no
// clients in its share does nothing.
func (s *Scenario) Split(n int, run string) []*Scenario {
	split := make([]*Scenario, n)
	for i := range split {
		split[i] = s.Clone()
		split[i].Share = Share{Index: i, Of: n, Run: run}
	}
	return split
}

// Check fills in what is left out and says what is wrong, as one error that wraps ErrScenario and has a line for each problem.
func (s *Scenario) Check() error {
	var p problems
	s.check(&p, nil)
	if len(p) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrScenario, strings.Join(p, "\n"))
}

type problems []string

func (p *problems) add(when bool, format string, args ...any) {
	if when {
		*p = append(*p, fmt.Sprintf(format, args...))
	}
}

func setDefault[T comparable](v *T, value T) {
	if *v == *new(T) {
		*v = value
	}
}

// check is Check; mixed is what the scenario is a part of.
func (s *Scenario) check(p *problems, mixed *Scenario) {
	setDefault(&s.Name, string(s.Shape))
	setDefault(&s.Duration, 10*time.Second)
	setDefault(&s.Drain, 5*time.Second)
	setDefault(&s.KeepAlive, 300*time.Second)
	setDefault(&s.Version, 4)
	setDefault(&s.Payload, 64)
	setDefault(&s.Topic, "loadtest/{run}")
	setDefault(&s.ClientID, "loadtest-{run}-{part}{role}-{i}")
	setDefault(&s.ReconnectJitter, time.Second)
	if s.Window == 0 && s.Rate == 0 {
		s.Window = 32
	}
	if s.Shape == Shared {
		setDefault(&s.Groups, 1)
	}
	if s.Shape == Retained {
		setDefault(&s.Publishers, 1)
	}
	if s.Shape == Offline {
		s.Durable = true
	}
	s.Reconnect = s.Reconnect || len(s.Kill) > 0

	p.add(!slices.Contains(shapes, s.Shape), "shape %q is none of %v", s.Shape, shapes)
	s.checkCounts(p)
	p.add(s.QoS > 2, "qos is %d: 0, 1 or 2", s.QoS)
	p.add(s.Version < 3 || s.Version > 5, "version is %d: 3 (MQTT 3.1), 4 (3.1.1) or 5", s.Version)
	p.add(s.Payload < stampBytes, "payload is %d: the audit needs at least %d bytes", s.Payload, stampBytes)
	p.add(s.Payload > 200<<20, "payload is %d bytes: at most 200 MiB", s.Payload)
	p.add(!(s.Rate >= 0 && s.Rate <= rateMax) || !(s.ConnectRate >= 0 && s.ConnectRate <= rateMax), "rate is %v, connect_rate %v: 0 to 1,000,000,000", s.Rate, s.ConnectRate)
	p.add(s.Window < 0 || s.Window > 65535, "window is %d: 0 to 65535", s.Window)
	p.add(s.KeepAlive < time.Second || s.KeepAlive > 65535*time.Second || s.KeepAlive%time.Second != 0, "keep_alive is %v: whole seconds, 1s to 65535s", s.KeepAlive)
	p.add(s.Shape == Offline && s.QoS == 0, "offline needs qos 1 or 2: nothing keeps QoS 0 for who is away")
	p.add(s.RampUp < 0 || s.WarmUp < 0 || s.Duration < 0 || s.Drain < 0 || s.ReconnectJitter < 0, "a duration is below 0")
	p.add(strings.ContainsAny(s.Topic, "+#\x00") || len(s.Topic) > 1024, "topic %q is no beginning of a Topic Name", s.Topic)
	p.add(len(s.ClientID) > 1024 || len(s.User) > 1024 || len(s.Password) > 1024, "client_id, user and password have at most 1024 bytes each")
	p.add(s.Version < 5 && s.Password != "" && s.User == "", "a password needs a user before MQTT 5.0")
	p.add((s.TLS.CertFile == "") != (s.TLS.KeyFile == ""), "tls needs cert and key together")
	if s.Share.Of > 1 {
		p.add(s.Share.Index < 0 || s.Share.Index >= s.Share.Of || s.Share.Run == "", "share is %+v", s.Share)
		p.add(s.Rate == 0 && s.QoS == 0 && s.crossing(), "%s at qos 0 in several processes needs a rate: a window can't know what others got", s.Shape)
	}
	if mixed != nil {
		p.add(s.Shape == Mixed || s.Shape == Offline, "a part of a mixed scenario can't be %s", s.Shape)
		return
	}

	p.add(len(s.Targets) == 0, "there is no target")
	for _, t := range s.Targets {
		if _, err := parseTarget(t); err != nil {
			p.add(true, "%v", err)
		}
	}
	for _, a := range s.Sources {
		_, err := netip.ParseAddr(a)
		p.add(err != nil, "source %q is no IP address", a)
	}
	for _, k := range s.Kill {
		p.add(k.After < 0 || k.Command == "", "kill needs a command and a time after which it runs")
	}
	s.checkHTTP(p)
	p.add((s.Shape == Mixed) != (len(s.Parts) > 0), "mixed is the shape with parts")
	for i, part := range s.Parts {
		setDefault(&part.Name, fmt.Sprintf("%d-%s", i, part.Shape))
		part.inherit(s)
		part.check(p, s)
	}
}

// checkHTTP checks what isn't MQTT.
func (s *Scenario) checkHTTP(p *problems) {
	if s.PublishURL != "" {
		u, err := url.Parse(s.PublishURL)
		p.add(err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "", "publish_url %q isn't a URL of http:// or https://", s.PublishURL)
		p.add(s.Shape != P2P && s.Shape != FanIn && s.Shape != FanOut && s.Shape != Shared, "%s has no publish_url", s.Shape)
		p.add(s.QoS > 1, "publish_url has qos 0 or 1: HTTP has no handshake as QoS 2 has")
	}
	if s.Webhook != "" {
		_, _, err := net.SplitHostPort(s.Webhook)
		p.add(err != nil, "webhook %q isn't HOST:PORT", s.Webhook)
		p.add(s.Shape != P2P && (s.Shape != FanIn || s.Subscribers > 1), "webhook is for p2p, and for fan-in with one subscriber")
		p.add(s.Share.Of > 1, "webhook is for one process: the broker knows one address")
	}
}

// checkCounts checks how many clients there are.
func (s *Scenario) checkCounts(p *problems) {
	need := func(n int, name string) { p.add(n < 1, "%s needs %s", s.Shape, name) }
	switch s.Shape {
	case P2P, Offline:
		need(s.Pairs, "pairs")
	case FanIn, FanOut, Shared:
		need(s.Publishers, "publishers")
		need(s.Subscribers, "subscribers")
	case Retained:
		need(s.Topics, "topics")
		need(s.Subscribers, "subscribers")
	case Idle, Connects, Takeover:
		need(s.Connections, "connections")
	}
	for _, n := range []int{s.Pairs, s.Publishers, s.Subscribers, s.Connections, s.Groups, s.Topics, s.Filters} {
		p.add(n < 0 || n > 10_000_000, "%d clients, topics or filters: 0 to 10,000,000", n)
	}
	p.add(s.Shape == Shared && s.Groups > s.Subscribers, "%d groups have %d subscribers", s.Groups, s.Subscribers)
	p.add((s.Shape == FanIn || s.Shape == FanOut) && s.Publishers*max(s.Subscribers, 1) > streamsMax,
		"%d publishers × %d subscribers are more than the %d that the audit can follow", s.Publishers, s.Subscribers, streamsMax)
	p.add(s.Shape == Shared && s.Publishers*max(s.Groups, 1) > streamsMax,
		"%d publishers × %d groups are more than the %d that the audit can follow", s.Publishers, s.Groups, streamsMax)
}

// rateMax bounds rates: beyond it times are too close to each other to be told apart.
const rateMax = 1e9

// streamsMax bounds what the audit follows: one stream for each publisher and each of those who hear it.
const streamsMax = 50_000_000

// clients is how many connections this process may have at a time.
func (s *Scenario) clients() int {
	n := 0
	for _, p := range s.Parts {
		n += p.clients()
	}
	switch s.Shape {
	case P2P, Offline:
		n += 2 * s.Share.of(s.Pairs)
	case FanIn, FanOut, Retained:
		n += s.Share.of(s.Publishers) + s.Share.of(s.Subscribers)
	case Shared: // by groups
		n += s.Share.of(s.Publishers) + (s.Subscribers+s.Groups-1)/s.Groups*s.Share.of(s.Groups)
	case Idle, Connects:
		n += s.Share.of(s.Connections)
	case Takeover:
		n += 2 * s.Share.of(s.Connections)
	}
	return n
}

// has says whether client i is this process's.
func (s Share) has(i int) bool { return s.Of <= 1 || i%s.Of == s.Index }

// of is how many of n clients are this process's.
func (s Share) of(n int) int {
	if s.Of <= 1 {
		return n
	}
	return (n - s.Index + s.Of - 1) / s.Of
}

// crossing says whether messages go from clients of one Share to those of another.
func (s *Scenario) crossing() bool { return s.Shape == FanIn || s.Shape == FanOut || s.Shape == Shared }

// expand fills in a template.
func expand(template, role string, i, n int) string {
	if !strings.Contains(template, "{") {
		return template
	}
	return strings.NewReplacer("{role}", role, "{i}", strconv.Itoa(i), "{n}", strconv.Itoa(n)).Replace(template)
}

// inherit gives a part what it has of the mixed scenario.
func (s *Scenario) inherit(mixed *Scenario) {
	s.Targets, s.TLS, s.Sources = mixed.Targets, mixed.TLS, mixed.Sources
	s.RampUp, s.WarmUp, s.Duration, s.Drain = mixed.RampUp, mixed.WarmUp, mixed.Duration, mixed.Drain
	s.Reconnect, s.ReconnectJitter = mixed.Reconnect, mixed.ReconnectJitter
	s.ClientID, s.Topic, s.Share = mixed.ClientID, mixed.Topic, mixed.Share
	setDefault(&s.User, mixed.User)
	setDefault(&s.Password, mixed.Password)
	setDefault(&s.KeepAlive, mixed.KeepAlive)
	setDefault(&s.Version, mixed.Version)
	setDefault(&s.ConnectRate, mixed.ConnectRate)
}

// target is where clients connect to.
type target struct {
	address string // host:port
	host    string // without port, for TLS
	path    string // of a WebSocket
	tls, ws bool
}

// parseTarget parses a URL of Scenario.Targets.
func parseTarget(text string) (target, error) {
	u, err := url.Parse(text)
	if err != nil {
		return target{}, fmt.Errorf("target %q is no URL", text)
	}
	var t target
	var port int
	switch u.Scheme {
	case "tcp", "mqtt":
		port = 1883
	case "tls", "ssl", "mqtts":
		port, t.tls = 8883, true
	case "ws":
		port, t.ws = 80, true
	case "wss":
		port, t.tls, t.ws = 443, true, true
	default:
		return target{}, fmt.Errorf("target %q is none of tcp://, tls://, ws:// and wss://", text)
	}
	if u.Hostname() == "" || u.User != nil || u.RawQuery != "" && !t.ws || !t.ws && u.Path != "" && u.Path != "/" {
		return target{}, fmt.Errorf("target %q isn't SCHEME://HOST:PORT", text)
	}
	if p := u.Port(); p != "" {
		if port, err = strconv.Atoi(p); err != nil || port < 1 || port > 65535 {
			return target{}, fmt.Errorf("target %q has no port", text)
		}
	}
	t.host = u.Hostname()
	t.address = net.JoinHostPort(t.host, strconv.Itoa(port))
	if t.ws {
		t.path = u.RequestURI()
		if u.Path == "" || u.Path == "/" {
			t.path = "/mqtt"
		}
	}
	return t, nil
}
