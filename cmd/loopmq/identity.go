package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"loopmq"
	"loopmq/auth"
	httpbridge "loopmq/bridges/http"
	"loopmq/codec"
	"loopmq/config"
	"loopmq/metrics"
	"loopmq/tlsfiles"
)

// identity is who may connect to a broker, and what they may do there, as its
// configuration says.
type identity struct {
	metrics *metrics.Set
	log     *slog.Logger

	bans      *auth.Bans
	steps     map[string][]auth.Step // by the key of the methods
	rules     map[string][]auth.Rule // by their key
	passwords map[string]*auth.PasswordFile
	acls      map[string]*auth.ACLFile
	files     []preparer // what can be read again
	closers   []func()
	broker    atomic.Pointer[loopmq.Broker] // nil: it doesn't run yet
}

// preparer reads files again, and returns what makes their contents hold.
type preparer struct {
	key     string // of the configuration
	prepare func() (apply func(), err error)
}

func newIdentity(c *config.Config, set *metrics.Set, log *slog.Logger) (*identity, error) {
	i := &identity{metrics: set, log: log, steps: map[string][]auth.Step{}, rules: map[string][]auth.Rule{}, passwords: map[string]*auth.PasswordFile{}, acls: map[string]*auth.ACLFile{}}
	b := c.Bans
	if b == nil {
		b = new(config.Bans) // other nodes, and operators, may ban
	}
	bans, err := auth.NewBans(auth.BansOptions{
		File: b.File, Max: b.Max, Exempt: b.Exempt, Flapping: ruleOf(b.Flapping), Credentials: ruleOf(b.Credentials), Logger: log, Metrics: set,
	})
	if err != nil {
		return nil, fmt.Errorf("bans: %w", err)
	}
	i.bans = bans
	i.closers = append(i.closers, bans.Close)
	if b.File != "" {
		i.files = append(i.files, preparer{"bans.file", bans.Prepare})
	}
	return i, nil
}

func ruleOf(r *config.BanRule) auth.BanRule {
	if r == nil {
		return auth.BanRule{}
	}
	return auth.BanRule{Times: r.Times, Window: r.Window, For: r.For}
}

// enforce has bans end connections of a broker that has started, and keeps them in its
// store.
func (i *identity) enforce(ctx context.Context, broker *loopmq.Broker) error {
	i.broker.Store(broker)
	return i.bans.Enforce(ctx, broker)
}

// authenticator returns what decides who may connect, nil if everybody may. at is
// the key of the methods. anonymous is whether clients may that don't say who they
// are; nil: nobody said so.
func (i *identity) authenticator(at string, methods []config.Method, anonymous *bool) (loopmq.Authenticator, error) {
	var a loopmq.Authenticator
	var wrong []error
	if allowed := anonymous != nil && *anonymous; len(methods) > 0 || anonymous != nil && !allowed {
		steps, made := i.steps[at]
		for n := range methods {
			if made { // for another listener
				break
			}
			m, err := i.method(fmt.Sprintf("%s[%d]", at, n), &methods[n])
			if err != nil {
				wrong = append(wrong, err)
				continue
			}
			steps = append(steps, auth.Step{Method: m, Timeout: methods[n].Timeout})
		}
		if len(wrong) > 0 {
			return nil, errors.Join(wrong...)
		}
		i.steps[at] = steps
		a = auth.NewChain(auth.Options{AllowAnonymous: allowed, Metrics: i.metrics, Logger: i.log}, steps...)
	}
	return i.bans.Authenticator(a), nil
}

// handshakes returns what judges clients that a handshake has named: by a key, or by a
// certificate.
func (i *identity) handshakes(field auth.CertificateField) (loopmq.Authenticator, error) {
	certificate, err := auth.NewCertificate(field)
	if err != nil {
		return nil, err
	}
	byCertificate := auth.NewChain(auth.Options{Metrics: i.metrics, Logger: i.log}, auth.Step{Method: certificate})
	return i.bans.Authenticator(believer{byCertificate}), nil
}

// believer is an Authenticator that believes the name of who has no certificate.
type believer struct{ loopmq.Authenticator }

// Authenticate implements loopmq.Authenticator.
func (n believer) Authenticate(ctx context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	if r.TLS == nil {
		return loopmq.Identity{Username: r.Username}, nil, nil
	}
	return n.Authenticator.Authenticate(ctx, r)
}

