//go:build linux

// Growth measures how the cost of a message and the memory of a broker grow with the number of connections, of subscriptions, and of nodes
// that share a Redis:
//
//	make bench-growth
//
// It prints a table of each in Markdown and writes a plot of each as SVG. The load is the same everywhere: --rate messages a second at QoS 1
// from publishers to a subscriber each, with the audit of package loadtest; a point at which the broker broke a promise is an error. The cost
// is the processor time of the broker's process, and of Redis where there is one, so that generator and broker can share a machine.
//
// A process may open so many files only, 20,000 where this was written. So what takes more connections is spread over several nodes, and
// each node has a generator process of its own.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"loopmq/benchmarks/process"
	"loopmq/internal/child"
	"loopmq/loadtest"
	"loopmq/loadtest/chart"
)

const (
	pairsMin    = 50        // of a point that isn't about connections
	filtersMax  = 5_000     // of one session; the broker's limit is 10,000
	filesKept   = 1_100     // of a process: the broker keeps a sixteenth for what is no client, at most 1,024
	nodesMax    = 6         // of the points that one node has too few files for
	startingMax = time.Hour // for what a point sets up: ten million subscriptions take minutes
)

type config struct {
	bin, out, only string
	connections    numbers
	subscriptions  numbers
	nodes          numbers
	rate           float64
	seconds        int

	generate bool
}

func main() {
	c := config{connections: numbers{100, 1e3, 1e4, 1e5}, subscriptions: numbers{100, 1e3, 1e4, 1e5, 1e6, 1e7}, nodes: numbers{1, 2, 3, 4, 5, 6}}
	flag.StringVar(&c.bin, "bin", "bin/loopmq", "the broker")
	flag.StringVar(&c.out, "out", "benchmarks/growth", "the directory for the plots")
	flag.StringVar(&c.only, "only", "connections,subscriptions,nodes", "what to measure")
	flag.Var(&c.connections, "connections", "how many connections")
	flag.Var(&c.subscriptions, "subscriptions", "how many subscriptions")
	flag.Var(&c.nodes, "nodes", "how many nodes")
	flag.Float64Var(&c.rate, "rate", 10_000, "messages a second, of all publishers")
	flag.IntVar(&c.seconds, "seconds", 3, "how long each point is measured")
	flag.BoolVar(&c.generate, "generate", false, "internal: be a generator, with an order from standard input")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := c.run
	if c.generate {
		run = generate
	}
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "growth:", err)
		os.Exit(1)
	}
}

// numbers is a flag of numbers that are separated by commas; 1e5 is one too.
type numbers []int

// String is what the flag was set to.
func (n *numbers) String() string { return strings.Trim(fmt.Sprint(*n), "[]") }

// Set reads the flag.
func (n *numbers) Set(text string) error {
	*n = nil
	for word := range strings.SplitSeq(text, ",") {
		f, err := strconv.ParseFloat(word, 64)
		if err != nil || f < 1 || f > 1e8 || f != float64(int(f)) {
			return fmt.Errorf("%q: allowed: numbers from 1 to 1e8", word)
		}
		*n = append(*n, int(f))
	}
	return nil
}

// A point is what was measured with one number of something.
type point struct {
	n       int
	nodes   int
	started time.Duration // until all clients were connected and subscribed
	rate    float64       // deliveries a second
	micros  float64       // of the brokers' processors for each
	redis   float64       // of Redis's, in the same
	p99     float64       // publish -> deliver, microseconds
	memory  int64         // of all brokers, with everything connected
	grown   int64         // by which that is more than before
}

