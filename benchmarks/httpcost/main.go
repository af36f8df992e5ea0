//go:build linux

// Command httpcost measures what a message costs the broker that comes by HTTP, against one that comes by MQTT at QoS 1: processor time of the
// broker's process, one message under way on each of many connections that are kept.
//
//	go run ./benchmarks/httpcost
//
// The broker is a process of its own, with a password file's user and a store in memory. MQTT and HTTP take turns, so that both see the same
// machine. With -profile FILE the time of the HTTP turns is profiled.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"loopmq"
	"loopmq/auth"
	httpbridge "loopmq/bridges/http"
	"loopmq/codec"
	"loopmq/store/memory"
)

const topic = "sensors/room-1/temperature"

var payload = bytes.Repeat([]byte("x"), 64)

func main() {
	serve := flag.Bool("serve", false, "run the broker that is measured until standard input ends")
	profile := flag.String("profile", "", "file for a processor profile of the broker")
	connections := flag.Int("connections", 100, "how many of each")
	rounds := flag.Int("rounds", 5, "turns of each")
	turn := flag.Duration("turn", 2*time.Second, "how long one lasts")
	subscribers := flag.Int("subscribers", 0, "MQTT clients that get each message at QoS 0")
	flag.Parse()
	var err error
	if *serve {
		err = run(*profile)
	} else {
		err = measure(*profile, *connections, *rounds, *subscribers, *turn)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "httpcost:", err)
		os.Exit(1)
	}
}

// user is one with a token, so to speak: it is whom the password names.
type user struct{}

func (user) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	if r.HasUsername && string(r.Password) != "password" {
		return loopmq.Identity{}, nil, codec.NewError(codec.BadUserNameOrPassword, "wrong password")
	}
	return loopmq.Identity{Username: r.Username}, nil, nil
}

func (user) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, errors.New("there are no steps")
}

// run is the broker's process. It prints the addresses, of MQTT and of HTTP.
func run(profile string) error {
	debug.SetGCPercent(400) // which loopmq serve arrives at under load
	rules, err := os.CreateTemp("", "httpcost")
	if err != nil {
		return err
	}
	defer os.Remove(rules.Name())
	if _, err := rules.WriteString("topic readwrite sensors/#\nuser user\ntopic readwrite sensors/#\n"); err != nil {
		return err
	}
	acl, err := auth.OpenACLFile(rules.Name())
	if err != nil {
		return err
	}
	st := memory.New(memory.Options{})
	b, err := loopmq.New(loopmq.Options{
		Store: st, SysInterval: -1, Logger: slog.New(slog.DiscardHandler), Authenticator: user{}, Authorizer: auth.NewRules(auth.RulesOptions{}, acl),
	})
	if err != nil {
		return err
	}
	if err := b.Start(); err != nil {
		return err
	}
	mqtt, err := b.Listen(loopmq.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	web := httpbridge.New(httpbridge.Options{Broker: b})
	addr, err := web.Start("127.0.0.1:0")
	if err != nil {
		return err
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	_, _ = fmt.Fprintln(os.Stdout, mqtt, addr)
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(web.Shutdown(ctx), b.Shutdown(ctx), st.Close())
}

func measure(profile string, connections, rounds, subscribers int, turn time.Duration) error {
	cmd := exec.Command(os.Args[0], "-serve", "-profile", profile)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var mqtt, web string
	if _, err = fmt.Fscanln(bufio.NewReader(out), &mqtt, &web); err == nil {
		err = compare(mqtt, web, cmd.Process.Pid, connections, rounds, subscribers, turn)
	}
	_ = in.Close()
	return errors.Join(err, cmd.Wait())
}

// exchanger sends one message, and waits for the answer.
type exchanger func() error

func compare(mqtt, web string, pid, connections, rounds, subscribers int, turn time.Duration) error {
	for i := range subscribers {
		conn, err := connect(mqtt, "sub-"+strconv.Itoa(i))
		if err != nil {
			return err
		}
		defer conn.Close()
		s := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{{TopicFilter: []byte(topic)}}}
		if _, err := conn.Write(s.Append(nil, codec.V5)); err != nil {
			return err
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }()
	}
	var senders [2][]exchanger
	for i := range connections {
		conn, err := connect(mqtt, "mqtt-"+strconv.Itoa(i))
		if err != nil {
			return err
		}
		defer conn.Close()
		senders[0] = append(senders[0], overMQTT(conn))
		if conn, err = net.Dial("tcp", web); err != nil {
			return err
		}
		defer conn.Close()
		senders[1] = append(senders[1], overHTTP(conn, web))
	}
	var costs [2][]float64
	for round := range rounds + 1 {
		for kind := range senders {
			cost, err := burn(pid, senders[kind], turn)
			if err != nil {
				return err
			}
			if round > 0 { // the first is to warm up
				costs[kind] = append(costs[kind], cost)
			}
		}
	}
	m, h := median(costs[0]), median(costs[1])
	_, err := fmt.Fprintf(os.Stdout, "broker CPU per message, %d connections, %d subscribers, median of %d rounds:\nMQTT QoS 1  %6.2f µs  %.2f\nHTTP        %6.2f µs  %.2f\nratio       %6.2f\n",
		connections, subscribers, rounds, m, costs[0], h, costs[1], h/m)
	return err
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// burn has all senders work for a while, and returns microseconds of the broker's
// processor time for each message.
func burn(pid int, senders []exchanger, turn time.Duration) (float64, error) {
	before, err := processorTime(pid)
	if err != nil {
		return 0, err
	}
	var wg sync.WaitGroup
	var sent atomic.Int64
	failed := make(chan error, len(senders))
	end := time.Now().Add(turn)
	for _, send := range senders {
		wg.Go(func() {
			n := 0
			for time.Now().Before(end) {
				if err := send(); err != nil {
					failed <- err
					return
				}
				n++
			}
			sent.Add(int64(n))
		})
	}
	wg.Wait()
	if len(failed) > 0 {
		return 0, <-failed
	}
	after, err := processorTime(pid)
	return (after - before).Seconds() * 1e6 / float64(sent.Load()), err
}

// processorTime is what a process has used, by all its threads.
func processorTime(pid int) (total time.Duration, err error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, err
	}
	for _, t := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(n)
	}
	return total, nil
}

