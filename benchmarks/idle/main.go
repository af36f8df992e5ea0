//go:build linux

// Command idle measures what an idle connection with one subscription costs in the broker's resident memory, for each transport:
//
//	go run ./benchmarks/idle
//
// Each broker is a process of its own with default options and its store in memory, and isn't told to collect garbage. It is the growth of
// its resident set that counts, from a few connections on to all of them.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"loopmq"
	"loopmq/benchmarks/process"
	"loopmq/codec"
	"loopmq/store/memory"
)

const (
	warmUps = 50
	dialers = 32
)

func main() {
	serve := flag.String("serve", "", "run the broker that is measured, for this transport, until standard input ends")
	transports := flag.String("transports", "tcp,ws,tls,wss", "what to measure")
	connections := flag.Int("connections", 15_000, "how many")
	settled := flag.Duration("settled", 10*time.Second, "how long to wait behind the last SUBACK")
	flag.Parse()
	var err error
	if *serve != "" {
		err = run(*serve)
	} else {
		for transport := range strings.SplitSeq(*transports, ",") {
			err = errors.Join(err, measure(transport, *connections, *settled))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
}

// run is the broker's process. It prints the address.
func run(transport string) error {
	st := memory.New(memory.Options{})
	b, err := loopmq.New(loopmq.Options{Store: st, SysInterval: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := b.Start(); err != nil {
		return err
	}
	l := loopmq.Listener{Address: "127.0.0.1:0"}
	if transport == "ws" || transport == "wss" {
		l.WebSocket = new(loopmq.WebSocket)
	}
	if transport == "tls" || transport == "wss" {
		if l.TLS, err = selfSigned(); err != nil {
			return err
		}
	}
	addr, err := b.Listen(l)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, addr)
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(b.Shutdown(ctx), st.Close())
}

// selfSigned is a configuration with a certificate of its own.
func selfSigned() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, err
}

func measure(transport string, connections int, settled time.Duration) error {
	cmd := exec.Command(os.Args[0], "-serve", transport)
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
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		err = grow(transport, strings.TrimSpace(addr), cmd.Process.Pid, connections, settled)
	}
	_ = in.Close()
	return errors.Join(err, cmd.Wait())
}

func grow(transport, addr string, pid, connections int, settled time.Duration) error {
	held, err := establish(transport, addr, 0, warmUps)
	defer held.close()
	if err != nil {
		return err
	}
	before, err := process.Process(pid).ResidentBytes()
	if err != nil {
		return err
	}
	more, err := establish(transport, addr, warmUps, connections)
	defer more.close()
	if err != nil {
		return err
	}
	<-time.After(settled)
	after, err := process.Process(pid).ResidentBytes()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "%-4s %6d connections: %6.0f bytes each\n", transport, connections, float64(after-before)/float64(connections))
	return err
}

type connectionSet []net.Conn

func (s connectionSet) close() {
	for _, c := range s {
		if c != nil {
			_ = c.Close()
		}
	}
}

// establish connects n clients and subscribes each to a topic of its own.
func establish(transport, addr string, first, n int) (connectionSet, error) {
	held, errs := make(connectionSet, n), make([]error, n)
	var wg sync.WaitGroup
	for d := range dialers {
		wg.Go(func() {
			for i := d; i < n && errs[d] == nil; i += dialers {
				held[i], errs[d] = subscriber(transport, addr, fmt.Sprintf("idle-%05d", first+i))
			}
		})
	}
	wg.Wait()
	return held, errors.Join(errs...)
}

func subscriber(transport, addr, clientID string) (net.Conn, error) {
	conn, err := dial(transport, addr)
	if err != nil {
		return nil, err
	}
	connect := codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V311, CleanStart: true, KeepAlive: 0, ClientID: []byte(clientID)}
	subscribe := codec.Subscribe{PacketID: 1, Subscriptions: []codec.Subscription{{TopicFilter: []byte("idle/" + clientID)}}}
	for _, exchange := range []struct {
		packet []byte
		answer int
	}{{connect.Append(nil, codec.V311), 4}, {subscribe.Append(nil, codec.V311), 5}} {
		if _, err := conn.Write(exchange.packet); err != nil {
			return conn, err
		}
		if _, err := io.ReadFull(conn, make([]byte, exchange.answer)); err != nil {
			return conn, err
		}
	}
	return conn, nil
}

// webSocket writes frames and reads what is in them.
type webSocket struct {
	net.Conn
	frames *websocket.Conn
}

func (w webSocket) Write(p []byte) (int, error) {
	return len(p), w.frames.WriteMessage(websocket.BinaryMessage, p)
}

func (w webSocket) Read(p []byte) (int, error) {
	_, b, err := w.frames.ReadMessage() // one packet, since the client waits for each answer
	return copy(p, b), err
}

func dial(transport, addr string) (net.Conn, error) {
	unchecked := &tls.Config{InsecureSkipVerify: true}
	switch transport {
	case "tcp":
		return net.Dial("tcp", addr)
	case "tls":
		return tls.Dial("tcp", addr, unchecked)
	case "ws", "wss":
		d := websocket.Dialer{Subprotocols: []string{"mqtt"}, ReadBufferSize: 256, WriteBufferSize: 256, TLSClientConfig: unchecked}
		c, _, err := d.Dial(transport+"://"+addr+"/mqtt", nil)
		if err != nil {
			return nil, err
		}
		return webSocket{c.NetConn(), c}, nil
	}
	return nil, fmt.Errorf("transport %q: allowed: tcp, ws, tls, wss", transport)
}