func (c *config) run(ctx context.Context, out io.Writer) error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	perNode := int(min(files.Max, 1<<20)) - filesKept
	for _, what := range []struct {
		name  string
		ns    numbers
		nodes func(n int) int
		order func(n int) *loadtest.Scenario
		each  string
	}{
		{"connections", c.connections, func(n int) int {
			if n <= perNode {
				return 1
			}
			return nodesMax
		}, func(n int) *loadtest.Scenario { return c.pairs(max(n/2, 1)) }, "bytes per connection"},
		{"subscriptions", c.subscriptions, func(int) int { return 1 }, c.subscribed, "bytes per subscription"},
		{"nodes", c.nodes, func(n int) int { return n }, func(int) *loadtest.Scenario { return c.pairs(pairsMin * nodesMax) }, ""},
	} {
		if !slices.Contains(strings.Split(c.only, ","), what.name) {
			continue
		}
		fmt.Fprintf(out, "\n| %s | nodes | set up, s | messages/s | CPU µs per message | of Redis | p99, ms | memory, MiB | %s |\n|---|---|---|---|---|---|---|---|---|\n", what.name, what.each)
		var points []point
		for _, n := range what.ns {
			nodes := what.nodes(n)
			p, err := c.measure(ctx, what.name, nodes, what.order(n))
			if err != nil {
				return fmt.Errorf("%d %s: %w", n, what.name, err)
			}
			p.n = n
			points = append(points, p)
			each := "-"
			if what.each != "" {
				each = strconv.FormatInt(p.grown/int64(n), 10)
			}
			fmt.Fprintf(out, "| %d | %d | %.1f | %.0f | %.1f | %.1f | %.1f | %.0f | %s |\n", n, nodes, p.started.Seconds(), p.rate, p.micros, p.redis, p.p99/1e3, float64(p.memory)/(1<<20), each)
		}
		if err := c.plot(what.name, points); err != nil {
			return err
		}
	}
	return nil
}

// pairs is the load: publishers with a subscriber each.
func (c *config) pairs(n int) *loadtest.Scenario {
	return &loadtest.Scenario{
		Shape: loadtest.P2P, Pairs: n, QoS: 1, Payload: 64, Rate: c.rate, WarmUp: time.Second, Duration: time.Duration(c.seconds) * time.Second,
	}
}

// subscribed is the load beside so many subscriptions that no message is for.
func (c *config) subscribed(n int) *loadtest.Scenario {
	load := c.pairs(pairsMin)
	connections := max(1, (n+filtersMax-1)/filtersMax)
	idle := &loadtest.Scenario{Shape: loadtest.Idle, Connections: connections, Filters: max(1, n/connections)}
	return &loadtest.Scenario{Shape: loadtest.Mixed, Parts: []*loadtest.Scenario{idle, load}, WarmUp: load.WarmUp, Duration: load.Duration}
}

// cluster is brokers that run, with Redis if there are several.
type cluster struct {
	targets []string
	brokers []process.Process
	redis   process.Process // 0: none
	stop    func()
}

// measure measures one point on brokers of its own.
func (c *config) measure(ctx context.Context, what string, nodes int, s *loadtest.Scenario) (p point, err error) {
	cl, err := c.start(ctx, nodes, what == "nodes")
	if err != nil {
		return p, err
	}
	defer cl.stop()
	p.nodes = nodes
	var before int64
	for _, b := range cl.brokers {
		n, err := b.ResidentBytes()
		if err != nil {
			return p, err
		}
		before += n
	}
	var orders []order
	if what == "nodes" { // one generator for all, so that messages go from node to node
		s.Targets = cl.targets
		orders = []order{{Scenario: s, Brokers: cl.brokers, Redis: cl.redis}}
	} else {
		for i, target := range cl.targets {
			part := s.Clone()
			part.Scale(1 / float64(nodes))
			part.Targets = []string{target}
			o := order{Scenario: part, Brokers: cl.brokers[i : i+1]}
			if i == 0 {
				o.Redis = cl.redis
			}
			orders = append(orders, o)
		}
	}
	answers, started, err := generateAll(ctx, orders)
	if err != nil {
		return p, err
	}
	p.started = started
	var delivered float64
	var brokers, redis time.Duration
	for _, a := range answers {
		delivered += float64(a.Delivered)
		p.rate += float64(a.Delivered) / a.Seconds
		brokers, redis = brokers+a.Brokers, redis+a.Redis
		p.p99 = max(p.p99, a.P99)
		p.memory += a.Memory
	}
	p.grown = p.memory - before
	p.micros, p.redis = brokers.Seconds()*1e6/delivered, redis.Seconds()*1e6/delivered
	return p, nil
}

