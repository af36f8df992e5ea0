package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

// BanKind says what is banned.
type BanKind string

// The kinds.
const (
	BanClientID BanKind = "client_id"
	BanUsername BanKind = "username"
	// BanAddress: an IP address, or a network such as 198.51.100.0/24.
	BanAddress BanKind = "address"
)

// Ban keeps clients out.
type Ban struct {
	Kind  BanKind
	Value string
	// Until is when it ends; zero: when it is removed.
	Until time.Time
	// Reason is for operators. It is not told to the client.
	Reason string
	Source metrics.BanSource
}

// ErrBansFull says that there are as many bans at run time as BansOptions.Max allows.
var ErrBansFull = errors.New("bans: there are as many as are allowed")

var (
	errBanned      = codec.NewError(codec.Banned, "banned")
	errBannedSince = codec.NewError(codec.NotAuthorized, "banned")
)

// BansOptions say where bans come from.
type BansOptions struct {
	// File has bans, a line each:
	//
	//	# kind     value           until when              why
	//	client_id  pump-7          until 2026-12-31T00:00:00Z  stolen
	//	username   "Joe Public"    left the company
	//	address    198.51.100.0/24
	//
	// A value with blanks is quoted as in Go. Empty: there is no file.
	File string
	// Max bounds the bans at run time; default 100,000.
	Max int
	// Flapping bans a Client Identifier whose connections end too often, whoever ends
	// them, but for the broker's own drain, shutdown and bans.
	Flapping BanRule
	// Credentials bans an address (of IPv6, its /64 network) from which credentials
	// come too often that are not right. Clients behind one NAT share an address.
	Credentials BanRule
	// Exempt are networks that no rule bans, such as a load balancer's.
	Exempt []netip.Prefix
	// Logger gets each ban that a rule makes; nil means slog.Default().
	Logger *slog.Logger
	// Metrics counts; nil: nothing.
	Metrics *metrics.Set
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// BanRule bans for For who does something Times times within Window. The zero value
// bans nobody.
type BanRule struct {
	Times  int
	Window time.Duration
	For    time.Duration
}

func (r BanRule) check(name string) error {
	switch {
	case r == BanRule{}:
		return nil
	case r.Times < 2 || r.Times > 100:
		return fmt.Errorf("bans: %s: %d times; allowed: 2 to 100", name, r.Times)
	case r.Window <= 0 || r.For <= 0:
		return fmt.Errorf("bans: %s: both a window and how long to ban are needed", name)
	}
	return nil
}

// Bans keeps clients out by Client Identifier, user name or address: those that a file
// lists, that an operator adds at run time, and that a rule finds. Bans at run time are
// in the broker's store once [Bans.Enforce] was called: they outlive the process, and
// hold at all nodes that share it. Its methods are safe for concurrent use; Prepare,
// Enforce, Add and Remove may block, the others don't.
type Bans struct {
	o      BansOptions
	counts *metrics.Auth
	file   atomic.Pointer[banTable] // does not change
	broker atomic.Pointer[loopmq.Broker]
	stored atomic.Pointer[store.Bans] // nil: Enforce was not called
	check  chan struct{}              // one token: connected clients may be banned
	reload chan struct{}              // one token: all stored bans are to be read again
	found  chan Ban                   // by rules, and not stored yet
	ctx    context.Context            // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu struct {
		sync.RWMutex
		runtime *banTable
		changes uint64 // of runtime: what is read from the store meanwhile may be older
	}
	flapping, credentials *tally
}