func connect(addr, clientID string) (net.Conn, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := codec.Connect{
		Version: codec.V5, ClientID: []byte(clientID), CleanStart: true, UsernameFlag: true, Username: []byte("user"), PasswordFlag: true, Password: []byte("password"),
	}
	if _, err := conn.Write(c.Append(nil, codec.V5)); err != nil {
		return nil, err
	}
	if _, err := readPacket(conn, make([]byte, 512)); err != nil {
		return nil, err
	}
	return conn, nil
}

// readPacket reads a packet of less than 128 bytes.
func readPacket(conn net.Conn, b []byte) ([]byte, error) {
	if _, err := io.ReadFull(conn, b[:2]); err != nil {
		return nil, err
	}
	if b[1] >= 128 {
		return nil, errors.New("a large packet")
	}
	_, err := io.ReadFull(conn, b[2:2+b[1]])
	return b[:2+b[1]], err
}

func overMQTT(conn net.Conn) exchanger {
	h := codec.PublishHeader{QoS: 1, PacketID: 1}
	packet := codec.AppendPublish(nil, codec.V5, &h, []byte(topic), nil, payload)
	b := make([]byte, 512)
	return func() error {
		if _, err := conn.Write(packet); err != nil {
			return err
		}
		answer, err := readPacket(conn, b)
		if err == nil && answer[0]>>4 != byte(codec.TypePuback) {
			err = fmt.Errorf("got % x, not a PUBACK", answer)
		}
		return err
	}
}

func overHTTP(conn net.Conn, host string) exchanger {
	body := fmt.Sprintf(`{"topic":%q,"payload":%q,"qos":1}`, topic, payload)
	request := fmt.Appendf(nil, "POST /publish HTTP/1.1\r\nHost: %s\r\nAuthorization: Basic dXNlcjpwYXNzd29yZA==\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", host, len(body), body)
	r := bufio.NewReader(conn)
	return func() error {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
			return errors.New(resp.Status)
		}
		return nil
	}
}