// start starts brokers: one alone with its store in memory, or several on a Redis by deploy/local.sh.
func (c *config) start(ctx context.Context, nodes int, shared bool) (*cluster, error) {
	dir, err := os.MkdirTemp("", "growth-")
	if err != nil {
		return nil, err
	}
	args := []string{"up", "--nodes", strconv.Itoa(nodes), "--port", "0", "--dir", dir, "--bin", c.bin, "--no-prometheus"}
	if !shared && nodes == 1 {
		args = append(args, "--store", "memory")
	}
	args = append(args, "--", "--set", "limits.total_subscriptions=unlimited")
	local := exec.Command("deploy/local.sh", args...)
	var stderr bytes.Buffer
	local.Stderr = &stderr
	if err := local.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = local.Wait() // it says itself what is wrong
		close(ended)
	}()
	cl := &cluster{stop: func() {
		_ = local.Process.Signal(os.Interrupt)
		<-ended
		_ = os.RemoveAll(dir)
	}}
	env, err := readEnv(ctx, dir, ended)
	if err != nil {
		cl.stop()
		return nil, fmt.Errorf("deploy/local.sh: %w: %s", err, stderr.Bytes())
	}
	for i := range nodes {
		cl.targets = append(cl.targets, "tcp://"+env[fmt.Sprintf("NODE%d_MQTT", i+1)])
	}
	for name := range env {
		if node, ok := strings.CutSuffix(name, "_MQTT"); ok {
			p, err := pidOf(dir, strings.ToLower(node))
			if err != nil {
				cl.stop()
				return nil, err
			}
			cl.brokers = append(cl.brokers, p)
		}
	}
	slices.Sort(cl.brokers) // in which order they were started
	if env["REDIS"] != "" {
		cl.redis, err = pidOf(dir, "redis")
		if err != nil {
			cl.stop()
			return nil, err
		}
	}
	return cl, nil
}

// readEnv waits for the file that local.sh writes when everything is ready.
func readEnv(ctx context.Context, dir string, ended <-chan struct{}) (map[string]string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(filepath.Join(dir, "env"))
		if err == nil {
			env := map[string]string{}
			for line := range strings.Lines(string(text)) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
				env[name] = strings.Trim(value, `'"`)
			}
			return env, nil
		}
		select {
		case <-tick.C:
		case <-ended:
			return nil, errors.New("it has ended")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func pidOf(dir, name string) (process.Process, error) {
	text, err := os.ReadFile(filepath.Join(dir, name, "pid"))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return process.Process(pid), err
}

// order is what a generator process gets, answer what it found out.
type order struct {
	Scenario *loadtest.Scenario
	Brokers  []process.Process
	Redis    process.Process
}

type answer struct {
	Delivered      uint64
	Seconds        float64
	Brokers, Redis time.Duration // of processors, in the measured time
	P99            float64
	Memory         int64 // of the brokers, before messages came
	Problem        string
}

// generateAll has each order executed by a process of its own, all at the same time.
func generateAll(ctx context.Context, orders []order) ([]answer, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, startingMax)
	defer cancel()
	began := time.Now()
	type generator struct {
		*child.Process
		in  io.WriteCloser
		out *bufio.Reader
	}
	var generators []generator
	defer func() {
		for _, g := range generators {
			g.Kill()
		}
	}()
	for _, o := range orders {
		cmd := exec.CommandContext(ctx, os.Args[0], "--generate")
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, 0, err
		}
		out, outEnd, err := os.Pipe() // Cmd.StdoutPipe must not be read while somebody waits for the process
		if err != nil {
			return nil, 0, err
		}
		defer func() { _ = out.Close() }()
		cmd.Stdout = outEnd
		p, err := child.Start(cmd)
		_ = outEnd.Close()
		if err != nil {
			return nil, 0, err
		}
		generators = append(generators, generator{p, in, bufio.NewReader(out)})
		if err := json.NewEncoder(in).Encode(o); err != nil {
			return nil, 0, err
		}
	}
	for _, g := range generators {
		if line, err := g.out.ReadString('\n'); line != "ready\n" {
			return nil, 0, fmt.Errorf("a generator says %q: %w", line, err)
		}
	}
	started := time.Since(began)
	for _, g := range generators {
		if _, err := io.WriteString(g.in, "go\n"); err != nil {
			return nil, 0, err
		}
	}
	answers := make([]answer, len(generators))
	for i, g := range generators {
		if err := json.NewDecoder(g.out).Decode(&answers[i]); err != nil {
			return nil, 0, fmt.Errorf("a generator doesn't answer: %w", err)
		}
		if p := answers[i].Problem; p != "" {
			return nil, 0, errors.New(p)
		}
	}
	return answers, started, nil
}