func (i *identity) method(at string, m *config.Method) (auth.Method, error) {
	switch {
	case m.PasswordFile != nil:
		p := m.PasswordFile
		return i.passwordFile(at+".password_file", p.File, auth.PasswordOptions{Parallel: p.Parallel, CacheSize: p.CacheSize, CacheTTL: p.CacheTTL, Metrics: i.metrics})
	case m.SCRAM != nil:
		f, err := i.passwordFile(at+".scram", m.SCRAM.File, auth.PasswordOptions{Metrics: i.metrics})
		if err != nil {
			return nil, err
		}
		return auth.NewSCRAM(f), nil
	case m.JWT != nil:
		return i.jwt(at+".jwt", m.JWT)
	case m.HTTP != nil:
		o, err := i.httpOptions(m.HTTP)
		if err != nil {
			return nil, fmt.Errorf("%s.http: %w", at, err)
		}
		method, err := auth.NewHTTPMethod(o)
		if err != nil {
			return nil, fmt.Errorf("%s.http: %w", at, err)
		}
		i.closers = append(i.closers, method.Close)
		i.files = append(i.files, preparer{at + ".http", func() (func(), error) { return method.DropCache, nil }})
		return method, nil
	}
	method, err := auth.NewCertificate(auth.CertificateField(m.Certificate.Username))
	if err != nil {
		return nil, fmt.Errorf("%s.certificate: %w", at, err)
	}
	return method, nil
}

// passwordFile returns a file of users, which is open once however many methods
// use it: what the first says of it holds.
func (i *identity) passwordFile(at, path string, o auth.PasswordOptions) (*auth.PasswordFile, error) {
	if f, open := i.passwords[path]; open {
		return f, nil
	}
	f, err := auth.OpenPasswordFile(path, o)
	if err != nil {
		return nil, fmt.Errorf("%s.file: %w", at, err)
	}
	i.passwords[path] = f
	i.files = append(i.files, preparer{at + ".file", f.Prepare})
	return f, nil
}

