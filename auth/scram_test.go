package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// scramClient is the client's side of SCRAM-SHA-256 as of RFC 5802, made for tests from the standard library only.
type scramClient struct {
	user, password, authzID string
	nonce, message          string
	signature               []byte // what the server has to prove with
}

func (c *scramClient) first() []byte {
	c.nonce = rand.Text()
	c.message = "n=" + c.user + ",r=" + c.nonce
	return []byte("n," + c.authzID + "," + c.message)
}

// final answers the server's first message.
func (c *scramClient) final(t testing.TB, data []byte) []byte {
	t.Helper()
	f := map[string]string{}
	for _, part := range strings.Split(string(data), ",") {
		name, value, _ := strings.Cut(part, "=")
		f[name] = value
	}
	salt, err := base64.StdEncoding.DecodeString(f["s"])
	n, err2 := strconv.Atoi(f["i"])
	if err != nil || err2 != nil || !strings.HasPrefix(f["r"], c.nonce) || len(f["r"]) <= len(c.nonce) {
		t.Fatalf("the server's first message is %q", data)
	}
	salted, err := pbkdf2.Key(sha256.New, c.password, salt, n, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	without := "c=" + base64.StdEncoding.EncodeToString([]byte("n,"+c.authzID+",")) + ",r=" + f["r"]
	all := c.message + "," + string(data) + "," + without
	key := sum(salted, "Client Key")
	stored := sha256.Sum256(key)
	proof := sum(stored[:], all)
	for i := range proof {
		proof[i] ^= key[i]
	}
	c.signature = sum(sum(salted, "Server Key"), all)
	return []byte(without + ",p=" + base64.StdEncoding.EncodeToString(proof))
}

// trusts looks at the server's proof.
func (c *scramClient) trusts(data []byte) bool {
	return string(data) == "v="+base64.StdEncoding.EncodeToString(c.signature)
}

// scramFile makes a file with the user alice, with keys, and bob, without.
func scramFile(t testing.TB) *PasswordFile {
	t.Helper()
	path := writeFile(t, "passwd", "")
	for user, scheme := range map[string]Scheme{"alice": SCRAMSHA256, "bob": PBKDF2} {
		h, err := HashPassword(scheme, "pass,w=rd")
		if err != nil {
			t.Fatal(err)
		}
		if err := SetPassword(path, user, h, false); err != nil {
			t.Fatal(err)
		}
	}
	f, err := OpenPasswordFile(path, PasswordOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// sendAuth sends an AUTH.
func sendAuth(c *brokertest.Client, code codec.ReasonCode, data []byte) {
	p := &codec.Auth{ReasonCode: code}
	p.Properties = brokertest.Properties(codec.PropAuthenticationMethod, methodSCRAM, codec.PropAuthenticationData, string(data))
	c.Send(p)
}

func TestSCRAM(t *testing.T) {
	t.Parallel()
	f := scramFile(t)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = NewChain(Options{}, Step{Method: NewSCRAM(f)}, Step{Method: f})
	})
	login := func(sc *scramClient, change ...brokertest.ConnectOption) (*brokertest.Client, *codec.Auth) {
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect(append(change, brokertest.With(codec.PropAuthenticationMethod, methodSCRAM, codec.PropAuthenticationData, string(sc.first())))...)
		return c, c.ExpectAuth(codec.ContinueAuthentication)
	}

	sc := &scramClient{user: "alice", password: "pass,w=rd"}
	c, challenge := login(sc)
	sendAuth(c, codec.ContinueAuthentication, sc.final(t, challenge.Properties.AuthenticationData))
	ack := c.ExpectConnack(codec.Success)
	if !sc.trusts(ack.Properties.AuthenticationData) || string(ack.Properties.AuthenticationMethod) != methodSCRAM {
		t.Errorf("the broker doesn't prove that it knows the password: %q", ack.Properties.AuthenticationData)
	}
	c.Subscribe("a", 1)
	for range 2 { // re-authentication, more than once
		sendAuth(c, codec.ReAuthenticate, sc.first())
		challenge = c.ExpectAuth(codec.ContinueAuthentication)
		sendAuth(c, codec.ContinueAuthentication, sc.final(t, challenge.Properties.AuthenticationData))
		if done := c.ExpectAuth(codec.Success); !sc.trusts(done.Properties.AuthenticationData) {
			t.Errorf("the broker doesn't prove it again: %q", done.Properties.AuthenticationData)
		}
	}
	c.Publish("a", "still there", 1)
	c.ExpectPublish("a", "still there")
	sendAuth(c, codec.ReAuthenticate, sc.first())
	challenge = c.ExpectAuth(codec.ContinueAuthentication)
	wrong := &scramClient{user: "alice", password: "wrong", nonce: sc.nonce, message: sc.message}
	sendAuth(c, codec.ContinueAuthentication, wrong.final(t, challenge.Properties.AuthenticationData))
	c.ExpectDisconnect(codec.NotAuthorized)

	for _, test := range []struct {
		name string
		c    scramClient
		with brokertest.ConnectOption
	}{
		{"wrong password", scramClient{user: "alice", password: "wrong"}, nil},
		{"unknown user", scramClient{user: "mallory", password: "pass,w=rd"}, nil},
		{"user without keys", scramClient{user: "bob", password: "pass,w=rd"}, nil},
		{"as somebody else", scramClient{user: "alice", password: "pass,w=rd", authzID: "a=bob"}, nil},
		{"with another user name in CONNECT", scramClient{user: "alice", password: "pass,w=rd"}, brokertest.Credentials("bob", "")},
	} {
		t.Run(test.name, func(t *testing.T) {
			options := []brokertest.ConnectOption{}
			if test.with != nil {
				options = append(options, test.with)
			}
			c := brokertest.Dial(t, s.Addr, codec.V5)
			c.SendConnect(append(options, brokertest.With(codec.PropAuthenticationMethod, methodSCRAM, codec.PropAuthenticationData, string(test.c.first())))...)
			switch p := c.ReceiveOrClosed().(type) {
			case *codec.Auth: // who can't succeed sees no difference before the proof
				sendAuth(c, codec.ContinueAuthentication, test.c.final(t, p.Properties.AuthenticationData))
				c.ExpectConnack(codec.BadUserNameOrPassword)
			case *codec.Connack:
				if p.ReasonCode != codec.BadUserNameOrPassword || strings.HasPrefix(test.name, "un") {
					t.Errorf("refused at once: %v", p.ReasonCode)
				}
			default:
				t.Errorf("got %v", p)
			}
		})
	}

	// The first message may come when it is asked for.
	c = brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, methodSCRAM))
	c.ExpectAuth(codec.ContinueAuthentication)
	sendAuth(c, codec.ContinueAuthentication, sc.first())
	challenge = c.ExpectAuth(codec.ContinueAuthentication)
	sendAuth(c, codec.ContinueAuthentication, sc.final(t, challenge.Properties.AuthenticationData))
	c.ExpectConnack(codec.Success)

	// The same user with the password in CONNECT, and another method.
	brokertest.Connect(t, s.Addr, codec.V311, brokertest.Credentials("alice", "pass,w=rd"))
	c = brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, "SCRAM-SHA-1"))
	c.ExpectConnack(codec.BadAuthenticationMethod)
}

