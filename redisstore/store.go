package redisstore

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/store"
	"loopmq/store/local"
)

// errFull is what Health returns when messages are refused.
var errFull = errors.New("redisstore: Redis is short of memory: messages that have to be stored are refused; raise maxmemory (or max_bytes in the URL), or let queues be shorter")

// errFewReplicas is what Health returns while ack=store+replicas:N can't be had.
type errFewReplicas struct{ replicas, asked int }

func (e *errFewReplicas) Error() string {
	return fmt.Sprintf("redisstore: ack=store+replicas:%d, but %d replicas are connected to Redis: connections and messages that have to be "+
		"stored are refused; look whether the replicas run, or ask for fewer", e.asked, e.replicas)
}

func (e *errFewReplicas) Unwrap() error { return store.ErrUnavailable }

// Store is a store.Shared on a Redis. Its methods are safe for concurrent use. A
// Store that has not joined is a plain store.Store: it writes nothing to the feed,
// and nobody else learns what it does.
type Store struct {
	log    *slog.Logger
	config config
	keys   keys
	redis  redis.UniversalClient
	slot   *slotMaster // nil unless it is a Redis Cluster
	// declared is keys.declared().
	declared []string
	name     string // of this process, where it has not joined
	clock    clock
	room     room
	// hasWaitAOF is written before any other goroutine runs.
	hasWaitAOF bool
	away       atomic.Pointer[error] // what the last look at Redis failed with

	fewReplicas atomic.Pointer[errFewReplicas] // nil: there are enough

	joined atomic.Pointer[membership] // nil: not joined

	bell local.Bell // for who waits for events

	stop    context.CancelFunc
	watcher sync.WaitGroup

	use sync.RWMutex // held for reading by each call; Close takes it
	// closed is guarded by use.
	closed bool

	writers struct {
		sync.Mutex
		names map[string]int
	}
}

// membership is what a commit needs of a Member: as which instance it writes, and
// where what is new in the feed goes to.
type membership struct {
	instance string
	feed     *feed
	// committed is told of each batch that was answered.
	committed *committed
	// died is called when a commit learns that the instance was declared dead.
	died func()
	// giveUp ends it without taking anything offline.
	giveUp func(context.Context)
}

// NewStore opens the Redis that rawURL names, as docs/durability.md has it:
//
//	redis://user:password@host:6379/0?prefix=lmq:&ack=store
//
// with rediss for TLS, redis+sentinel://host1,host2/master, and redis+cluster://host1,host2,
// where all keys are in the hash slot of the prefix. The error names all
// parameters that are wrong and what is allowed; it is store.ErrUnavailable if the
// Redis can't be reached, and ErrUnusable as well if that won't change by itself. The Store is usable until Close, whatever becomes of ctx.
func NewStore(ctx context.Context, rawURL string, opts Options) (*Store, error) {
	c, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	if err := c.readCertificates(); err != nil {
		return nil, err
	}
	s := &Store{log: opts.Logger, config: c, keys: keys{c.prefix}, name: newName("process"), room: room{maxBytes: c.maxBytes}}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.writers.names = make(map[string]int)
	s.declared = s.keys.declared()
	if c.cluster {
		s.slot = newSlotMaster(s.keys.meta(), c.redis)
	}
	s.connect()
	if err := s.inspect(ctx); err != nil {
		_ = s.redis.Close()
		return nil, err
	}
	background, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.watcher.Go(func() { s.watch(background) })
	return s, nil
}

var _ store.Store = (*Store)(nil)

// Messages returns the queues.
func (s *Store) Messages() store.Messages { return messagesView{s} }

// Sessions returns the session registry.
func (s *Store) Sessions() store.Sessions { return sessionsView{s} }

// Subscriptions returns the subscriptions of durable sessions.
func (s *Store) Subscriptions() store.Subscriptions { return subscriptionsView{s} }

// Retained returns the retained messages.
func (s *Store) Retained() store.Retained { return retainedView{s} }

// Wills returns the stored Wills.
func (s *Store) Wills() store.Wills { return willsView{s} }

// Bans returns the bans.
func (s *Store) Bans() store.Bans { return bansView{s} }

// Outbox returns the outboxes. Events of other nodes are told of while this Store has
// joined.
func (s *Store) Outbox() store.Outbox { return outboxView{s} }

// Leases returns the leases.
func (s *Store) Leases() store.Leases { return leasesView{s} }

// Now is Redis's clock, as it was seen some seconds ago and has gone on here. It
// goes on after Close.
func (s *Store) Now() time.Time { return s.clock.now() }

// Health returns nil, or that Redis was away, had fewer replicas than ack asks for, or
// was short of memory when it was looked at last, about a second ago.
func (s *Store) Health() error {
	if err := s.away.Load(); err != nil {
		return *err
	}
	if few := s.fewReplicas.Load(); few != nil {
		return few
	}
	if s.room.full.Load() {
		return errFull
	}
	return nil
}

// Degraded reports whether the URL asks for service with what a node knows by
// itself while Redis is away (away=degraded), or for none (away=closed).
func (s *Store) Degraded() bool { return s.config.degraded }

// AcknowledgesEarly reports whether the URL asks for acknowledgements that wait for no
// commit (ack=memory). A Commit itself returns when Redis has answered, at each level:
// without that its results aren't known.
func (s *Store) AcknowledgesEarly() bool { return s.config.ack == ackMemory }

// NewWriter returns a writer. What it commits belongs to the instance that has
// joined when a batch is committed first.
func (s *Store) NewWriter(name string) store.Writer {
	s.writers.Lock()
	defer s.writers.Unlock()
	n := s.writers.names[name]
	s.writers.names[name]++
	if n > 0 {
		name += "#" + strconv.Itoa(n)
	}
	return newWriter(s, name)
}

