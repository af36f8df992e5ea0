// Package tlsfiles makes a *tls.Config for a server from files, and follows them: what has changed holds for the next
// handshake, and no connection is dropped for it.
package tlsfiles

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"loopmq/metrics"
)

// defaultPoll is how often files are looked at.
const defaultPoll = 5 * time.Second

// KeyPair is the names of PEM files: a certificate, with the chain that leads to its root behind it, and its key.
type KeyPair struct {
	Certificate string
	Key         string

	// Chain is a file of certificates of authorities, in any order; "": there is none. Those that lead to the root from
	// where Certificate ends are sent, too.
	Chain string
}

// Files says which files there are, and what they are for. Only Certificates is required.
type Files struct {
	// Certificates are the server's. A client gets the first that fits the name that it asked for (SNI) and what it can
	// verify, or else the first.
	Certificates []KeyPair

	// ClientCA is a PEM file of certificates that sign those of clients; "": clients are asked for none.
	ClientCA string

	// RequireCertificate refuses clients without a certificate. Else, one that is shown must be valid. It needs ClientCA.
	RequireCertificate bool

	// CRL is a file of certificate revocation lists, in PEM, or one in DER; "": none is looked at. Then there must be one
	// for the authority that signed a client's certificate, and it must not have expired. It needs ClientCA.
	CRL string

	// MinVersion and MaxVersion are tls.VersionTLS12 or tls.VersionTLS13; 0: 1.2, and the newest.
	MinVersion, MaxVersion uint16
}

// Options are what else a Source needs. The zero value will do.
type Options struct {
	// Logger gets what happens to the files while they are followed; nil means slog.Default().
	Logger *slog.Logger

	// Metrics counts reloads; nil: nobody does.
	Metrics *metrics.Set

	// OnChange is called, by any goroutine, each time that other files hold from now on: who is connected may be
	// held to Source.Revoked then. It must not call the other methods. nil: nobody is told.
	OnChange func(*Source)

	// Poll is how often the files are looked at; 0 means 5 s, and less than 0 never, so that only Reload reads them.
	Poll time.Duration
}

// Source is files as they were last read. Its methods are safe for any goroutine.
type Source struct {
	files   Files
	logger  *slog.Logger
	metrics *metrics.Set
	changed func(*Source)
	current atomic.Pointer[generation]
	stop    context.CancelFunc
	stopped chan struct{}

	mu   sync.Mutex // one reload at a time
	seen stamp      // of the files when they were last read, be it in vain
}

// generation is what the files said at one time.
type generation struct {
	config  *tls.Config
	clients *clients // nil: they are asked for no certificate
}

// Load reads the files, and follows them until Close. The error names the file.
func Load(f Files, o Options) (*Source, error) {
	s := &Source{files: f, logger: o.Logger, metrics: o.Metrics, changed: o.OnChange, stopped: make(chan struct{})}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	s.seen = f.stamp()
	first, err := f.read(time.Now())
	if err != nil {
		return nil, err
	}
	s.current.Store(first)
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	if o.Poll == 0 {
		o.Poll = defaultPoll
	}
	if o.Poll < 0 {
		close(s.stopped)
	} else {
		go s.follow(ctx, o.Poll)
	}
	return s, nil
}

// Config returns the configuration for one listener, or several that share sessions. It has each handshake take the files as they were last read.
// Sessions that clients resume are kept over a reload, and looked at again: who has been revoked, or whose authority is
// gone, is refused.
func (s *Source) Config() *tls.Config {
	config := s.current.Load().config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current.Load().config, nil }
	return config
}

// Revoked says why the client of a connection that was made with these files, or with what they were before, would be
// refused by them now: ErrRevoked, or ErrAuthority. Else, and if it showed no certificate, it returns nil. That a
// certificate or a list has expired is no reason. It verifies no signature, so it costs little.
func (s *Source) Revoked(state *tls.ConnectionState) error {
	g := s.current.Load()
	if g.clients == nil || len(state.VerifiedChains) == 0 {
		return nil
	}
	return g.clients.still(state.VerifiedChains)
}

// Reload reads the files again. If it returns an error, those that were read before stay.
func (s *Source) Reload() error {
	commit, err := s.Prepare()
	if err != nil {
		return err
	}
	commit()
	return nil
}

// Prepare reads the files again, and returns what has new handshakes take them: for a reload of several things of which
// all succeed, or none changes.
func (s *Source) Prepare() (commit func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = s.files.stamp() // before they are read: what changes meanwhile is seen next time
	next, err := s.files.read(time.Now())
	if err != nil {
		s.count(metrics.ReloadFailed)
		return nil, err
	}
	return func() {
		s.current.Store(next)
		s.count(metrics.ReloadDone)
		if s.changed != nil {
			s.changed(s)
		}
	}, nil
}