// NewBans reads the file. The error names all lines that are wrong. Call Close when it
// is no longer needed.
func NewBans(o BansOptions) (*Bans, error) {
	o.Max = cmp.Or(o.Max, 100_000)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.Metrics == nil {
		o.Metrics = metrics.New(1)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := errors.Join(o.Flapping.check("flapping"), o.Credentials.check("credentials")); err != nil {
		return nil, err
	}
	b := &Bans{
		o: o, counts: &o.Metrics.Auth, check: make(chan struct{}, 1), reload: make(chan struct{}, 1), found: make(chan Ban, foundMax),
		flapping: newTally(o.Flapping), credentials: newTally(o.Credentials),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.file.Store(newBanTable())
	b.mu.runtime = newBanTable()
	apply, err := b.Prepare()
	if err != nil {
		return nil, err
	}
	apply()
	b.wg.Go(b.enforce)
	return b, nil
}

// Close ends the goroutine that ends connections. Bans stay in force.
func (b *Bans) Close() {
	b.cancel()
	b.wg.Wait()
}

// Prepare reads the file again, and returns what makes its bans the current ones, so
// that several files can be changed together or not at all. Connections that they no
// longer allow end soon after.
func (b *Bans) Prepare() (apply func(), err error) {
	table := newBanTable()
	if b.o.File != "" {
		text, err := readFile(b.o.File)
		if err != nil {
			return nil, err
		}
		bans, err := parseBans(b.o.File, text)
		if err != nil {
			return nil, err
		}
		now := b.o.Now()
		for _, ban := range bans {
			if ban.holds(now) {
				table.add(ban)
			}
		}
	}
	return func() {
		b.file.Store(table)
		b.counts.Bans[metrics.BanFile].Set(uint64(table.len()))
		b.recheck()
	}, nil
}

// Enforce makes bans end connections of a broker as well, and has those of run time in
// its store: what is there holds from now on. Call it once, when the broker has started.
// The error says why the store could not be read.
func (b *Bans) Enforce(ctx context.Context, broker *loopmq.Broker) error {
	stored := broker.WatchBans(b.changed, b.readSoon)
	b.stored.Store(&stored)
	if err := b.read(ctx); err != nil {
		return fmt.Errorf("bans: %w", err)
	}
	b.broker.Store(broker)
	b.recheck()
	return nil
}

// Add adds a ban at run time, or replaces the one for the same value, at all nodes.
// Connections that it no longer allows end soon after. The error says what is wrong with
// the ban; ErrBansFull: there is no room; store.ErrUnavailable: the store can't be
// reached, and the ban may hold or not.
func (b *Bans) Add(ctx context.Context, ban Ban) error {
	ban.Source = metrics.BanOperator
	ban, err := b.checked(ban)
	if err != nil {
		return err
	}
	if err := b.put(ctx, ban); err != nil {
		return err
	}
	return b.add(ban)
}

// checked checks a ban that is to begin now.
func (b *Bans) checked(ban Ban) (Ban, error) {
	ban, err := ban.checked()
	if err == nil && !ban.holds(b.o.Now()) {
		err = fmt.Errorf("bans: until is %s, which is over", ban.Until.Format(time.RFC3339))
	}
	return ban, err
}

// put puts a ban into the broker's store, if there is one.
func (b *Bans) put(ctx context.Context, ban Ban) error {
	stored := b.stored.Load()
	if stored == nil {
		return nil
	}
	err := (*stored).Put(ctx, store.Ban{
		Kind: string(ban.Kind), Value: ban.Value, Until: ban.Until, Reason: ban.Reason, Source: ban.Source.String(),
	}, b.o.Max)
	if errors.Is(err, store.ErrTooManyBans) {
		b.counts.BansNotKept.Inc()
		return ErrBansFull
	}
	return err
}

// add puts a ban into force at this node, unless it is.
func (b *Bans) add(ban Ban) error {
	b.mu.Lock()
	t := b.mu.runtime
	known, there := t.get(ban.Kind, ban.Value)
	if there && known.same(&ban) {
		b.mu.Unlock()
		return nil
	}
	if !there && t.len() >= b.o.Max {
		t.expire(b.o.Now())
		if t.len() >= b.o.Max {
			b.mu.Unlock()
			b.counts.BansNotKept.Inc()
			return ErrBansFull
		}
	}
	t.add(ban)
	b.mu.changes++
	b.gaugesLocked()
	b.mu.Unlock()
	b.counts.BansAdded[ban.Source].Inc()
	b.recheck()
	return nil
}

// Remove removes a ban at run time, at all nodes, and reports whether there was one. What
// the file bans is removed there. store.ErrUnavailable: as Add.
func (b *Bans) Remove(ctx context.Context, kind BanKind, value string) (removed bool, err error) {
	ban, err := Ban{Kind: kind, Value: value}.checked()
	if err != nil { // nobody can have banned it
		return false, nil //nolint:nilerr // it isn't there
	}
	if stored := b.stored.Load(); stored != nil {
		if removed, err = (*stored).Remove(ctx, ban.name(), time.Time{}); err != nil {
			return false, err
		}
	}
	return b.lift(ban) || removed, nil
}

// lift ends a ban at this node, and reports whether there was one.
func (b *Bans) lift(ban Ban) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	removed := b.mu.runtime.remove(ban.Kind, ban.Value)
	b.mu.changes++
	b.gaugesLocked()
	return removed
}

// List returns the bans in force, by kind and value.
func (b *Bans) List() []Ban {
	now := b.o.Now()
	var list []Ban
	keep := func(ban Ban) {
		if ban.holds(now) {
			list = append(list, ban)
		}
	}
	b.file.Load().each(keep)
	b.mu.RLock()
	b.mu.runtime.each(keep)
	b.mu.RUnlock()
	slices.SortFunc(list, func(x, y Ban) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Value, y.Value), cmp.Compare(x.Source, y.Source))
	})
	return list
}

