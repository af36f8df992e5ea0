package loopmq_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/rate"
)

// Everybody connects at once. They are let in no faster than they may be, all of them are in the end, and two clients that were there go on
// talking all the while: they never wait as long as they would if the loops took the storm in before anything else.
func TestReconnectStorm(t *testing.T) {
	for _, tt := range []struct {
		name    string
		clients int
		limit   rate.Limit
		tls     *tls.Config
	}{
		{"tcp", 3000, rate.Limit{PerSecond: 1000, Burst: 100}, nil},
		{"tls", 300, rate.Limit{PerSecond: 100, Burst: 20}, selfSigned(t)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.ConnectionRate = tt.limit })
			bound, err := s.Broker.Listen(loopmq.Listener{Address: "127.0.0.1:0", TLS: tt.tls})
			if err != nil {
				t.Fatal(err)
			}
			ping, pong := brokertest.Connect(t, s.Addr, codec.V5), brokertest.Connect(t, s.Addr, codec.V311)
			ping.Subscribe("pong", 1)
			pong.Subscribe("ping", 1)

			begin := time.Now()
			over := make(chan error, 1)
			go func() { over <- storm(t, bound.String(), tt.clients, tt.tls != nil) }()
			rounds, longest := 0, time.Duration(0)
			for ended := false; !ended; rounds++ {
				sent := time.Now()
				ping.Publish("ping", "", 1)
				pong.Acknowledge(pong.ExpectPublish("ping", ""))
				pong.Publish("pong", "", 1)
				ping.Acknowledge(ping.ExpectPublish("pong", ""))
				longest = max(longest, time.Since(sent))

				opened := metricsOf(t, s.Broker)["loopmq_connections_opened_total"]
				if most := float64(tt.limit.Burst) + float64(tt.limit.PerSecond)*time.Since(begin).Seconds() + 2; opened > most {
					t.Errorf("%v connections after %v, want at most %.0f", opened, time.Since(begin), most)
				}
				select {
				case err := <-over:
					if ended = true; err != nil {
						t.Error(err)
					}
				default:
				}
			}
			took := time.Since(begin)
			t.Logf("%d clients in %v; %d round trips meanwhile, the longest %v", tt.clients, took, rounds, longest)
			if longest > took*3/4 || rounds < 10 {
				t.Errorf("%d round trips, the longest %v of %v: who is connected notices", rounds, longest, took)
			}
			if metricsOf(t, s.Broker)["loopmq_accept_delays_total"] == 0 {
				t.Error("nobody had to wait")
			}
		})
	}
}

// storm connects so many clients at once, and returns when each has its CONNACK.
func storm(t *testing.T, addr string, clients int, secure bool) error {
	failed := make(chan error, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			begun := time.Now()
			err := connectOnce(t, addr, fmt.Sprint("storm", i), secure)
			// Who keeps a handshake waiting while others wait is ended, and that comes to pass where this process has little time to compute.
			for secure && err != nil && time.Since(begun) < patience {
				err = connectOnce(t, addr, fmt.Sprint("storm", i), secure)
			}
			if err != nil {
				failed <- err
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed
}

// connectOnce returns when a client has its CONNACK, and keeps it connected.
func connectOnce(t *testing.T, addr, clientID string, secure bool) error {
	conn, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if secure {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	p := codec.Connect{ProtocolName: []byte("MQTT"), Version: codec.V311, CleanStart: true, ClientID: []byte(clientID)}
	if _, err := conn.Write(p.Append(nil, codec.V311)); err != nil {
		return err
	}
	connack := make([]byte, 4)
	if _, err := io.ReadFull(conn, connack); err != nil {
		return err
	}
	if connack[3] != 0 {
		return fmt.Errorf("CONNACK % x", connack)
	}
	return nil
}

// selfSigned returns what a server needs for TLS.
func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
