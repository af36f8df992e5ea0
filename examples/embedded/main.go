// Command embedded has an MQTT broker of its own: clients connect to this
// program as they would to any broker, while it reads what they publish and
// answers without a connection.
//
// It prints the temperatures that clients publish, and raises an alarm, as a
// retained message, for each room that gets too hot. From this directory's
// parent:
//
//	go run ./embedded
//	mosquitto_sub -t 'alarms/#' -v &
//	mosquitto_pub -t sensors/kitchen/temperature -m 31.5
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"loopmq"
	"loopmq/store/memory"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:1883", "`address` for MQTT clients")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "embedded:", err)
		os.Exit(1)
	}
}

// tooHot is the temperature from which a room gets an alarm.
const tooHot = 30

// reading is what a sensor published.
type reading struct{ room, temperature string }

// run is the program, until ctx ends. What it has to say goes to w.
func run(ctx context.Context, w io.Writer, listen string) error {
	store := memory.New(memory.Options{})
	defer store.Close()
	broker, err := loopmq.New(loopmq.Options{Store: store})
	if err != nil {
		return err
	}
	if err := broker.Start(); err != nil {
		return err
	}
	defer shutdown(broker)

	// Before clients can connect, so that none of their messages is missed. The
	// function is called on an event loop: it copies what it needs and returns.
	readings := make(chan reading, 100)
	cancel, err := broker.Subscribe("sensors/+/temperature", func(m *loopmq.MessageView) {
		select {
		case readings <- reading{strings.Split(string(m.TopicName), "/")[1], string(m.Payload)}:
		default: // This program doesn't keep up: the reading is lost, the broker goes on.
		}
	})
	if err != nil {
		return err
	}
	defer cancel()

	addr, err := broker.Listen(loopmq.Listener{Address: listen})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "listening on %s\n", addr)

	for {
		select {
		case r := <-readings:
			fmt.Fprintf(w, "%s: %s degrees\n", r.room, r.temperature)
			if err := judge(ctx, broker, r); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// judge publishes an alarm for a room that is too hot. It is retained, so that
// who subscribes later gets it too.
func judge(ctx context.Context, broker *loopmq.Broker, r reading) error {
	if t, err := strconv.ParseFloat(r.temperature, 64); err != nil || t < tooHot {
		return nil //nolint:nilerr // what isn't a number is no alarm
	}
	// Publish returns when every durable session that matched holds the message.
	_, err := broker.Publish(ctx, loopmq.Message{
		TopicName: "alarms/" + r.room,
		Payload:   []byte(r.temperature),
		QoS:       1,
		Retain:    true,
	})
	return err
}

// shutdown disconnects the clients and stops the broker.
func shutdown(broker *loopmq.Broker) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := broker.Shutdown(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "embedded: shutdown:", err)
	}
}