// Banned reports whether an address is banned: for a listener, before it does anything
// for a connection.
func (b *Bans) Banned(a netip.Addr) bool {
	_, banned := b.find("", "", a)
	return banned
}

// find returns the ban that keeps a client out. Empty names are not looked for.
func (b *Bans) find(clientID, username string, a netip.Addr) (Ban, bool) {
	now := b.o.Now()
	if ban, ok := b.file.Load().find(clientID, username, a, now); ok {
		return ban, true
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.mu.runtime.find(clientID, username, a, now)
}

// banned reports whether a connected client is banned.
func (b *Bans) banned(c *loopmq.ClientInfo) bool {
	_, banned := b.find(c.ClientID, c.Username, addressOf(c.RemoteAddr()))
	return banned
}

func (b *Bans) gaugesLocked() {
	for s := range metrics.NumBanSources {
		if source := metrics.BanSource(s); source != metrics.BanFile {
			b.counts.Bans[source].Set(uint64(b.mu.runtime.bySource[source]))
		}
	}
}

// recheck has connected clients looked at. It does not block.
func (b *Bans) recheck() {
	select {
	case b.check <- struct{}{}:
	default: // It is about to happen.
	}
}

const (
	// sweepInterval is how often bans that are over are removed.
	sweepInterval = time.Minute
	// readPause is how long it takes to the next try to read the stored bans.
	readPause = time.Second
	// readPage is how many are read at a time.
	readPage = 1000
	// foundMax is how many bans of rules may wait to be stored. Others hold at this node
	// only.
	foundMax = 1024
)

// enforce ends connections that bans no longer allow, removes bans that are over, and
// keeps what is stored and what holds here the same.
func (b *Bans) enforce() {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case ban := <-b.found:
			if err := b.put(b.ctx, ban); err != nil && b.ctx.Err() == nil {
				b.o.Logger.Warn("ban_not_stored", string(ban.Kind), ban.Value, "error", err)
			}
		case <-b.reload:
			if err := b.read(b.ctx); err != nil && b.ctx.Err() == nil {
				b.o.Logger.Warn("bans_not_read", "error", err)
				time.AfterFunc(readPause, b.readSoon)
			}
		case <-b.check:
			if broker := b.broker.Load(); broker != nil {
				// DISCONNECT knows no 'banned' (0x8A): that is CONNACK's.
				broker.DisconnectWhere(b.banned, codec.AdministrativeAction)
			}
		case <-tick.C:
			b.sweep()
		}
	}
}

// sweep removes bans that are over, here and in the store.
func (b *Bans) sweep() {
	now := b.o.Now()
	b.mu.Lock()
	over := b.mu.runtime.expire(now)
	b.gaugesLocked()
	b.mu.Unlock()
	if stored := b.stored.Load(); stored != nil {
		for i := range over { // as every node does: one that was put again stays
			if _, err := (*stored).Remove(b.ctx, over[i].name(), now); err != nil {
				return // They are removed when a node starts.
			}
		}
	}
}

// readSoon has all stored bans read. It does not block.
func (b *Bans) readSoon() {
	select {
	case b.reload <- struct{}{}:
	default: // It is about to happen.
	}
}