// Another client gets nowhere with the connection of a user: a re-authentication is by the same one.
func TestSCRAMAsAnotherUser(t *testing.T) {
	t.Parallel()
	f := scramFile(t)
	h, err := HashPassword(SCRAMSHA256, "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := SetPassword(f.path, "carol", h, false); err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authenticator = NewChain(Options{}, Step{Method: NewSCRAM(f)}) })
	sc := &scramClient{user: "carol", password: "x"}
	c := brokertest.Dial(t, s.Addr, codec.V5)
	c.SendConnect(brokertest.With(codec.PropAuthenticationMethod, methodSCRAM, codec.PropAuthenticationData, string(sc.first())))
	sendAuth(c, codec.ContinueAuthentication, sc.final(t, c.ExpectAuth(codec.ContinueAuthentication).Properties.AuthenticationData))
	c.ExpectConnack(codec.Success)
	sc = &scramClient{user: "alice", password: "pass,w=rd"}
	sendAuth(c, codec.ReAuthenticate, sc.first())
	c.ExpectDisconnect(codec.NotAuthorized)
}

// What a name that there isn't gets looks like a user's, and stays the same.
func TestUnknownSCRAMUsers(t *testing.T) {
	t.Parallel()
	u := scramFile(t).users.Load()
	real, err := u.credentials("alice")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{real.Salt: true}
	for i := range 100 {
		name := fmt.Sprint("user", i)
		fake, err := u.credentials(name)
		again, err2 := u.credentials(name)
		if err != nil || err2 != nil || fake.Iters != real.Iters || len(fake.Salt) != len(real.Salt) || len(fake.StoredKey) != len(real.StoredKey) {
			t.Fatalf("%s: %+v, %v", name, fake.KeyFactors, err)
		}
		if fake.Salt != again.Salt || seen[fake.Salt] {
			t.Fatalf("%s: the salt tells that there is no such user", name)
		}
		seen[fake.Salt] = true
	}
	none, err := parsePasswords("file", nil)
	if err != nil {
		t.Fatal(err)
	}
	if fake, err := none.credentials("x"); err != nil || fake.Iters != newSCRAMIterations || len(fake.Salt) != newSaltBytes {
		t.Error(fake.KeyFactors, err)
	}
}

// Whatever a client sends is answered or refused.
func FuzzSCRAM(f *testing.F) {
	sc := &scramClient{user: "alice", password: "x"}
	f.Add(sc.first(), []byte("c=biws,r=abc,p=AAAA"))
	f.Add([]byte("y,,n=,r="), []byte(""))
	f.Add([]byte("p=tls-exporter,,n=a,r=b"), []byte("c=,r=,p="))
	f.Add([]byte("n,a==2C,n=a=3D=2C,r=b,x=y"), []byte("x"))
	m := NewSCRAM(scramFile(f))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		r := &loopmq.ConnectRequest{AuthenticationMethod: methodSCRAM, AuthenticationData: first}
		res, err := m.Authenticate(t.Context(), r)
		if err != nil || res.Decision != Ask && res.Decision != Reject {
			t.Fatal(res.Decision, err)
		}
		if res.Decision == Reject {
			return
		}
		if len(res.Challenge.AuthenticationData) > 65535 {
			t.Fatalf("a Challenge of %d bytes", len(res.Challenge.AuthenticationData))
		}
		if len(first) == 0 {
			return
		}
		state := res.Challenge.State.(*scram.ServerConversation)
		if res, err = m.Continue(t.Context(), r, state, second); err != nil || res.Decision != Reject {
			t.Fatal(res.Decision, err)
		}
		if res, err = m.Continue(t.Context(), r, state, second); err != nil || res.Decision != Reject {
			t.Fatal("after the end:", res.Decision, err)
		}
	})
}
