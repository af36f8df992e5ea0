package opcuaserver_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"

	"loopmq"
	opcuaserver "loopmq/bridges/opcua/server"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
)

// patience is how long tests wait for what must come.
const patience = time.Minute

// childArgument has the test binary be the server's process.
const childArgument = "be-the-opcua-server"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && (os.Args[1] == childArgument || os.Args[1] == turningArgument) {
		if os.Args[1] == turningArgument {
			opcuaserver.TurnRound()
		}
		if err := opcuaserver.Serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == hungryArgument {
		hungry()
	}
	if len(os.Args) == 3 && os.Args[1] == watcherArgument {
		fmt.Fprintln(os.Stderr, watch(os.Args[2]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// fixture is a broker with an OPC UA server.
type fixture struct {
	t      testing.TB
	broker *brokertest.Server
	server *opcuaserver.Server
	here   *opcuaserver.Here // nil: it is a process
	set    *metrics.Set
	url    string
}

// mustServe starts a broker, and a server in this process.
func mustServe(t testing.TB, o opcuaserver.Options, broker ...func(*loopmq.Options)) *fixture {
	t.Helper()
	f := newFixture(t, o, broker...)
	at, here, err := f.server.StartHere()
	if err != nil {
		t.Fatal(err)
	}
	f.url, f.here = "opc.tcp://"+at.String(), here
	return f
}

// mustStart starts a broker, and a server with its process.
func mustStart(t testing.TB, o opcuaserver.Options, broker ...func(*loopmq.Options)) *fixture {
	t.Helper()
	f := newFixture(t, o, broker...)
	f.start()
	return f
}

// start starts the process.
func (f *fixture) start() {
	f.t.Helper()
	at, err := f.server.Start("127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.url = "opc.tcp://" + at.String()
}

func newFixture(t testing.TB, o opcuaserver.Options, broker ...func(*loopmq.Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, broker: brokertest.Start(t, broker...), set: metrics.New(1)}
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Broker, o.Metrics, o.Logger, o.Command = f.broker.Broker, f.set, slog.New(slog.DiscardHandler), []string{own, cmp.Or(strings.Join(o.Command, ""), childArgument)}
	if f.server, err = opcuaserver.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		f.server.Close(ctx)
	})
	return f
}

// open is the server as an OPC UA client reaches it without credentials.
func open(filters ...string) opcuaserver.Options {
	return opcuaserver.Options{Filters: filters, None: true, Anonymous: true, WriteQoS: 1}
}

func (f *fixture) dial(options ...opcua.Option) (*opcua.Client, error) {
	options = append([]opcua.Option{opcua.SecurityMode(ua.MessageSecurityModeNone), opcua.AutoReconnect(false), opcua.RequestTimeout(patience)}, options...)
	c, err := opcua.NewClient(f.url, options...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		return nil, err
	}
	f.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c, nil
}

func (f *fixture) mustDial(options ...opcua.Option) *opcua.Client {
	f.t.Helper()
	c, err := f.dial(options...)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// topic is the id of a topic's variable.
func topic(name string) *ua.NodeID { return ua.NewStringNodeID(2, name) }

// read reads a value.
func (f *fixture) read(c *opcua.Client, id *ua.NodeID) *ua.DataValue {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := c.Read(ctx, &ua.ReadRequest{NodesToRead: []*ua.ReadValueID{{NodeID: id, AttributeID: ua.AttributeIDValue}}, TimestampsToReturn: ua.TimestampsToReturnBoth})
	if err != nil {
		f.t.Fatal(err)
	}
	return r.Results[0]
}

// await reads a value until it is the one that is wanted.
func (f *fixture) await(c *opcua.Client, id *ua.NodeID, want any) *ua.DataValue {
	f.t.Helper()
	var last *ua.DataValue
	f.eventually(func() bool {
		last = f.read(c, id)
		return last.Value != nil && last.Value.Value() == want
	}, func() string { return fmt.Sprintf("%v is %+v, want %v", id, last, want) })
	return last
}

// eventually waits until something is so.
func (f *fixture) eventually(so func() bool, what func() string) {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	for !so() {
		if time.Now().After(deadline) {
			f.t.Fatal(what())
		}
		<-time.After(10 * time.Millisecond)
	}
}

// identity is a certificate and its key.
type identity struct {
	cert              *x509.Certificate
	key               *rsa.PrivateKey
	certPath, keyPath string
}

var keys sync.Map

// mustIdentity makes a certificate that signs itself. Keys are made once for each name.
func mustIdentity(t testing.TB, name, uri string) identity {
	t.Helper()
	k, _ := keys.LoadOrStore(name, sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return key
	}))
	key := k.(func() *rsa.PrivateKey)()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageContentCommitment,
		URIs:     []*url.URL{u},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	i := identity{cert, key, filepath.Join(dir, "cert.der"), filepath.Join(dir, "key.pem")}
	if err := errors.Join(os.WriteFile(i.certPath, der, 0o600), os.WriteFile(i.keyPath, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return i
}

func TestAVariableIsRead(t *testing.T) {
	t.Parallel()
	f := mustServe(t, open("plant/#"))
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	before := time.Now().Add(-time.Second)
	p.Publish("plant/press/temperature", "21.5", 1, brokertest.Retained)
	c := f.mustDial()
	v := f.await(c, topic("plant/press/temperature"), 21.5)
	if v.SourceTimestamp.Before(before) || v.Status != ua.StatusOK {
		t.Errorf("got %+v", v)
	}
}
