// Package cluster_test kills, halts and cuts off nodes that share a Redis, and Redis itself, behind a real HAProxy.
package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/chaos"
	"loopmq/internal/child"
	"loopmq/internal/redistest"
)

const (
	nodeCount = 3
	lease     = time.Second
)

var versions = [...]codec.Version{codec.V311, codec.V5}

// node is one broker, with a link of its own to Redis.
type node struct {
	mu         sync.Mutex // held while a fault is under way
	name       string
	path, dir  string
	mqtt, http string
	bridge     string // HTTP for clients
	link       *chaos.Link
	process    atomic.Pointer[child.Process] // the last one
	pause      atomic.Int64                  // nanoseconds until it is started again
}

// run starts the node whenever it has ended, as what runs services does, until stop is closed: without Redis it doesn't start.
func (n *node) run(t *testing.T, stop <-chan struct{}) {
	for {
		p := n.start(t)
		if p == nil {
			return
		}
		n.process.Store(p)
		<-p.Ended
		select {
		case <-stop:
			return
		case <-time.After(100*time.Millisecond + time.Duration(n.pause.Swap(0))):
		}
	}
}

func (n *node) start(t *testing.T) *child.Process {
	log, err := os.OpenFile(filepath.Join(n.dir, n.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer log.Close()
	cmd := exec.Command(n.path, "serve", "--tcp", n.mqtt, "--ws", "off", "--http", n.bridge, "--coap", "off", "--admin", n.http, "--log-format", "json",
		"--store", fmt.Sprintf("redis://%s/0?lease=%v&timeout=1s", n.link.Addr(), lease))
	cmd.Stderr, cmd.Dir = log, n.dir
	p, err := child.Start(cmd)
	if err != nil {
		t.Error(err)
		return nil
	}
	return p
}

func (n *node) signal(s syscall.Signal) { _ = n.process.Load().Cmd.Process.Signal(s) }

// ready reports whether the node takes clients.
func (n *node) ready(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.http+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// site is all that runs.
type site struct {
	*testing.T
	dir     string
	redis   *redistest.Server
	down    sync.Mutex // held while Redis is down
	nodes   [nodeCount]*node
	haproxy string
	stop    chan struct{} // closed when nodes that end are not to be started again
	running sync.WaitGroup
}

func localPort() string { return "127.0.0.1:" + strconv.Itoa(child.FreePort()) }

// build starts Redis, the nodes, and HAProxy with the configuration that deploy has.
func build(t *testing.T) *site {
	dir := os.Getenv("CHAOS_DIR") // where logs go that are to stay
	if dir == "" {
		dir = t.TempDir()
	}
	s := &site{T: t, dir: dir, redis: redistest.Start(t), haproxy: localPort(), stop: make(chan struct{})}
	path := filepath.Join(t.TempDir(), "loopmq")
	if out, err := exec.Command("go", "build", "-o", path, "loopmq/cmd/loopmq").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for i := range s.nodes {
		link, err := chaos.NewLink(s.redis.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(link.Close)
		n := &node{name: fmt.Sprint("node", i+1), path: path, dir: dir, mqtt: localPort(), http: localPort(), bridge: localPort(), link: link}
		s.nodes[i] = n
		s.running.Go(func() { n.run(t, s.stop) })
	}
	s.startHAProxy()
	s.eventually(time.Minute, "every node serves", func(ctx context.Context) string {
		for _, n := range s.nodes {
			if !n.ready(ctx) {
				return n.name
			}
		}
		return ""
	})
	return s
}

func (s *site) startHAProxy() {
	text, err := os.ReadFile("../../../deploy/haproxy.cfg")
	if err != nil {
		s.Fatal(err)
	}
	config, _, _ := strings.Cut(string(text), "\tserver node1")
	config = strings.ReplaceAll(config, "bind :1883", "bind "+s.haproxy)
	config = strings.ReplaceAll(config, "bind :8404", "bind "+localPort())
	for _, n := range s.nodes {
		config += fmt.Sprintf("\tserver %s %s port %s\n", n.name, n.mqtt, n.http[strings.LastIndexByte(n.http, ':')+1:])
	}
	file := filepath.Join(s.dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		s.Fatal(err)
	}
	program, err := exec.LookPath("haproxy")
	if err != nil {
		program = "/usr/sbin/haproxy" // Debian keeps it out of an ordinary user's PATH
	}
	p, err := child.Start(exec.Command(program, "-db", "-f", file))
	if err != nil {
		s.Fatalf("%v: this test needs HAProxy: run 'scripts/test-deps.sh', or 'apt-get install haproxy'", err)
	}
	s.Cleanup(p.Kill)
}

// eventually returns when missing returns nothing, and fails the test if that takes too long.
func (s *site) eventually(within time.Duration, what string, missing func(ctx context.Context) string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), within)
	defer cancel()
	for {
		m := missing(ctx)
		if m == "" {
			return
		}
		select {
		case <-ctx.Done():
			s.Errorf("not within %v: %s; missing: %s", within, what, m)
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// keys are the keys in Redis that begin with one of the prefixes, without lmq:.
func (s *site) keys(ctx context.Context, prefixes ...string) (all []string, err error) {
	for cursor := uint64(0); ; {
		var page []string
		if page, cursor, err = s.redis.Client().Scan(ctx, cursor, "*", 1000).Result(); err != nil {
			return nil, err
		}
		for _, key := range page {
			key = strings.TrimPrefix(key, "lmq:")
			if len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
				all = append(all, key)
			}
		}
		if cursor == 0 {
			slices.Sort(all)
			return slices.Compact(all), nil
		}
	}
}

// cast is all clients.
type cast struct {
	*site
	ctx           context.Context // ends when all is over
	ledger, wills chaos.Ledger
	quiet         chan struct{} // closed when nothing is to be published any more
	publishing    sync.WaitGroup
	receiving     sync.WaitGroup
	intruders     sync.WaitGroup
	streams       []*chaos.Stream
	streaming     sync.WaitGroup
	hangUp        context.CancelFunc // ends the streams
	unplug        context.CancelFunc
	plugged       context.Context

	mu      sync.Mutex
	clients []*chaos.Client // that stay
	passive []*chaos.Client // those of them that connect no more once all is quiet
	joined  int
	passers []string
}

func (c *cast) client(name string, version byte, expiry uint32, ledger *chaos.Ledger) chaos.Client {
	return chaos.Client{
		ClientID: name, Addr: func() string { return c.haproxy }, Version: versions[version%2], SessionExpiryInterval: expiry, Ledger: ledger,
	}
}

func (c *cast) stays(cl *chaos.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clients = append(c.clients, cl)
}

// subscribe starts a subscriber, and returns when it has its SUBACK.
func (c *cast) subscribe(s *chaos.Subscriber) {
	c.stays(&s.Client)
	subscribed := make(chan struct{})
	s.OnSubscribed = func() { close(subscribed) }
	c.receiving.Go(func() {
		if err := s.Run(c.plugged); err != nil {
			c.Error(err)
		}
	})
	select {
	case <-subscribed:
	case <-c.plugged.Done():
	}
}

// stream starts streams of server-sent events, whose sessions go from node to node, and returns when they have begun.
func (c *cast) stream() {
	ctx, hangUp := context.WithCancel(c.plugged)
	c.hangUp = hangUp
	for i := range 2 {
		begun := make(chan struct{})
		var turn, other atomic.Int64
		s := &chaos.Stream{
			URL: func() string { return "http://" + c.nodes[turn.Add(1)%nodeCount].bridge }, Session: fmt.Sprint("stream", i), TopicFilter: "chaos/#",
			Ledger: &c.ledger, OnSubscribed: func() { close(begun) },
		}
		if i == 1 {
			s.AcknowledgeAt = func() string { return "http://" + c.nodes[other.Add(1)%nodeCount].bridge }
		}
		c.streams = append(c.streams, s)
		c.streaming.Go(func() { s.Run(ctx) })
		select {
		case <-begun:
		case <-ctx.Done():
		}
	}
}

func assemble(s *site, ctx context.Context, rng *rand.Rand) *cast {
	c := &cast{site: s, ctx: ctx, quiet: make(chan struct{})}
	c.plugged, c.unplug = context.WithCancel(ctx)
	c.stream()
	for i := range byte(4) {
		sub := &chaos.Subscriber{Client: c.client(fmt.Sprint("durable", i), i, chaos.Never, &c.ledger), TopicFilter: "chaos/#", QoS: 2 - i/3}
		sub.ReceiveMaximum = uint16(i) * 16
		c.subscribe(sub)
	}
	for i := range byte(3) {
		c.subscribe(&chaos.Subscriber{
			Client: c.client(fmt.Sprint("member", i), i, chaos.Never, &c.ledger), TopicFilter: "$share/group/chaos/#", QoS: 2,
			Kind: chaos.Group, Account: "group",
		})
	}
	for i := range byte(2) {
		c.subscribe(&chaos.Subscriber{
			Client: c.client(fmt.Sprint("volatile", i), i, 0, &c.ledger), TopicFilter: "chaos/#", QoS: 2, Kind: chaos.Volatile,
		})
	}
	c.subscribe(&chaos.Subscriber{
		Client: c.client("undertaker", 1, chaos.Never, &c.wills), TopicFilter: "wills/#", QoS: 2, Kind: chaos.Unordered,
	})
	for i := range byte(4) {
		p := &chaos.Publisher{
			Client: c.client(fmt.Sprint("publisher", i), i/2, chaos.Never, &c.ledger), TopicName: fmt.Sprint("chaos/", i), QoS: 1 + i%2,
			Window: 8, Interval: 8 * time.Millisecond,
		}
		c.stays(&p.Client)
		c.passive = append(c.passive, &p.Client)
		c.publishing.Go(func() {
			if err := p.Run(ctx, c.quiet); err != nil {
				s.Error(err)
			}
		})
	}
	for i := range byte(4) {
		m := &chaos.Mourner{
			Client: c.client(fmt.Sprint("mourner", i), i, chaos.Never*uint32(i/2), &c.wills), TopicName: fmt.Sprint("wills/", i),
			Stay: 3 * time.Second, Rand: rand.New(rand.NewPCG(rng.Uint64(), 0)),
		}
		if i == 3 {
			m.WillDelayInterval = 1
		}
		c.stays(&m.Client)
		c.passive = append(c.passive, &m.Client)
		c.publishing.Go(func() { m.Run(ctx, c.quiet) })
	}
	return c
}

// fault is something that goes wrong, once.
type fault struct {
	at       time.Duration
	kind     string
	target   int
	duration time.Duration // as a fraction of what the kind has at most
	seed     uint64
}

// rates says how long it takes on average until a kind of fault comes again.
var rates = map[string]time.Duration{
	"kill a node": 10 * time.Second, "kill Redis": 12 * time.Second, "cut a node off": 12 * time.Second, "reset and cut a node off": 15 * time.Second,
	"slow a node's link": 12 * time.Second, "halt a node": 12 * time.Second, "move a client": time.Second / 2, "take a session over twice": 2 * time.Second,
	"join": 6 * time.Second, "pass by": 3 * time.Second,
}

const joinedMax = 8

// schedule makes up the faults of a run.
func schedule(rng *rand.Rand, duration time.Duration) (all []fault) {
	for _, kind := range slices.Sorted(maps.Keys(rates)) {
		n := max(2, int(duration/rates[kind]))
		for i := range n {
			slot := duration / time.Duration(n)
			all = append(all, fault{
				at: time.Duration(i)*slot + time.Duration(rng.Int64N(int64(slot))), kind: kind, target: rng.IntN(nodeCount),
				duration: time.Duration(rng.Int64N(1000)), seed: rng.Uint64(),
			})
		}
	}
	slices.SortFunc(all, func(a, b fault) int { return int(a.at - b.at) })
	return all
}

// part is a part of at most limit.
func (f *fault) part(limit time.Duration) time.Duration { return limit * f.duration / 1000 }

// wait passes time.
func (c *cast) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.ctx.Done():
	}
}

// strike makes a fault happen, and returns when it is over.
func (c *cast) strike(f *fault) {
	n := c.nodes[f.target]
	long := 3*lease/2 + f.part(2*lease) // longer than the lease
	switch f.kind {
	case "kill a node", "cut a node off", "reset and cut a node off", "slow a node's link", "halt a node":
		n.mu.Lock()
		defer n.mu.Unlock()
	case "kill Redis":
		c.down.Lock()
		defer c.down.Unlock()
	}
	switch f.kind {
	case "kill a node":
		n.pause.Store(int64(f.part(2 * lease)))
		n.signal(syscall.SIGKILL)
	case "kill Redis":
		c.redis.Kill()
		c.wait(f.part(2 * lease))
		c.redis.Restart()
	case "cut a node off":
		n.link.Cut()
		c.wait(long)
		n.link.Heal()
	case "reset and cut a node off":
		n.link.Cut()
		n.link.Reset()
		c.wait(long)
		n.link.Reset()
		n.link.Heal()
	case "slow a node's link":
		n.link.Slow(f.part(50 * time.Millisecond))
		c.wait(long)
		n.link.Heal()
	case "halt a node":
		n.signal(syscall.SIGSTOP)
		c.wait(long)
		n.signal(syscall.SIGCONT)
	case "move a client":
		c.one(f).Drop()
	case "take a session over twice":
		cl := c.one(f)
		for _, i := range []int{f.target, (f.target + 1) % nodeCount} {
			c.intruders.Go(func() { cl.Intrude(c.plugged, c.nodes[i].mqtt) })
		}
	case "join":
		c.join(f)
	case "pass by":
		c.passBy(f)
	}
}

func (c *cast) one(f *fault) *chaos.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clients[f.seed%uint64(len(c.clients))]
}

// join adds a durable subscriber: from its SUBACK on it gets everything.
func (c *cast) join(f *fault) {
	c.mu.Lock()
	c.joined++
	i := c.joined
	c.mu.Unlock()
	if i <= joinedMax {
		c.subscribe(&chaos.Subscriber{
			Client: c.client(fmt.Sprint("joined", i), byte(f.seed), chaos.Never, &c.ledger), TopicFilter: "chaos/#", QoS: 2 - byte(f.seed>>1)%2,
		})
	}
}

// passBy is a client whose session ends a second after its connection.
func (c *cast) passBy(f *fault) {
	name := fmt.Sprint("passer", f.seed)
	c.mu.Lock()
	c.passers = append(c.passers, name)
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.plugged, 100*time.Millisecond+f.part(2*time.Second))
	defer cancel()
	s := &chaos.Subscriber{Client: c.client(name, 1, 1, &c.ledger), TopicFilter: "chaos/#", QoS: 2, Kind: chaos.Volatile}
	if err := s.Run(ctx); err != nil {
		c.Error(err)
	}
}