// generate is a generator process: its order comes from standard input.
func generate(ctx context.Context, out io.Writer) error {
	lines := bufio.NewReader(os.Stdin)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return err
	}
	var a answer
	type look struct {
		at  time.Time
		cpu time.Duration
	}
	var (
		looking sync.Mutex
		redis   []look // guarded by looking: Broker and Started are called by different goroutines
	)
	result, err := loadtest.Run(ctx, o.Scenario, loadtest.Options{
		Logger: slog.New(slog.DiscardHandler),
		Broker: func(context.Context) (loadtest.BrokerSample, error) {
			var sum loadtest.BrokerSample
			for _, b := range o.Brokers {
				cpu, err := b.CPU()
				if err != nil {
					return sum, err
				}
				sum.CPUSeconds += cpu.Seconds()
			}
			if o.Redis != 0 {
				cpu, err := o.Redis.CPU()
				if err != nil {
					return sum, err
				}
				looking.Lock()
				redis = append(redis, look{time.Now(), cpu})
				looking.Unlock()
			}
			return sum, nil
		},
		Started: func(context.Context) (time.Time, error) {
			for _, b := range o.Brokers {
				n, err := b.ResidentBytes()
				if err != nil {
					return time.Time{}, err
				}
				a.Memory += n
			}
			if _, err := io.WriteString(out, "ready\n"); err != nil {
				return time.Time{}, err
			}
			_, err := lines.ReadString('\n')
			looking.Lock()
			redis = nil
			looking.Unlock()
			return time.Time{}, err
		},
	})
	if err != nil {
		return err
	}
	a.Delivered, a.Seconds, a.P99 = result.Totals.Delivered, result.Seconds, 0
	if l := result.Latencies[loadtest.Deliver]; l != nil {
		a.P99 = l.P99
	}
	if result.Broker != nil {
		a.Brokers = time.Duration(result.Broker.CPUSeconds * float64(time.Second))
	}
	if n := len(redis); n > 1 {
		first, last := redis[0], redis[n-1]
		a.Redis = time.Duration(float64(last.cpu-first.cpu) / last.at.Sub(first.at).Seconds() * result.Seconds)
	}
	switch {
	case result.Broken():
		a.Problem = fmt.Sprintf("the broker broke a promise: %+v", result.Audit)
	case result.Interrupted:
		a.Problem = "it was interrupted"
	case a.Delivered == 0:
		a.Problem = fmt.Sprintf("nothing was delivered: %+v", result.Errors)
	}
	return json.NewEncoder(out).Encode(a)
}

// plot writes the points as a drawing: what a message costs, and the memory.
func (c *config) plot(name string, points []point) error {
	cost, redis, memory := chart.Line{Name: "brokers"}, chart.Line{Name: "Redis", Dashed: true}, chart.Line{Name: "memory"}
	for _, p := range points {
		x := float64(p.n)
		cost.Points = append(cost.Points, chart.Point{X: x, Y: p.micros})
		if p.redis > 0 {
			redis.Points = append(redis.Points, chart.Point{X: x, Y: p.redis})
		}
		memory.Points = append(memory.Points, chart.Point{X: x, Y: float64(p.memory) / (1 << 20)})
	}
	x := chart.Axis{Label: name, Log: name != "nodes"}
	lines := []chart.Line{cost}
	if len(redis.Points) > 0 {
		lines = append(lines, redis)
	}
	for file, drawing := range map[string]chart.Chart{
		name + "-cpu.svg":    {Title: "CPU per message by " + name, X: x, Y: chart.Axis{Label: "µs", Zero: true}, Lines: lines, Points: true},
		name + "-memory.svg": {Title: "Memory of the brokers by " + name, X: x, Y: chart.Axis{Label: "MiB", Log: true}, Lines: []chart.Line{memory}, Points: true},
	} {
		var b bytes.Buffer
		if err := drawing.WriteSVG(&b); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(c.out, file), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