// Close ends following the files. The Config still works.
func (s *Source) Close() {
	s.stop()
	<-s.stopped
}

func (s *Source) count(r metrics.ReloadResult) {
	if s.metrics != nil {
		s.metrics.CertificateReloads[r].Inc()
	}
}

// follow reads the files again when they have changed.
func (s *Source) follow(ctx context.Context, poll time.Duration) {
	defer close(s.stopped)
	t := time.NewTicker(poll)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		s.mu.Lock()
		changed := s.seen != s.files.stamp()
		s.mu.Unlock()
		if !changed {
			continue
		}
		if err := s.Reload(); err != nil {
			s.logger.Error("certificates_kept", "error", err)
		} else {
			s.logger.Info("certificates_reloaded", "certificate", s.files.Certificates[0].Certificate)
		}
	}
}

// stamp tells if a file has changed: its time, size and number on disk, of all together.
type stamp string

func (f *Files) stamp() stamp {
	var text []byte
	for _, name := range f.names() {
		info, err := os.Stat(name)
		if err != nil {
			text = fmt.Appendln(text, name, err)
			continue
		}
		text = fmt.Appendln(text, name, info.ModTime().UnixNano(), info.Size(), inode(info))
	}
	return stamp(text)
}

// inode tells a file from the one that it replaced within the resolution of its time.
func inode(info fs.FileInfo) uint64 {
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		return sys.Ino
	}
	return 0
}

func (f *Files) names() (names []string) {
	for _, p := range f.Certificates {
		names = append(names, p.Certificate, p.Key, p.Chain)
	}
	names = append(names, f.ClientCA, f.CRL)
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

// complete appends the authorities that lead from where the chain ends to the root, but not the root: clients have that,
// or it means nothing to them.
func complete(pair *tls.Certificate, authorities []*x509.Certificate) error {
	last, err := x509.ParseCertificate(pair.Certificate[len(pair.Certificate)-1])
	if err != nil {
		return err
	}
	for range authorities { // which may have signed each other
		i := slices.IndexFunc(authorities, func(a *x509.Certificate) bool {
			return bytes.Equal(a.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(a) == nil
		})
		if i < 0 || bytes.Equal(authorities[i].RawSubject, authorities[i].RawIssuer) {
			return nil
		}
		last = authorities[i]
		pair.Certificate = append(pair.Certificate, last.Raw)
	}
	return nil
}

// read makes a configuration of the files.
func (f *Files) read(now time.Time) (*generation, error) {
	if len(f.Certificates) == 0 {
		return nil, errors.New("tlsfiles: no certificate is named")
	}
	if f.ClientCA == "" && (f.RequireCertificate || f.CRL != "") {
		return nil, errors.New("tlsfiles: certificates of clients need a client CA")
	}
	if f.MaxVersion != 0 && f.MaxVersion < max(f.MinVersion, tls.VersionTLS12) {
		return nil, fmt.Errorf("tlsfiles: the newest version, %s, is older than the oldest", tls.VersionName(f.MaxVersion))
	}
	config := &tls.Config{
		MinVersion: max(f.MinVersion, tls.VersionTLS12), MaxVersion: f.MaxVersion,
		DynamicRecordSizingDisabled: true, // a turn's output is known to be all there is
	}
	for _, p := range f.Certificates {
		pair, err := tls.LoadX509KeyPair(p.Certificate, p.Key)
		if err != nil {
			return nil, fmt.Errorf("tlsfiles: certificate %s with key %s: %w", p.Certificate, p.Key, err)
		}
		if now.After(pair.Leaf.NotAfter) {
			return nil, fmt.Errorf("tlsfiles: certificate %s expired on %s", p.Certificate, pair.Leaf.NotAfter.Format(time.RFC3339))
		}
		if p.Chain != "" {
			authorities, err := readCertificates("chain", p.Chain)
			if err != nil {
				return nil, err
			}
			if err := complete(&pair, authorities); err != nil {
				return nil, fmt.Errorf("tlsfiles: certificate %s: %w", p.Certificate, err)
			}
		}
		config.Certificates = append(config.Certificates, pair)
	}
	if f.ClientCA == "" {
		return &generation{config: config}, nil
	}
	clients := &clients{roots: x509.NewCertPool(), authorities: map[string]bool{}}
	authorities, err := readCertificates("client CA", f.ClientCA)
	if err != nil {
		return nil, err
	}
	for _, a := range authorities {
		clients.roots.AddCert(a)
		clients.authorities[string(a.Raw)] = true
	}
	if f.CRL != "" {
		if clients.revoked, err = readCRL(f.CRL, authorities); err != nil {
			return nil, err
		}
	}
	config.ClientCAs = clients.roots
	config.ClientAuth = tls.VerifyClientCertIfGiven
	if f.RequireCertificate {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	config.VerifyConnection = clients.verify
	return &generation{config, clients}, nil
}
