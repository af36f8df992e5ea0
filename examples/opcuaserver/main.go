// Command opcuaserver is a broker whose topics OPC UA clients see as variables: they
// read and watch them, and what they write is published.
//
// It prints what is published. From this directory's parent:
//
//	go run ./opcuaserver
//	mosquitto_pub -r -t plant/press/temperature -m 21.5
//
// An OPC UA client, UaExpert say, finds Objects/Topics/plant/press/temperature at
// opc.tcp://127.0.0.1:4840; its node id is ns=2;s=plant/press/temperature. Without users
// and certificates, as here, that is for one machine only: see docs/opcua.md.
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
	opcuaserver "loopmq/bridges/opcua/server"
	"loopmq/store/memory"
)

func main() {
	// OPC UA clients are served by a process of its own, so that none can harm the broker. It
	// is this program, started again with an argument; signals are the broker's business.
	if len(os.Args) == 2 && os.Args[1] == opcuaserver.Command {
		signal.Ignore(os.Interrupt, syscall.SIGTERM)
		if err := opcuaserver.Serve(); err != nil {
			fmt.Fprintln(os.Stderr, "opcuaserver:", err)
			os.Exit(1)
		}
		return
	}
	listen := flag.String("listen", "127.0.0.1:1883", "`address` for MQTT clients")
	serve := flag.String("serve", "127.0.0.1:4840", "`address` for OPC UA clients")
	filter := flag.String("topics", "plant/#", "`filter` of the topics that they see")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *listen, *serve, *filter); err != nil {
		fmt.Fprintln(os.Stderr, "opcuaserver:", err)
		os.Exit(1)
	}
}

// run is the program, until ctx ends. What it has to say goes to w.
func run(ctx context.Context, w io.Writer, listen, serve, filter string) error {
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
	messages := make(chan string, 100)
	cancel, err := broker.Subscribe(filter, func(m *loopmq.MessageView) {
		select {
		case messages <- fmt.Sprintf("%s: %s", m.TopicName, m.Payload):
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

	server, err := opcuaserver.New(opcuaserver.Options{
		Broker:      broker,
		Filters:     []string{filter},
		None:        true, // no security policy,
		Anonymous:   true, // and no users
		WriteQoS:    1,
		WriteRetain: true, // what a client has set is there after a restart, if the store is
	})
	if err != nil {
		return err
	}
	at, err := server.Start(serve)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		server.Close(ctx)
	}()
	fmt.Fprintf(w, "serving opc.tcp://%s\n", at)

	for {
		select {
		case line := <-messages:
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
		fmt.Fprintln(os.Stderr, "opcuaserver: shutdown:", err)
	}
}
