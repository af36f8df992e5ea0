//go:build linux

// Manynodes measures what idle connections cost on several nodes that share a
// Redis: it starts nodes and Redis by deploy/local.sh, opens connections with one
// subscription each from several processes, since one may open so many files only,
// and prints how much memory each process grew by, per connection.
//
//	make build && go run ./benchmarks/manynodes --nodes 6 --connections 100000
//
// With --durable the sessions outlive their connections.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"loopmq/benchmarks/process"
	"loopmq/codec"
	"loopmq/internal/child"
)

type config struct {
	nodes, connections int
	durable            bool
	bin                string
	settle             time.Duration

	address     string // of a generator process: the node it connects to
	first, last int    // the clients it is
}

func main() {
	var c config
	flag.IntVar(&c.nodes, "nodes", 6, "how many nodes")
	flag.IntVar(&c.connections, "connections", 100_000, "connections in all")
	flag.BoolVar(&c.durable, "durable", false, "sessions outlive their connections")
	flag.StringVar(&c.bin, "bin", "bin/loopmq", "the broker")
	flag.DurationVar(&c.settle, "settle", 10*time.Second, "time between the last SUBACK and the measurement")
	flag.StringVar(&c.address, "generate", "", "internal: be a generator for this address")
	flag.IntVar(&c.first, "first", 0, "internal: the first client")
	flag.IntVar(&c.last, "last", 0, "internal: the client behind the last")
	flag.Parse()
	run := c.measure
	if c.address != "" {
		run = c.generate
	}
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "manynodes:", err)
		os.Exit(1)
	}
}

// measured is a process whose memory is measured.
type measured struct {
	name   string
	pid    int
	before int64
}

func (c *config) measure(out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "manynodes-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	local := exec.Command("deploy/local.sh", "up", "--nodes", strconv.Itoa(c.nodes), "--port", "0", "--dir", dir, "--bin", c.bin, "--no-prometheus")
	local.Stderr = os.Stderr
	if err := local.Start(); err != nil {
		return err
	}
	stopped := make(chan struct{})
	go func() {
		_ = local.Wait() // it says itself what is wrong
		close(stopped)
	}()
	defer func() {
		_ = local.Process.Signal(os.Interrupt)
		<-stopped
	}()
	env, err := readEnv(dir, stopped)
	if err != nil {
		return err
	}
	processes := []measured{{name: "redis"}}
	for i := range c.nodes {
		processes = append(processes, measured{name: "node" + strconv.Itoa(i+1)})
	}
	for i := range processes {
		p := &processes[i]
		b, err := os.ReadFile(filepath.Join(dir, p.name, "pid"))
		if err != nil {
			return err
		}
		if p.pid, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			return err
		}
		if p.before, err = process.Process(p.pid).ResidentBytes(); err != nil {
			return err
		}
	}
	began := time.Now()
	perNode := c.connections / c.nodes
	var group sync.WaitGroup
	results := make(chan error, c.nodes)
	for i := range c.nodes {
		group.Go(func() { results <- c.startGenerator(env[fmt.Sprintf("NODE%d_MQTT", i+1)], i*perNode, (i+1)*perNode) })
	}
	group.Wait()
	for range c.nodes {
		err = errors.Join(err, <-results)
	}
	if err != nil {
		return err
	}
	n := perNode * c.nodes
	took := time.Since(began)
	fmt.Fprintf(out, "%d connections on %d nodes, durable %v: %.1f s, %.0f/s\n", n, c.nodes, c.durable, took.Seconds(), float64(n)/took.Seconds())
	time.Sleep(c.settle)
	fmt.Fprintln(out, "process  MiB before  MiB after  bytes per connection of its own")
	for _, p := range processes {
		after, err := process.Process(p.pid).ResidentBytes()
		if err != nil {
			return err
		}
		own := perNode
		if p.name == "redis" {
			own = n
		}
		fmt.Fprintf(out, "%-8s %10.1f %10.1f %10d\n", p.name, float64(p.before)/(1<<20), float64(after)/(1<<20), (after-p.before)/int64(own))
	}
	return nil
}

// readEnv waits for the file that local.sh writes when everything is ready.
func readEnv(dir string, stopped <-chan struct{}) (map[string]string, error) {
	for {
		b, err := os.ReadFile(filepath.Join(dir, "env"))
		if err == nil {
			env := make(map[string]string)
			for line := range strings.Lines(string(b)) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
				env[name] = strings.Trim(value, `"'`)
			}
			return env, nil
		}
		select {
		case <-stopped:
			return nil, errors.New("deploy/local.sh has ended")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startGenerator starts a process that holds connections until this one ends, and
// returns when all of them are there.
func (c *config) startGenerator(address string, first, last int) error {
	cmd := exec.Command(os.Args[0], "--generate", address, "--first", strconv.Itoa(first), "--last", strconv.Itoa(last),
		"--durable="+strconv.FormatBool(c.durable))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if _, err := child.Start(cmd); err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("the generator for %s says %q: %w", address, line, err)
	}
	return nil
}

// connectsMax is how many connections a generator sets up at a time.
const connectsMax = 50

func (c *config) generate(out io.Writer) error {
	conns := make([]net.Conn, c.last-c.first)
	errs := make([]error, connectsMax)
	var group sync.WaitGroup
	for worker := range connectsMax {
		group.Go(func() {
			for i := worker; i < len(conns) && errs[worker] == nil; i += connectsMax {
				conns[i], errs[worker] = c.connect(c.first + i)
			}
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	select {} // the parent's end ends it
}

// connect opens a connection with a subscription.
func (c *config) connect(i int) (net.Conn, error) {
	// Eight source addresses: one has no more than 28,000 ports.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i%8))}, Timeout: 30 * time.Second}
	conn, err := d.Dial("tcp", c.address)
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("manynodes-%06d", i)
	p := codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V311, CleanStart: !c.durable, ClientID: []byte(id)}
	s := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{{TopicFilter: []byte("manynodes/" + id), Options: codec.SubscriptionOptions{QoS: 1}}}}
	if _, err := conn.Write(s.Append(p.Append(nil, codec.V311), codec.V311)); err != nil {
		return nil, err
	}
	var answers [4 + 5]byte // CONNACK, SUBACK
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, answers[:]); err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	if answers[0] != 0x20 || answers[3] != 0 || answers[4] != 0x90 || answers[8] != 1 {
		return nil, fmt.Errorf("%s: answers % X", id, answers)
	}
	return conn, nil
}
