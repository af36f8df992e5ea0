//go:build linux

package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"

	"loopmq"
	"loopmq/internal/meddler"
	"loopmq/store/memory"
)

// The brokers of these tests are this test binary: one that does well, and one behind a proxy that loses one message in fifty.
const (
	fakePort  = "COMPARE_FAKE_PORT"
	fakeLoses = "COMPARE_FAKE_LOSES"
)

// TestMain runs the broker instead of the tests where a test starts this binary as one.
func TestMain(m *testing.M) {
	if port := os.Getenv(fakePort); port != "" {
		if err := serveFake("127.0.0.1:"+port, os.Getenv(fakeLoses) != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stderr, "the fake broker listens")
		select {}
	}
	os.Exit(m.Run())
}

func serveFake(address string, loses bool) error {
	b, err := loopmq.New(loopmq.Options{Store: memory.New(memory.Options{}), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := b.Start(); err != nil {
		return err
	}
	if !loses {
		_, err := b.Listen(loopmq.Listener{Address: address})
		return err
	}
	behind, err := b.Listen(loopmq.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	proxy, err := meddler.New(behind.String(), meddler.Plan{Every: 50, Faults: []meddler.Fault{meddler.Drop}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go join(conn, proxy.Addr())
		}
	}()
	return nil
}

// join passes on what conn and the server at address say to each other.
func join(conn net.Conn, address string) {
	server, err := net.Dial("tcp", address)
	if err != nil {
		_ = conn.Close()
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{conn, server}, {server, conn}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_, _ = conn.Close(), server.Close()
		})
	}
	both.Wait()
}

// fakeCommand is a NAME=COMMAND that starts such a broker.
func fakeCommand(name string, loses bool) string {
	set := ""
	if loses {
		set = fakeLoses + "=1 "
	}
	return fmt.Sprintf("%s=env %s={port} %s%s", name, fakePort, set, quote(os.Args[0]))
}

// small are the real scenarios with few clients, so that tests stay quick.
func small() []scenario {
	all := append([]scenario(nil), scenarios...)
	for i := range all {
		s := &all[i]
		for _, n := range []*int{&s.load.Pairs, &s.load.Publishers, &s.load.Subscribers} {
			*n = min(*n, 8)
		}
		s.load.Connections = min(s.load.Connections, 100)
		s.load.Rate = min(s.load.Rate, 2000)
		s.lengths = min(s.lengths, 1)
	}
	return all
}
