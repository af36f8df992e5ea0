// Command client is a plain MQTT 5.0 client on github.com/eclipse/paho.golang: it
// subscribes, publishes at QoS 1, and waits for its own message to come back.
//
// Start a broker with `make run`, then, from this directory's parent: go run ./client
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

func main() {
	broker := flag.String("broker", "127.0.0.1:1883", "`address` of the broker")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := run(ctx, os.Stdout, *broker); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

// run greets itself through the broker at address, and writes what it receives to w.
func run(ctx context.Context, w io.Writer, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}

	received := make(chan *paho.Publish, 1)
	failed := make(chan error, 1)
	client := paho.NewClient(paho.ClientConfig{
		Conn: conn,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(p paho.PublishReceived) (bool, error) {
				received <- p.Packet
				return true, nil
			},
		},
		OnClientError: func(err error) { failed <- err },
		OnServerDisconnect: func(d *paho.Disconnect) {
			failed <- fmt.Errorf("the broker disconnected: reason code 0x%02X", d.ReasonCode)
		},
	})

	// The broker assigns a Client Identifier, and tells which.
	connack, err := client.Connect(ctx, &paho.Connect{CleanStart: true, KeepAlive: 30})
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	fmt.Fprintf(w, "connected as %s\n", connack.Properties.AssignedClientID)

	if _, err := client.Subscribe(ctx, &paho.Subscribe{
		Subscriptions: []paho.SubscribeOptions{{Topic: "greeting/+", QoS: 1}},
	}); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	// Publish returns when the broker has acknowledged the message.
	if _, err := client.Publish(ctx, &paho.Publish{Topic: "greeting/world", QoS: 1, Payload: []byte("hello")}); err != nil {
		return fmt.Errorf("publish: %w", err)
	}

	select {
	case m := <-received:
		fmt.Fprintf(w, "%s: %s\n", m.Topic, m.Payload)
	case err := <-failed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the message: %w", ctx.Err())
	}
	return client.Disconnect(&paho.Disconnect{})
}
