// Command opcua is a broker beside a machine: the variables of an OPC UA server
// are topics for its clients, who write them too.
//
// It prints what changes. From this directory's parent, for a server that has an
// object Plant below Objects in its namespace urn:plant:
//
//	go run ./opcua -server opc.tcp://127.0.0.1:4840 -namespace urn:plant -tree /Objects/ns:Plant
//	mosquitto_sub -t 'plant/#' -v &
//	mosquitto_pub -t set/Boiler/Temperature -m 21.5
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"loopmq"
	opcuabridge "loopmq/bridges/opcua"
	"loopmq/store/memory"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:1883", "`address` for MQTT clients")
	server := flag.String("server", "opc.tcp://127.0.0.1:4840", "`URL` of the OPC UA server")
	namespace := flag.String("namespace", "urn:plant", "`URI` of the namespace that -tree calls ns")
	tree := flag.String("tree", "/Objects/ns:Plant", "`path` of the object whose variables are wanted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	endpoint := &opcuabridge.Endpoint{
		Name:               "machine",
		URL:                *server,
		Namespaces:         map[string]string{"ns": *namespace},
		PublishingInterval: 100 * time.Millisecond,
		Mappings: []opcuabridge.Mapping{{
			Tree:       *tree,
			Topic:      "plant/{browse_path}",
			WriteTopic: "set/{browse_path}",
			Format:     opcuabridge.FormatValue,
			QoS:        1,
			Retain:     true, // who subscribes later gets the last value
		}},
	}
	if err := run(ctx, os.Stdout, *listen, endpoint); err != nil {
		fmt.Fprintln(os.Stderr, "opcua:", err)
		os.Exit(1)
	}
}

// run is the program, until ctx ends. What it has to say goes to w.
func run(ctx context.Context, w io.Writer, listen string, endpoint *opcuabridge.Endpoint) error {
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

	// The function is called on an event loop: it copies what it needs and returns.
	changes := make(chan string, 100)
	cancel, err := broker.Subscribe("plant/#", func(m *loopmq.MessageView) {
		select {
		case changes <- fmt.Sprintf("%s: %s", m.TopicName, m.Payload):
		default: // This program doesn't keep up: the line is lost, clients get the message.
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

	// From here on the bridge connects, again and again if it has to.
	bridge, err := opcuabridge.New(opcuabridge.Options{Broker: broker, Store: store, Endpoints: []*opcuabridge.Endpoint{endpoint}})
	if err != nil {
		return err
	}
	bridge.Start()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		bridge.Close(ctx)
	}()

	for {
		select {
		case line := <-changes:
			fmt.Fprintln(w, line)
		case <-ctx.Done():
			return nil
		}
	}
}

// shutdown disconnects the clients and stops the broker.
func shutdown(broker *loopmq.Broker) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := broker.Shutdown(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "opcua: shutdown:", err)
	}
}