// read makes the bans at run time those that are stored.
func (b *Bans) read(ctx context.Context) error {
	stored := *b.stored.Load()
	for {
		b.mu.RLock()
		changes := b.mu.changes
		b.mu.RUnlock()
		table, now := newBanTable(), b.o.Now()
		for after, more := "", true; more; {
			page, err := stored.List(ctx, after, readPage)
			if err != nil {
				return err
			}
			for i := range page {
				after = page[i].Name()
				ban, err := fromStore(&page[i]).checked()
				switch {
				case err != nil: // by a version with other bans
				case !ban.holds(now):
					if _, err := stored.Remove(ctx, after, now); err != nil {
						return err
					}
				case table.len() < b.o.Max:
					table.add(ban)
				default:
					b.counts.BansNotKept.Inc()
				}
			}
			more = len(page) == readPage
		}
		b.mu.Lock()
		same := changes == b.mu.changes
		if same {
			b.mu.runtime = table
			b.gaugesLocked()
		}
		b.mu.Unlock()
		if same {
			b.recheck()
			return nil
		}
	}
}

// changed applies what is told of a ban in the store.
func (b *Bans) changed(stored store.Ban, removed bool) {
	ban, err := fromStore(&stored).checked()
	switch {
	case err != nil:
	case removed:
		b.lift(ban)
	default:
		_ = b.add(ban) // It is counted.
	}
}

// fromStore returns a ban as it is here.
func fromStore(stored *store.Ban) Ban {
	ban := Ban{Kind: BanKind(stored.Kind), Value: stored.Value, Until: stored.Until, Reason: stored.Reason, Source: metrics.BanOperator}
	for s := range metrics.NumBanSources {
		if source := metrics.BanSource(s); source != metrics.BanFile && source.String() == stored.Source {
			ban.Source = source
		}
	}
	return ban
}

// name is what the store knows a ban by.
func (ban *Ban) name() string {
	stored := store.Ban{Kind: string(ban.Kind), Value: ban.Value}
	return stored.Name()
}

// same reports whether two bans say the same. The store knows times by the millisecond.
func (ban *Ban) same(o *Ban) bool {
	x, y := *ban, *o
	untilSame := x.Until.IsZero() && y.Until.IsZero() || x.Until.UnixMilli() == y.Until.UnixMilli()
	x.Until, y.Until = time.Time{}, time.Time{}
	return untilSame && x == y
}

// Recorder is what Bans has to see of a broker: who connected while it was banned, and
// who disconnects too often.
func (b *Bans) Recorder() *loopmq.Recorder {
	return loopmq.OnEvent(func(e *loopmq.Event) {
		switch {
		case e.Kind == loopmq.EventClientDisconnected:
			b.disconnected(e.Client, e.ReasonCode)
		case b.banned(e.Client):
			b.recheck()
		}
	}, loopmq.EventClientConnected, loopmq.EventClientDisconnected)
}

// disconnected counts the end of a connection, on its loop.
func (b *Bans) disconnected(c *loopmq.ClientInfo, reason codec.ReasonCode) {
	switch reason {
	case codec.ServerShuttingDown, codec.UseAnotherServer, codec.ServerMoved, codec.AdministrativeAction:
		return
	}
	if b.exempt(addressOf(c.RemoteAddr())) || !b.flapping.hit(c.ClientID, b.o.Now()) {
		return
	}
	b.addByRule(Ban{Kind: BanClientID, Value: c.ClientID, Source: metrics.BanFlapping, Reason: "disconnected too often"}, b.o.Flapping)
}

// failed counts credentials that were not right.
func (b *Bans) failed(a netip.Addr) {
	if !a.IsValid() || b.exempt(a) {
		return
	}
	network := netip.PrefixFrom(a, a.BitLen())
	if a.Is6() {
		network, _ = a.Prefix(64) // It can't fail: there are 128.
	}
	if b.credentials.hit(network.String(), b.o.Now()) {
		b.addByRule(Ban{Kind: BanAddress, Value: network.String(), Source: metrics.BanCredentials, Reason: "wrong credentials too often"}, b.o.Credentials)
	}
}

