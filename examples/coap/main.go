// Command coap is a device that speaks CoAP, on github.com/plgd-dev/go-coap: a heater
// that is told its temperature. It publishes what it is set to as a retained message,
// which MQTT clients see, and gets what it missed while it was away. What it didn't
// acknowledge before it ended may come twice.
//
// Start a broker with `make run`, then, from this directory's parent:
//
//	go run ./coap
//	mosquitto_sub -t 'heaters/+/state' -v &
//	mosquitto_pub -q 1 -t heaters/hall/set -m 21.5
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/message/pool"
	"github.com/plgd-dev/go-coap/v3/udp"
	"github.com/plgd-dev/go-coap/v3/udp/client"
)

func main() {
	broker := flag.String("broker", "127.0.0.1:5683", "`address` of the broker, for CoAP")
	name := flag.String("name", "hall", "where the heater is")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *broker, *name); err != nil {
		fmt.Fprintln(os.Stderr, "coap:", err)
		os.Exit(1)
	}
}

const (
	// timeout is how long the broker may take to answer.
	timeout = 20 * time.Second
	// heartbeat is how often the broker hears of the heater: a connection ends after five
	// minutes without a word.
	heartbeat = time.Minute
)

// run is the heater, until ctx ends. What it has to say goes to w.
func run(ctx context.Context, w io.Writer, broker, name string) error {
	conn, err := udp.Dial(broker)
	if err != nil {
		return err
	}
	defer conn.Close()
	h := &heater{conn: conn, name: name}

	// A session that lasts a day beyond this process keeps what comes meanwhile.
	answer, err := h.post(ctx, "/mqtt/connection", nil, "clientid=heater-"+name, "expiry=86400")
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	h.token = string(answer)

	// The first notification is the answer itself: the retained message, or nothing.
	settings := make(chan string, 16)
	ended, err := h.observe(ctx, "/ps/heaters/"+name+"/set", settings)
	if err != nil {
		return fmt.Errorf("observe: %w", err)
	}
	fmt.Fprintf(w, "heater of the %s\n", name)

	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		select {
		case set := <-settings:
			fmt.Fprintf(w, "set to %s\n", set)
			// What has begun is brought to its end, also if ctx ends.
			if _, err := h.post(context.WithoutCancel(ctx), "/ps/heaters/"+name+"/state", []byte(set), "retain=true", "token="+h.token); err != nil {
				return fmt.Errorf("publish: %w", err)
			}
		case <-t.C:
			if err := h.beat(context.WithoutCancel(ctx)); err != nil {
				return fmt.Errorf("heartbeat: %w", err)
			}
		case err := <-ended: // the broker stops, say
			return fmt.Errorf("the observation has ended: %w", err)
		case <-ctx.Done():
			return nil // the session goes on
		}
	}
}

// heater is what talks to the broker.
type heater struct {
	conn        *client.Conn
	name, token string
}

// query makes options of parameters.
func query(parameters ...string) (options message.Options) {
	for _, p := range parameters {
		options = append(options, message.Option{ID: message.URIQuery, Value: []byte(p)})
	}
	return options
}

// post sends a confirmable POST, again until it is answered, and returns the payload of
// the answer.
func (h *heater) post(ctx context.Context, path string, payload []byte, parameters ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := h.conn.Post(ctx, path, message.TextPlain, bytes.NewReader(payload), query(parameters...)...)
	if err != nil {
		return nil, err
	}
	return body(r)
}

// beat tells the broker that the heater is there.
func (h *heater) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := h.conn.Put(ctx, "/mqtt/connection", message.TextPlain, nil, query("token="+h.token)...)
	if err == nil {
		_, err = body(r)
	}
	return err
}

// observe has what is published go to a channel, and an error to the one that it returns
// when the broker ends that.
func (h *heater) observe(ctx context.Context, path string, to chan<- string) (<-chan error, error) {
	ended := make(chan error, 1)
	asking, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := h.conn.Observe(asking, path, func(r *pool.Message) {
		payload, err := body(r)
		switch {
		case err != nil:
			select {
			case ended <- err:
			default: // the first one tells
			}
		case len(payload) > 0:
			select {
			case to <- string(payload):
			case <-ctx.Done():
			}
		}
	}, query("token="+h.token)...)
	return ended, err
}

// body returns the payload of an answer, unless it says that the request failed.
func body(r *pool.Message) ([]byte, error) {
	payload, err := r.ReadBody()
	if err == nil && r.Code() >= codes.BadRequest {
		err = fmt.Errorf("%v: %s", r.Code(), payload)
	}
	return payload, err
}