func (i *identity) jwt(at string, c *config.JWT) (auth.Method, error) {
	t, err := tlsClient(c.TLS)
	if err != nil {
		return nil, fmt.Errorf("%s.tls: %w", at, err)
	}
	j, err := auth.NewJWT(auth.JWTOptions{
		KeyFiles: c.KeyFiles, SecretFiles: c.SecretFiles, JWKSURL: c.JWKSURL, RefreshInterval: c.RefreshInterval, Timeout: c.Timeout,
		TLS: t, AllowPlainHTTP: c.AllowPlainHTTP, Algorithms: c.Algorithms, TokenInUsername: c.TokenInUsername, Issuer: c.Issuer,
		Audience: c.Audience, UsernameClaim: c.UsernameClaim, ClientIDClaim: c.ClientIDClaim, ACLClaim: c.ACLClaim,
		AllowNoExpiry: c.AllowNoExpiry, Leeway: c.Leeway, Logger: i.log, Metrics: i.metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	i.closers = append(i.closers, j.Close)
	i.files = append(i.files, preparer{at, j.Prepare})
	return j, nil
}

func (i *identity) httpOptions(c *config.HTTP) (auth.HTTPOptions, error) {
	t, err := tlsClient(c.TLS)
	if err != nil {
		return auth.HTTPOptions{}, fmt.Errorf("tls: %w", err)
	}
	header := http.Header{}
	for _, line := range c.Headers {
		name, value, _ := strings.Cut(line, ":")
		header.Add(name, strings.TrimSpace(value))
	}
	return auth.HTTPOptions{
		URL: c.URL, AllowPlainHTTP: c.AllowPlainHTTP, Header: header, TLS: t, Timeout: c.Timeout, Parallel: c.Parallel,
		ResponseBytes: c.ResponseBytes, CacheEntries: c.CacheEntries, CacheMaxAge: c.CacheMaxAge, BreakerFailures: c.BreakerFailures,
		BreakerDelay: c.BreakerDelay, PassOnFailure: c.PassOnFailure, Deliveries: c.Deliveries, Logger: i.log, Metrics: i.metrics,
	}, nil
}

// authorizer returns what decides what clients may do, nil if they may do
// everything. at is the key of the rules.
func (i *identity) authorizer(at string, rules []config.Rule, allowByDefault bool) (loopmq.Authorizer, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	var wrong []error
	all, made := i.rules[at]
	for n := range rules {
		if made { // for another listener
			break
		}
		r, key := &rules[n], fmt.Sprintf("%s[%d]", at, n)
		switch {
		case r.ACLFile != nil:
			f, err := i.aclFile(key+".acl_file.file", r.ACLFile.File)
			if err != nil {
				wrong = append(wrong, err)
				continue
			}
			all = append(all, f)
		case r.Claims != nil:
			all = append(all, auth.Claims{})
		default:
			o, err := i.httpOptions(r.HTTP)
			if err != nil {
				wrong = append(wrong, fmt.Errorf("%s.http: %w", key, err))
				continue
			}
			rule, err := auth.NewHTTPRule(o)
			if err != nil {
				wrong = append(wrong, fmt.Errorf("%s.http: %w", key, err))
				continue
			}
			i.closers = append(i.closers, rule.Close)
			i.files = append(i.files, preparer{key + ".http", func() (func(), error) { return rule.DropCache, nil }})
			all = append(all, rule)
		}
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	i.rules[at] = all
	return auth.NewRules(auth.RulesOptions{AllowByDefault: allowByDefault, Logger: i.log, Metrics: i.metrics}, all...), nil
}

func (i *identity) aclFile(key, path string) (*auth.ACLFile, error) {
	if f, open := i.acls[path]; open {
		return f, nil
	}
	f, err := auth.OpenACLFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	i.acls[path] = f
	i.files = append(i.files, preparer{key, f.Prepare})
	return f, nil
}

// tls returns how a listener speaks TLS. Who is connected there and wouldn't be with new
// files, since the certificate was revoked, is disconnected.
func (i *identity) tls(at, listener string, c *config.TLS) (*tls.Config, error) {
	f := tlsfiles.Files{ClientCA: c.ClientCA, RequireCertificate: c.Require, CRL: c.CRL, MinVersion: c.MinVersion, MaxVersion: c.MaxVersion}
	for _, pair := range c.Certificates {
		f.Certificates = append(f.Certificates, tlsfiles.KeyPair(pair))
	}
	changed := func(source *tlsfiles.Source) {
		if b := i.broker.Load(); b != nil && c.ClientCA != "" {
			b.DisconnectWhere(func(c *loopmq.ClientInfo) bool {
				if c.Listener != listener {
					return false
				}
				state := c.TLSState()
				return state != nil && source.Revoked(state) != nil
			}, codec.NotAuthorized)
		}
	}
	source, err := tlsfiles.Load(f, tlsfiles.Options{Logger: i.log, Metrics: i.metrics, OnChange: changed})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	i.closers = append(i.closers, source.Close)
	i.files = append(i.files, preparer{at, source.Prepare})
	return source.Config(), nil
}

// tlsClient returns how the broker is a client of TLS, nil for the defaults.
func tlsClient(c *config.ClientTLS) (*tls.Config, error) {
	if c == nil {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s has no certificate: allowed: certificates as PEM", c.CA)
		}
	}
	if c.Certificate != "" || c.Key != "" {
		pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// prepare reads all files again, and returns what makes them hold, or all that is
// wrong with them.
func (i *identity) prepare() (apply func(*loopmq.Broker), err error) {
	var applies []func()
	var wrong []error
	for _, f := range i.files {
		apply, err := f.prepare()
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", f.key, err))
			continue
		}
		applies = append(applies, apply)
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	return func(b *loopmq.Broker) {
		before := i.connectedUsers(b)
		for _, apply := range applies {
			apply()
		}
		b.DropDecisions()
		b.DisconnectWhere(func(c *loopmq.ClientInfo) bool { return before[c.Username] && !i.knows(c.Username) }, codec.NotAuthorized)
	}, nil
}

// connectedUsers are the users of password files who are connected.
func (i *identity) connectedUsers(b *loopmq.Broker) map[string]bool {
	users := map[string]bool{}
	if len(i.passwords) == 0 {
		return users
	}
	var mu sync.Mutex
	b.DisconnectWhere(func(c *loopmq.ClientInfo) bool {
		if i.knows(c.Username) {
			mu.Lock()
			users[c.Username] = true
			mu.Unlock()
		}
		return false
	}, codec.NotAuthorized)
	return users
}

func (i *identity) knows(username string) bool {
	for _, f := range i.passwords {
		if f.Knows(username) {
			return true
		}
	}
	return false
}

// close ends what goes on in the background.
func (i *identity) close() {
	for _, c := range i.closers {
		c()
	}
}

// banFunctions are what the admin listener does with bans.
func (i *identity) banFunctions() *httpbridge.BanFunctions {
	return &httpbridge.BanFunctions{
		List: func() []httpbridge.Ban {
			bans := i.bans.List()
			list := make([]httpbridge.Ban, 0, len(bans))
			for _, b := range bans {
				ban := httpbridge.Ban{Kind: string(b.Kind), Value: b.Value, Reason: b.Reason, Source: b.Source.String()}
				if !b.Until.IsZero() {
					ban.Until = &b.Until
				}
				list = append(list, ban)
			}
			return list
		},
		Add: func(ctx context.Context, b httpbridge.Ban) error {
			ban := auth.Ban{Kind: auth.BanKind(b.Kind), Value: b.Value, Reason: b.Reason}
			if b.Until != nil {
				ban.Until = *b.Until
			}
			err := i.bans.Add(ctx, ban)
			if errors.Is(err, auth.ErrBansFull) {
				return httpbridge.ErrBansFull
			}
			return err
		},
		Remove: func(ctx context.Context, kind, value string) (bool, error) {
			return i.bans.Remove(ctx, auth.BanKind(kind), value)
		},
	}
}