// lost says what has still to come.
func (c *cast) lost(context.Context) string {
	for _, l := range []*chaos.Ledger{&c.ledger, &c.wills} {
		if r := l.Check(); len(r.Lost) > 0 {
			return r.Err().Error()
		}
	}
	return ""
}

// unsettled says what is still under way.
func (c *cast) unsettled(ctx context.Context) string {
	client := c.redis.Client()
	queues, err := c.keys(ctx, "q:", "g:", "rel:", "held:", "wills", "dead")
	if err != nil {
		return err.Error()
	}
	for _, key := range queues {
		if strings.HasPrefix(key, "q:") && client.XLen(ctx, "lmq:"+key).Val() == 0 {
			continue
		}
		return fmt.Sprintf("%s in Redis (of %q)", key, queues)
	}
	return ""
}

// stranger matches the keys that may be in Redis when no session is: docs/cluster.md lists them.
var stranger = regexp.MustCompile(`^(meta|feed|leases|reports|(ctl|in|wr|routes):[^:]+)$`)

func environment[T any](t *testing.T, name string, otherwise T, parse func(string) (T, error)) T {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	v, err := parse(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// TestKill lets all go wrong at random for CHAOS_DURATION, as CHAOS_SEED says, and then accounts for every message.
func TestKill(t *testing.T) {
	duration := environment(t, "CHAOS_DURATION", 20*time.Second, time.ParseDuration)
	seed := environment(t, "CHAOS_SEED", rand.Uint64(), func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
	t.Logf("CHAOS_SEED=%d CHAOS_DURATION=%v", seed, duration)
	rng := rand.New(rand.NewPCG(seed, 0))
	ctx, cancel := context.WithTimeout(t.Context(), duration+3*time.Minute)
	defer cancel()

	s := build(t)
	c := assemble(s, ctx, rng)
	defer c.unplug()
	struck := map[string]int{}
	var faults sync.WaitGroup
	began := time.Now()
	for _, f := range schedule(rng, duration) {
		c.wait(f.at - time.Since(began))
		struck[f.kind]++
		faults.Go(func() { c.strike(&f) })
	}
	faults.Wait()
	close(c.quiet)
	c.publishing.Wait()
	c.reappear()
	s.eventually(time.Minute, "all has arrived", c.lost)
	c.hangUp()
	c.streaming.Wait()
	for _, stream := range c.streams { // which acknowledge by coming back
		s.eventually(time.Minute, "the session of a stream ends", func(ctx context.Context) string {
			if err := stream.End(ctx); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	// What was acknowledged while Redis was away may still be in a queue: it comes again, and goes.
	for _, cl := range c.clients {
		cl.Drop()
	}
	s.eventually(time.Minute, "nothing is under way", c.unsettled)
	settled := time.Now()

	// Whoever had a session taken over from it has lost its connection.
	gone := make(chan struct{})
	go func() {
		c.intruders.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Error("two connections have the same ClientID")
	}
	c.unplug()
	c.receiving.Wait()

	var faultsByKind []string
	for _, kind := range slices.Sorted(maps.Keys(struck)) {
		faultsByKind = append(faultsByKind, fmt.Sprintf("%d x %s", struck[kind], kind))
	}
	t.Logf("%s", strings.Join(faultsByKind, ", "))
	for name, l := range map[string]*chaos.Ledger{"messages": &c.ledger, "Wills (acknowledged: have to come)": &c.wills} {
		r := l.Check()
		t.Logf("%s:\n%s", name, r.String())
		if err := r.Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Logf("settled %v after the last fault", settled.Sub(began.Add(duration)).Round(time.Millisecond))

	c.nothingStays()
}

// reappear has those connect once more who don't connect again by themselves: an intruder may have been the last who did.
func (c *cast) reappear() {
	var appearing sync.WaitGroup
	for _, cl := range c.passive {
		appearing.Go(func() {
			if err := cl.Appear(c.ctx); err != nil {
				c.Error(err)
			}
		})
	}
	appearing.Wait()
}

// nothingStays ends all sessions, and then all nodes: each time only what belongs to those who are left is in Redis.
func (c *cast) nothingStays() {
	var ending sync.WaitGroup
	for _, cl := range c.clients {
		ending.Go(func() {
			if err := cl.End(c.ctx); err != nil {
				c.Error(err)
			}
		})
	}
	ending.Wait()
	c.eventually(30*time.Second, "nothing but the instances is in Redis", func(ctx context.Context) string {
		live, err := c.redis.Client().ZRange(ctx, "lmq:leases", 0, -1).Result()
		keys, err2 := c.keys(ctx)
		if err := errors.Join(err, err2); err != nil {
			return err.Error()
		}
		if len(live) != nodeCount {
			return fmt.Sprintf("live: %q", live)
		}
		keys = slices.DeleteFunc(keys, func(key string) bool {
			_, instance, one := strings.Cut(key, ":")
			return stranger.MatchString(key) && (!one || slices.Contains(live, instance))
		})
		if len(keys) > 0 {
			return fmt.Sprintf("too much: %q", keys)
		}
		return ""
	})
	close(c.stop)
	for _, n := range c.nodes {
		n.signal(syscall.SIGTERM)
	}
	c.running.Wait()
	for _, n := range c.nodes {
		if state := n.process.Load().Cmd.ProcessState; !state.Success() {
			c.Errorf("%s: %v", n.name, state)
		}
	}
	if keys, err := c.keys(c.ctx); err != nil || !slices.Equal(keys, []string{"feed", "meta"}) {
		c.Errorf("without nodes there is %q in Redis, want feed and meta (%v)", keys, err)
	}
}
