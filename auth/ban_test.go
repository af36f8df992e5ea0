package auth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
)

// clock is a clock that the test moves.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanos.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

func mustBans(t testing.TB, o BansOptions) *Bans {
	t.Helper()
	if o.Logger == nil {
		o.Logger = discard
	}
	b, err := NewBans(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func TestBanFile(t *testing.T) {
	c := newClock()
	path := writeFile(t, "bans", `# comment

client_id pump-7 until 2026-12-31T00:00:00Z stolen from the yard
username  "Joe Public"   left
	address 198.51.100.7/24
address 2001:db8::1
address ::ffff:192.0.2.1
username over until 2020-01-01T00:00:00Z
client_id "with \"quotes\"" until the end
`)
	_, err := NewBans(BansOptions{File: path, Now: c.now})
	if err == nil || !strings.Contains(err.Error(), path+`:9: until "the"`) {
		t.Fatalf("got %v, want an error in line 9", err)
	}
	text, _ := os.ReadFile(path)
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), " until the end", "\tx", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	set := metrics.New(1)
	b := mustBans(t, BansOptions{File: path, Now: c.now, Metrics: set})
	var got []string
	for _, ban := range b.List() {
		got = append(got, fmt.Sprintf("%s %s %q", ban.Kind, ban.Value, ban.Reason))
	}
	want := []string{
		`address 192.0.2.1 ""`, `address 198.51.100.0/24 ""`, `address 2001:db8::1 ""`,
		`client_id pump-7 "stolen from the yard"`, `client_id with "quotes" "x"`, `username Joe Public "left"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if n := set.Auth.Bans[metrics.BanFile].Get(); n != 6 {
		t.Errorf("the gauge says %d, want 6", n)
	}
	// A bad file changes nothing, and says all that is wrong.
	if err := os.WriteFile(path, []byte("user x\naddress 1.2.3\naddress 1.2.3.4/33\nclient_id\nusername \"x\nclient_id \"\\z\"\naddress fe80::1%eth0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Prepare(); err == nil || strings.Count(err.Error(), path+":") != 7 {
		t.Errorf("got %v, want 7 lines", err)
	}
	if len(b.List()) != 6 {
		t.Error("a bad file changed the bans")
	}
	if err := os.WriteFile(path, []byte("username x"), 0o600); err != nil {
		t.Fatal(err)
	}
	apply, err := b.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	apply()
	if l := b.List(); len(l) != 1 || l[0].Value != "x" || l[0].Source != metrics.BanFile {
		t.Errorf("got %v", l)
	}
	if lift(t, b, BanUsername, "x") {
		t.Error("a ban of the file was removed at run time")
	}
}

func TestBansAtRunTime(t *testing.T) {
	c := newClock()
	set := metrics.New(1)
	b := mustBans(t, BansOptions{Now: c.now, Max: 3, Metrics: set})
	for _, bad := range []Ban{
		{},
		{Kind: "user", Value: "x"},
		{Kind: BanClientID},
		{Kind: BanClientID, Value: "a\x00"},
		{Kind: BanAddress, Value: "host"},
		{Kind: BanAddress, Value: "10.0.0.0/33"},
		{Kind: BanUsername, Value: "x", Until: c.now()},
		{Kind: BanUsername, Value: "x", Reason: strings.Repeat("x", 1025)},
	} {
		if err := b.Add(t.Context(), bad); err == nil {
			t.Errorf("%+v was added", bad)
		}
	}
	add := func(ban Ban) {
		t.Helper()
		if err := b.Add(t.Context(), ban); err != nil {
			t.Fatal(err)
		}
	}
	add(Ban{Kind: BanClientID, Value: "c", Until: c.now().Add(time.Minute)})
	add(Ban{Kind: BanUsername, Value: "u", Until: c.now().Add(2 * time.Minute)})
	add(Ban{Kind: BanAddress, Value: "2001:db8::/32"})
	add(Ban{Kind: BanAddress, Value: "2001:db8::/32", Reason: "again"}) // replaces
	if err := b.Add(t.Context(), Ban{Kind: BanClientID, Value: "d"}); !errors.Is(err, ErrBansFull) {
		t.Errorf("beyond the bound: %v", err)
	}
	none := netip.Addr{}
	find := func(clientID, username string, a netip.Addr) bool {
		_, ok := b.find(clientID, username, a)
		return ok
	}
	if !find("c", "", none) || find("u", "c", none) || !find("x", "u", none) || !b.Banned(netip.MustParseAddr("2001:db8:1::7")) ||
		b.Banned(netip.MustParseAddr("2001:db9::7")) || b.Banned(netip.MustParseAddr("192.0.2.1")) {
		t.Error("wrong ones are banned")
	}
	c.advance(time.Minute)
	if find("c", "", none) || !find("", "u", none) {
		t.Error("a ban holds beyond its end, or not until it")
	}
	if len(b.List()) != 2 {
		t.Errorf("got %v", b.List())
	}
	add(Ban{Kind: BanClientID, Value: "d"}) // in the place of the one that is over
	if !lift(t, b, BanAddress, "2001:db8:ffff::/32") || lift(t, b, BanAddress, "2001:db8::/32") || lift(t, b, "what", "ever") {
		t.Error("remove doesn't find the network, or finds it twice")
	}
	if b.Banned(netip.MustParseAddr("2001:db8:1::7")) {
		t.Error("a removed ban holds")
	}
	if a := &set.Auth; a.Bans[metrics.BanOperator].Get() != 2 || a.BansAdded[metrics.BanOperator].Get() != 5 || a.BansNotKept.Get() != 1 {
		t.Errorf("gauge %d, added %d, not kept %d", a.Bans[metrics.BanOperator].Get(), a.BansAdded[metrics.BanOperator].Get(), a.BansNotKept.Get())
	}
}

// The table finds what a list finds.
func TestBanTableAgainstList(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	random := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(4)), byte(r.IntN(8))})
		}
		return netip.AddrFrom16([16]byte{0x20, 1, 13: byte(r.IntN(2)), 14: byte(r.IntN(4)), 15: byte(r.IntN(8))})
	}
	table, list := newBanTable(), map[netip.Prefix]bool{}
	for range 5000 {
		a := random()
		p, _ := a.Prefix(a.BitLen() - r.IntN(12))
		if r.IntN(2) == 0 {
			table.add(Ban{Kind: BanAddress, Value: p.String()})
			list[p] = true
		} else {
			if table.remove(BanAddress, p.String()) != list[p] {
				t.Fatalf("seed %d: remove %v", seed, p)
			}
			delete(list, p)
		}
		a = random()
		want := false
		for p := range list {
			want = want || p.Contains(a)
		}
		if _, got := table.find("", "", a, time.Time{}); got != want {
			t.Fatalf("seed %d: %v banned: %v, want %v", seed, a, got, want)
		}
	}
	if table.len() != len(list) {
		t.Errorf("seed %d: %d, want %d", seed, table.len(), len(list))
	}
}

func TestTally(t *testing.T) {
	c := newClock()
	y := newTally(BanRule{Times: 3, Window: time.Minute, For: time.Hour})
	hits := func(name string, after time.Duration) bool {
		c.advance(after)
		return y.hit(name, c.now())
	}
	for i, step := range []struct {
		name  string
		after time.Duration
		want  bool
	}{
		{"a", 0, false}, {"a", 29 * time.Second, false}, {"b", 0, false}, {"a", 31 * time.Second, false}, // the first is out of the window
		{"a", 28 * time.Second, true}, {"a", 0, false}, {"a", 0, false}, {"a", 0, true},
	} {
		if got := hits(step.name, step.after); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	for i := range tallyMax + 100 {
		y.hit(fmt.Sprint(i), c.now())
	}
	if n := y.hits.Len(); n != tallyMax {
		t.Errorf("%d names are kept, want %d", n, tallyMax)
	}
	if off := newTally(BanRule{}); off.hit("a", c.now()) || off.hits.Len() != 0 {
		t.Error("a rule that is off counts")
	}
	for _, bad := range []BanRule{{Times: 1, Window: 1, For: 1}, {Times: 101, Window: 1, For: 1}, {Times: 2, For: 1}, {Times: 2, Window: 1}} {
		if _, err := NewBans(BansOptions{Flapping: bad}); err == nil {
			t.Errorf("%+v is allowed", bad)
		}
	}
}

// onePassword knows one user.
type onePassword struct{}

func (onePassword) Name() string { return "one" }

func (onePassword) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (Result, error) {
	if string(r.Password) == "right" {
		return Result{Decision: Accept, Identity: loopmq.Identity{Username: r.Username}}, nil
	}
	return Result{Decision: Reject}, nil
}

// startWithBans runs a broker behind Bans, whose clients' password is "right".
func startWithBans(t *testing.T, o BansOptions) (*Bans, *brokertest.Server) {
	t.Helper()
	b := mustBans(t, o)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = b.Authenticator(NewChain(Options{}, Step{Method: onePassword{}}))
		o.Recorder = b.Recorder()
	})
	enforce(t, b, s.Broker)
	return b, s
}

// Whoever is banned is refused with 0x8A or 0x05, and whoever is connected goes.
func TestBannedClients(t *testing.T) {
	for _, version := range []codec.Version{codec.V311, codec.V5} {
		code := codec.Banned
		if version != codec.V5 {
			code = codec.ReasonCode(5)
		}
		for _, ban := range []Ban{
			{Kind: BanClientID, Value: "pump-7"}, {Kind: BanUsername, Value: "alice"}, {Kind: BanAddress, Value: "127.0.0.0/8"},
		} {
			t.Run(fmt.Sprint(version, ban.Kind), func(t *testing.T) {
				b, s := startWithBans(t, BansOptions{})
				me := []brokertest.ConnectOption{brokertest.ClientID("pump-7"), brokertest.Credentials("alice", "right")}
				c := brokertest.Connect(t, s.Addr, version, me...)
				var other *brokertest.Client
				if ban.Kind != BanAddress {
					other = brokertest.Connect(t, s.Addr, version, brokertest.ClientID("other"), brokertest.Credentials("bob", "right"))
				}
				if err := b.Add(t.Context(), ban); err != nil {
					t.Fatal(err)
				}
				if version == codec.V5 {
					c.ExpectDisconnect(codec.AdministrativeAction)
				} else {
					c.ExpectClosed()
				}
				c = brokertest.Dial(t, s.Addr, version)
				c.SendConnect(me...)
				c.ExpectConnack(code)
				c.ExpectClosed()
				if other != nil {
					other.Ping()
				}
				if !lift(t, b, ban.Kind, ban.Value) {
					t.Fatal("there was no ban to remove")
				}
				brokertest.Connect(t, s.Addr, version, me...).Ping()
			})
		}
	}
}

// slowPassword is onePassword that waits to be told to go on.
type slowPassword struct {
	onePassword
	asked, goOn chan struct{}
}

func (p slowPassword) Authenticate(ctx context.Context, r *loopmq.ConnectRequest) (Result, error) {
	p.asked <- struct{}{}
	<-p.goOn
	return p.onePassword.Authenticate(ctx, r)
}

// A ban that comes while a CONNECT is decided on holds for it, too.
func TestBannedWhileConnecting(t *testing.T) {
	for _, ban := range []Ban{{Kind: BanClientID, Value: "c"}, {Kind: BanUsername, Value: "alice"}} {
		b := mustBans(t, BansOptions{})
		p := slowPassword{asked: make(chan struct{}), goOn: make(chan struct{})}
		s := brokertest.Start(t, func(o *loopmq.Options) {
			o.Authenticator = b.Authenticator(NewChain(Options{}, Step{Method: p}))
			o.Recorder = b.Recorder()
		})
		enforce(t, b, s.Broker)
		c := brokertest.Dial(t, s.Addr, codec.V5)
		c.SendConnect(brokertest.ClientID("c"), brokertest.Credentials("alice", "right"))
		<-p.asked
		if err := b.Add(t.Context(), ban); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the look at connected clients", func() bool { return len(b.check) == 0 })
		close(p.goOn)
		if ban.Kind == BanUsername { // which is looked for when it is known
			c.ExpectConnack(codec.Banned)
			continue
		}
		c.ExpectConnack(codec.Success)
		c.ExpectDisconnect(codec.AdministrativeAction)
	}
}

func TestFlappingClientIsBanned(t *testing.T) {
	c := newClock()
	set := metrics.New(1)
	b, s := startWithBans(t, BansOptions{
		Flapping: BanRule{Times: 3, Window: time.Minute, For: time.Hour}, Now: c.now, Metrics: set,
	})
	me := []brokertest.ConnectOption{brokertest.ClientID("flappy"), brokertest.Credentials("alice", "right")}
	for range 3 {
		brokertest.Connect(t, s.Addr, codec.V5, me...).Disconnect()
	}
	eventually(t, "the ban", func() bool { return len(b.List()) == 1 })
	if ban := b.List()[0]; ban.Kind != BanClientID || ban.Value != "flappy" || ban.Source != metrics.BanFlapping || !ban.Until.Equal(c.now().Add(time.Hour)) {
		t.Errorf("got %+v", ban)
	}
	again := brokertest.Dial(t, s.Addr, codec.V5)
	again.SendConnect(me...)
	again.ExpectConnack(codec.Banned)
	if set.Auth.BansAdded[metrics.BanFlapping].Get() != 1 || set.Auth.Decisions[metrics.AuthBan][metrics.AuthRejected].Get() != 1 {
		t.Error("the ban or its refusal wasn't counted")
	}
	c.advance(time.Hour)
	brokertest.Connect(t, s.Addr, codec.V5, me...).Ping()
}

func TestWrongCredentialsBanTheAddress(t *testing.T) {
	c := newClock()
	rule := BanRule{Times: 4, Window: time.Minute, For: time.Hour}
	b, s := startWithBans(t, BansOptions{Credentials: rule, Now: c.now})
	honest := brokertest.Connect(t, s.Addr, codec.V311, brokertest.ClientID("honest"), brokertest.Credentials("alice", "right"))
	for i := range 4 {
		wrong := brokertest.Dial(t, s.Addr, codec.V5)
		wrong.SendConnect(brokertest.ClientID(fmt.Sprint("guess", i)), brokertest.Credentials("alice", fmt.Sprint("guess", i)))
		wrong.ExpectConnack(codec.BadUserNameOrPassword)
	}
	honest.ExpectClosed() // It is behind the same address.
	if !b.Banned(netip.MustParseAddr("127.0.0.1")) || b.Banned(netip.MustParseAddr("127.0.0.2")) {
		t.Errorf("got %v", b.List())
	}
	// An address that is exempt is a load balancer's.
	b, s = startWithBans(t, BansOptions{Credentials: rule, Exempt: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	for range 6 {
		wrong := brokertest.Dial(t, s.Addr, codec.V5)
		wrong.SendConnect(brokertest.ClientID("c"), brokertest.Credentials("alice", "wrong"))
		wrong.ExpectConnack(codec.BadUserNameOrPassword)
	}
	if len(b.List()) != 0 {
		t.Errorf("got %v", b.List())
	}
	// Of IPv6 it is the network of a site.
	b = mustBans(t, BansOptions{Credentials: rule})
	for i := range 4 {
		b.failed(netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i)))
	}
	if !b.Banned(netip.MustParseAddr("2001:db8::ffff")) || b.Banned(netip.MustParseAddr("2001:db8:0:1::")) {
		t.Errorf("got %v", b.List())
	}
}

// Bans without an Authenticator keep who is banned out, and let all others be who they
// say.
func TestBansAlone(t *testing.T) {
	b := mustBans(t, BansOptions{})
	a := b.Authenticator(nil)
	r := &loopmq.ConnectRequest{ClientID: "c", Username: "u", HasUsername: true, RemoteAddr: &net.UnixAddr{Name: "@", Net: "unix"}}
	if id, _, err := a.Authenticate(t.Context(), r); err != nil || id.Username != "u" {
		t.Errorf("got %v, %v", id, err)
	}
	if _, _, err := a.Continue(t.Context(), r, nil, nil); err == nil {
		t.Error("there is nothing to go on with")
	}
	if err := b.Add(t.Context(), Ban{Kind: BanUsername, Value: "u"}); err != nil {
		t.Fatal(err)
	}
	var e *codec.Error
	if _, _, err := a.Authenticate(t.Context(), r); !errors.As(err, &e) || e.ReasonCode != codec.Banned {
		t.Errorf("got %v", err)
	}
	r.Reauthentication = true // DISCONNECT has no 0x8A
	if _, _, err := a.Authenticate(t.Context(), r); !errors.As(err, &e) || e.ReasonCode != codec.NotAuthorized {
		t.Errorf("got %v", err)
	}
	b.Close()
	b.Close()
}

// mosquitto's client sees the refusal that MQTT 3.1.1 and 5.0 have for it.
func TestBannedMosquitto(t *testing.T) {
	b, s := startWithBans(t, BansOptions{})
	if err := b.Add(t.Context(), Ban{Kind: BanUsername, Value: "mallory"}); err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(s.Addr)
	pub := func(version, user string) string {
		out, _ := exec.CommandContext(t.Context(), "mosquitto_pub", "-V", version, "-h", host, "-p", port, "-u", user, "-P", "right", "-t", "a", "-m", "x", "-q", "1").CombinedOutput()
		return string(out)
	}
	for version, want := range map[string]string{"mqttv311": "not authorised", "mqttv5": "Banned"} {
		if out := pub(version, "mallory"); !strings.Contains(out, want) {
			t.Errorf("%s: got %q, want %q", version, out, want)
		}
		if out := pub(version, "alice"); out != "" {
			t.Errorf("%s: %s", version, out)
		}
	}
}

func FuzzParseBans(f *testing.F) {
	f.Add([]byte("client_id pump-7 until 2026-12-31T00:00:00Z stolen\nusername \"Joe Public\" left\naddress 198.51.100.0/24\n# x\n"))
	f.Add([]byte("address ::/0\naddress ::ffff:1.2.3.4\naddress 1.2.3.4/0 until x"))
	f.Add([]byte("client_id \"\\x00\"\nusername \"\n\r\v"))
	f.Fuzz(func(t *testing.T, text []byte) {
		bans, err := parseBans("f", text)
		if err != nil {
			return
		}
		table := newBanTable()
		for _, ban := range bans {
			table.add(ban)
			if _, ok := table.get(ban.Kind, ban.Value); !ok {
				t.Fatalf("%+v isn't found", ban)
			}
		}
		if table.len() != len(bans) {
			t.Fatalf("%d of %d bans", table.len(), len(bans))
		}
		for _, ban := range bans {
			if !table.remove(ban.Kind, ban.Value) {
				t.Fatalf("%+v isn't removed", ban)
			}
		}
		if table.len()+len(table.lengths4)+len(table.lengths6) != 0 {
			t.Fatal("something is left")
		}
	})
}