func (b *Bans) addByRule(ban Ban, r BanRule) {
	ban.Until = b.o.Now().Add(r.For)
	if b.add(ban) != nil {
		return // It is counted, and there would be a line for each.
	}
	if b.stored.Load() != nil {
		select {
		case b.found <- ban:
		default:
			b.counts.BansNotKept.Inc()
		}
	}
	b.o.Logger.Warn("banned", string(ban.Kind), ban.Value, "reason", ban.Reason, "until", ban.Until)
}

func (b *Bans) exempt(a netip.Addr) bool {
	return slices.ContainsFunc(b.o.Exempt, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Authenticator returns a loopmq.Authenticator that refuses whom a ban keeps out, with
// 0x8A (3.x: 0x05), and asks a for all others. A nil a accepts them as who they say
// they are.
func (b *Bans) Authenticator(a loopmq.Authenticator) loopmq.Authenticator { return bouncer{b, a} }

// bouncer is an Authenticator behind Bans.
type bouncer struct {
	b *Bans
	a loopmq.Authenticator
}

// Authenticate looks for bans of what the client says, and of who it turns out to be.
func (d bouncer) Authenticate(ctx context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	if err := d.refuse(r, r.ClientID, r.Username); err != nil {
		return loopmq.Identity{}, nil, err
	}
	if d.a == nil {
		if r.AuthenticationMethod != "" { // [MQTT-4.12.0-1]
			return loopmq.Identity{}, nil, errNoMethod
		}
		return loopmq.Identity{Username: r.Username}, nil, nil
	}
	id, ch, err := d.a.Authenticate(ctx, r)
	return d.answered(r, id, ch, err)
}

// Continue is asked about the later steps of an enhanced authentication.
func (d bouncer) Continue(ctx context.Context, r *loopmq.ConnectRequest, state any, data []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	if d.a == nil {
		return loopmq.Identity{}, nil, errNoMethod
	}
	id, ch, err := d.a.Continue(ctx, r, state, data)
	return d.answered(r, id, ch, err)
}

func (d bouncer) answered(r *loopmq.ConnectRequest, id loopmq.Identity, ch *loopmq.Challenge, err error) (loopmq.Identity, *loopmq.Challenge, error) {
	if err != nil {
		var e *codec.Error
		if !errors.As(err, &e) || e.ReasonCode == codec.BadUserNameOrPassword || e.ReasonCode == codec.NotAuthorized {
			d.b.failed(addressOf(r.RemoteAddr))
		}
		return id, ch, err
	}
	if ch == nil {
		err = d.refuse(r, id.ClientID, id.Username)
	}
	return id, ch, err
}

func (d bouncer) refuse(r *loopmq.ConnectRequest, clientID, username string) error {
	_, banned := d.b.find(clientID, username, addressOf(r.RemoteAddr))
	if !banned {
		return nil
	}
	d.b.counts.Decisions[metrics.AuthBan][metrics.AuthRejected].Inc()
	if r.Reauthentication { // It ends in DISCONNECT, which has no 0x8A.
		return errBannedSince
	}
	return errBanned
}

// addressOf returns the IP address of a client, or an invalid one for a unix socket.
func addressOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap().WithZone("")
	case nil:
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// checked returns the ban with its value in the form that is looked for.
func (ban Ban) checked() (Ban, error) {
	switch ban.Kind {
	case BanClientID, BanUsername:
		if !validName(ban.Value) {
			return ban, fmt.Errorf("bans: %s is empty, too long, or no name of MQTT's", ban.Kind)
		}
	case BanAddress:
		p, err := parsePrefix(ban.Value)
		if err != nil {
			return ban, err
		}
		ban.Value = p.String()
		if p.IsSingleIP() {
			ban.Value = p.Addr().String()
		}
	default:
		return ban, fmt.Errorf("bans: kind %q is not known; allowed: client_id, username, address", ban.Kind)
	}
	if len(ban.Reason) > 1024 {
		return ban, errors.New("bans: the reason is too long; allowed: 1024 bytes")
	}
	return ban, nil
}

// parsePrefix reads an address or a network.
func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return p, fmt.Errorf("bans: %q is not an address; allowed: such as 192.0.2.7, 192.0.2.0/24, 2001:db8::/64", strings.ToValidUTF8(text, "?"))
	}
	return p.Masked(), nil
}

func (ban *Ban) holds(now time.Time) bool { return ban.Until.IsZero() || now.Before(ban.Until) }
