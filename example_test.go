package loopmq_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"

	"loopmq"
	"loopmq/codec"
	"loopmq/store/memory"
)

// start starts a broker for an example; stop ends it.
func start(options loopmq.Options) (broker *loopmq.Broker, stop func()) {
	store := memory.New(memory.Options{})
	options.Store, options.Logger = store, slog.New(slog.DiscardHandler)
	broker, err := loopmq.New(options)
	if err != nil {
		log.Fatal(err)
	}
	if err := broker.Start(); err != nil {
		log.Fatal(err)
	}
	return broker, func() {
		if err := broker.Shutdown(context.Background()); err != nil {
			log.Fatal(err)
		}
		_ = store.Close()
	}
}

// A broker of one's own: made, started, given a listener, and shut down.
func Example() {
	store := memory.New(memory.Options{})
	defer store.Close()
	broker, err := loopmq.New(loopmq.Options{Store: store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	if err := broker.Start(); err != nil {
		log.Fatal(err)
	}
	addr, err := broker.Listen(loopmq.Listener{Address: "127.0.0.1:0"}) // port 0: one that is free
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening:", addr.Network(), broker.Health().Status)

	if err := broker.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("then:", broker.Health().Status)
	// Output:
	// listening: tcp ok
	// then: stopped
}

// Options that can't be used are refused with what is allowed.
func ExampleNew() {
	_, err := loopmq.New(loopmq.Options{})
	fmt.Println(err)
	_, err = loopmq.New(loopmq.Options{Store: memory.New(memory.Options{}), Limits: loopmq.Limits{Inflight: 100_000}})
	fmt.Println(err)
	// Output:
	// loopmq: Options.Store is required (store/memory keeps everything in memory)
	// loopmq: Options.Limits.Inflight is 100000; allowed: 1 to 65535
}

// A message to nobody is no error; a retained one waits for whoever subscribes.
func ExampleBroker_Publish() {
	broker, stop := start(loopmq.Options{})
	defer stop()

	matched, err := broker.Publish(context.Background(), loopmq.Message{
		TopicName: "sensors/kitchen/temperature",
		Payload:   []byte("21.5"),
		QoS:       1,
		Retain:    true,
	})
	fmt.Println(matched, err)

	_, err = broker.Publish(context.Background(), loopmq.Message{TopicName: "sensors/+/temperature"})
	fmt.Println(err)
	// Output:
	// 0 <nil>
	// loopmq: not a valid Topic Name
}

// A subscription inside the program: first come the retained messages, then the others.
func ExampleBroker_Subscribe() {
	broker, stop := start(loopmq.Options{})
	defer stop()
	publish := func(topic, payload string, retain bool) {
		// Messages with the same PublisherID keep their order.
		m := loopmq.Message{TopicName: topic, Payload: []byte(payload), QoS: 1, Retain: retain, PublisherID: "example"}
		if _, err := broker.Publish(context.Background(), m); err != nil {
			log.Fatal(err)
		}
	}
	publish("sensors/kitchen/temperature", "21.5", true)

	lines := make(chan string, 10)
	cancel, err := broker.Subscribe("sensors/+/temperature", func(m *loopmq.MessageView) {
		// What m points to is valid during this call only, so it is copied.
		lines <- fmt.Sprintf("%s: %s (retained: %t)", m.TopicName, m.Payload, m.Retain)
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-lines)

	publish("sensors/hall/temperature", "18", false)
	publish("sensors/hall/humidity", "40", false) // which the filter doesn't match
	publish("sensors/attic/temperature", "9", false)
	fmt.Println(<-lines)
	fmt.Println(<-lines)
	cancel()
	// Output:
	// sensors/kitchen/temperature: 21.5 (retained: true)
	// sensors/hall/temperature: 18 (retained: false)
	// sensors/attic/temperature: 9 (retained: false)
}

// Clients connect over TCP; what happens to them is told by events.
func ExampleBroker_Listen() {
	events := make(chan string, 10)
	broker, stop := start(loopmq.Options{Recorder: loopmq.OnEvent(func(e *loopmq.Event) {
		// What e points to is valid during this call only.
		events <- fmt.Sprintf("%s %s: 0x%02X", e.Client.ClientID, e.Kind, byte(e.ReasonCode))
	}, loopmq.EventClientConnected, loopmq.EventClientDisconnected)})
	defer stop()
	addr, err := broker.Listen(loopmq.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}

	connectAndLeave(addr.String(), "thermometer")
	fmt.Println(<-events)
	fmt.Println(<-events)
	// Output:
	// thermometer client.connected: 0x00
	// thermometer client.disconnected: 0x00
}

// connectAndLeave is a client that connects, waits for the CONNACK, and disconnects.
func connectAndLeave(addr, clientID string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	connect := codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V5, CleanStart: true, ClientID: []byte(clientID)}
	if _, err := conn.Write(connect.Append(nil, codec.V5)); err != nil {
		log.Fatal(err)
	}
	connack := make([]byte, 2)
	if _, err := io.ReadFull(conn, connack); err != nil {
		log.Fatal(err)
	}
	if _, err := conn.Write((&codec.Disconnect{}).Append(nil, codec.V5)); err != nil {
		log.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn) // until the broker has closed the connection
}