// Close waits for calls under way and closes the connections. All later calls,
// Close too, return store.ErrClosed.
func (s *Store) Close() error {
	if err := s.enter(); err != nil {
		return err
	}
	s.leave()
	s.use.Lock()
	defer s.use.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	s.closed = true
	s.stop()
	s.watcher.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// Nobody asks any more for the results of batches that were committed without an
	// instance.
	_ = s.redis.Del(ctx, s.keys.writers(s.name)).Err()
	return s.redis.Close()
}

// enter begins a call, or returns store.ErrClosed. leave ends it.
func (s *Store) enter() error {
	s.use.RLock()
	if s.closed {
		s.use.RUnlock()
		return store.ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.use.RUnlock() }

// call runs f within enter and leave, and says what it was if that fails.
func (s *Store) call(what string, f func() error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return failed(what, f())
}

// failed makes an error of the redis client one of package store.
func failed(what string, err error) error {
	switch {
	case err == nil, errors.Is(err, store.ErrGone), errors.Is(err, store.ErrUnavailable), errors.Is(err, errFormat), errors.Is(err, store.ErrDead),
		errors.Is(err, ErrNameTaken):
		return err
	case strings.HasPrefix(err.Error(), "DEAD "):
		return store.ErrDead
	}
	return fmt.Errorf("%s: %w: %s: %w", what, store.ErrUnavailable, advice(err), err)
}

// adviceOnRights is about a user of an ACL.
const adviceOnRights = "give the user of the URL the rights that docs/cluster.md names, or ~PREFIX* +@all -@admin -@dangerous +info"

// ErrUnusable is what an error of NewStore is where waiting is of no use: somebody has to
// change the URL, or how Redis is set up.
var ErrUnusable = errors.New("redisstore: Redis can't be used as it is set up")

// unusable is an error that is ErrUnusable, and reads as before.
type unusable struct{ error }

func (u unusable) Is(target error) bool { return target == ErrUnusable }

func (u unusable) Unwrap() error { return u.error }

// opening is failed for NewStore.
func (s *Store) opening(err error) error {
	if err == nil {
		return nil
	}
	_, lasting := adviceOn(err)
	if _, moved := redis.IsMovedError(err); moved && s.slot != nil {
		lasting = false
	}
	if err = failed("open the store", err); lasting {
		return unusable{err}
	}
	return err
}

// advice says what to do about an error.
func advice(err error) string {
	text, _ := adviceOn(err)
	return text
}

// adviceOn says what to do about an error, and whether nothing changes until that is
// done.
func adviceOn(err error) (advice string, lasting bool) {
	const passes, lasts = false, true
	text := err.Error()
	for _, a := range []struct {
		prefix, advice string
		lasting        bool
	}{
		{"NOAUTH", "put user and password into the URL", lasts},
		{"WRONGPASS", "look at user and password in the URL", lasts},
		{"ERR AUTH", "this Redis has no password: leave it out of the URL", lasts},
		{"NOPERM", adviceOnRights, lasts},
		{"READONLY", "this Redis is a replica: let the URL name the master, or the Sentinels", passes},
		{"MISCONF", "Redis can't write to its disk: look at its log", passes},
		{"NOREPLICAS", "Redis has fewer replicas than min-replicas-to-write", passes},
		{"LOADING", "Redis is reading its data: wait", passes},
		{"MOVED", "the hash slot has another master: if the URL begins with redis+cluster wait, else let it", lasts},
		{"CROSSSLOT", "this is a node of a Redis Cluster: let the URL begin with redis+cluster", lasts},
		{"ASK", "the hash slot is being moved to another server: wait", passes},
		{"TRYAGAIN", "the hash slot is being moved to another server: wait", passes},
		{"CLUSTERDOWN", "the Redis Cluster doesn't serve the hash slot: look at CLUSTER INFO", passes},
		{"BUSY", "a script runs in Redis for too long", passes},
		{"ERR DB index", "this Redis has fewer databases: look at the number in the path of the URL", lasts},
		{"ERR max number of clients", "Redis has as many connections as its maxclients allows", passes},
	} {
		if strings.HasPrefix(text, a.prefix) {
			return a.advice, a.lasting
		}
	}
	for _, a := range []struct{ part, advice string }{
		{"can't run this command", adviceOnRights},
		{"ACL failure in script", adviceOnRights},
		{"cluster support disabled", "this is no node of a Redis Cluster: let the URL begin with redis, or rediss"},
		{"unknown command", "this is no Redis that keeps data: if it is a Sentinel, let the URL begin with redis+sentinel"},
		{"first record does not look like a TLS handshake", "this port of Redis has no TLS: let the URL begin with redis instead of rediss"},
	} {
		if strings.Contains(text, a.part) {
			return a.advice, true
		}
	}
	var (
		unknown x509.UnknownAuthorityError
		other   x509.HostnameError
		invalid x509.CertificateInvalidError
		refused redis.Error
	)
	switch {
	case errors.As(err, &unknown):
		return "let the URL name a file with the certificate of the CA that has signed that of Redis, ca=FILE", true
	case errors.As(err, &other):
		return "let the URL name Redis as its certificate does", true
	case errors.As(err, &invalid):
		return "look at the certificate of Redis", true
	case errors.As(err, &refused):
		return "Redis refused a command", false
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), strings.Contains(text, "remote error: tls: "):
		return "Redis closed the connection: look whether it runs; if its port is for TLS, let the URL begin with rediss, " +
			"and if it wants a certificate from a CA that it knows, name that in the URL, cert=FILE&key=FILE", false
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "Redis doesn't answer: look whether it can be reached, and if the URL begins with rediss, whether its port is for TLS", false
	}
	return "look whether Redis runs and can be reached", false
}
