package opcuabridge

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uasc"
)

// Why there is no session.
var (
	errNoSuchEndpoint = errors.New("the server has no endpoint with this security policy and mode")
	errNoSuchToken    = errors.New("the server doesn't take this kind of user at this endpoint")
	errNotTrusted     = errors.New("the server's certificate is not trusted")
	errNoSession      = errors.New("the server's signature of the session is wrong")
	errPlainPassword  = errors.New("the server would have the password unencrypted: allowed with AllowPlainPassword")
)

// applicationURI is what this client calls itself, unless its certificate says it.
const applicationURI = "urn:loopmq"

// find asks a server for its endpoints, and returns the one to use. What it says is believed as far as its certificate is
// trusted: the connection that follows is for who has the certificate's key.
func (e *Endpoint) find(ctx context.Context) (*ua.EndpointDescription, error) {
	ctx, cancel := context.WithTimeout(ctx, e.RequestTimeout)
	defer cancel()
	all, err := opcua.GetEndpoints(ctx, e.URL, opcua.Dialer(e.dialer()), opcua.RequestTimeout(e.RequestTimeout))
	if err != nil {
		return nil, fmt.Errorf("ask for endpoints: %w", err)
	}
	mode := ua.MessageSecurityModeSignAndEncrypt
	switch {
	case e.Security.Policy == PolicyNone:
		mode = ua.MessageSecurityModeNone
	case e.Security.SignOnly:
		mode = ua.MessageSecurityModeSign
	}
	for _, d := range all {
		if d == nil || d.SecurityPolicyURI != policyURIs[e.Security.Policy] || d.SecurityMode != mode {
			continue
		}
		if e.Security.Policy != PolicyNone || len(e.Security.Trusted) > 0 {
			if err := e.trusts(d.ServerCertificate, time.Now()); err != nil {
				return nil, err
			}
		}
		return d, nil
	}
	return nil, errNoSuchEndpoint
}

// trusts looks at the certificate of a server: whether it is one of those that are trusted, or is signed by one and has
// the name of the URL.
func (e *Endpoint) trusts(der []byte, now time.Time) error {
	certs, err := x509.ParseCertificates(der) // a chain may follow
	if err != nil || len(certs) == 0 {
		return fmt.Errorf("%w: it can't be read", errNotTrusted)
	}
	cert := certs[0]
	roots := x509.NewCertPool()
	for _, t := range e.Security.Trusted {
		if bytes.Equal(t.Raw, cert.Raw) {
			if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
				return fmt.Errorf("%w: it is valid from %v to %v", errNotTrusted, cert.NotBefore, cert.NotAfter)
			}
			return nil
		}
		if t.IsCA {
			roots.AddCert(t)
		}
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotTrusted, err)
	}
	_, err = cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, DNSName: u.Hostname(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errNotTrusted, err)
	}
	return nil
}

// dialer returns how servers are connected to: within the time and the sizes of e.
func (e *Endpoint) dialer() *uacp.Dialer {
	d := opcua.DefaultDialer()
	d.Dialer.Timeout = e.RequestTimeout
	ack := *d.ClientACK
	ack.MaxMessageSize = e.MessageBytes
	d.ClientACK = &ack
	return d
}

// open connects to a server at what find returned. Its requests are bounded by timeout.
func (e *Endpoint) open(ctx context.Context, d *ua.EndpointDescription, timeout time.Duration) (*opcua.Client, *uasc.SessionConfig, error) {
	s := &e.Security
	user := ua.UserTokenTypeAnonymous
	switch {
	case s.Username != "":
		user = ua.UserTokenTypeUserName
	case s.UserKey != nil:
		user = ua.UserTokenTypeCertificate
	}
	session, err := e.session(d, user)
	if err != nil {
		return nil, nil, err
	}
	options := []opcua.Option{
		opcua.AutoReconnect(false), opcua.Dialer(e.dialer()), opcua.RequestTimeout(timeout), opcua.SecurityFromEndpoint(d, user), opcua.Lifetime(time.Hour),
	}
	if s.Policy != PolicyNone {
		options = append(options, opcua.PrivateKey(s.Key), opcua.Certificate(s.Certificate))
	}
	if s.UserKey != nil {
		options = append(options, opcua.AuthPrivateKey(s.UserKey))
	}
	c, err := opcua.NewClient(e.URL, options...)
	if err != nil {
		return nil, nil, err
	}
	if err := c.Dial(ctx); err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	return c, session, nil
}

// session returns what a session is asked for with.
func (e *Endpoint) session(d *ua.EndpointDescription, user ua.UserTokenType) (*uasc.SessionConfig, error) {
	s := &e.Security
	c := opcua.DefaultSessionConfig()
	c.SessionTimeout = e.SessionTimeout
	c.SessionName = "loopmq " + e.Name
	c.ClientDescription = &ua.ApplicationDescription{
		ApplicationURI: applicationURI, ProductURI: applicationURI, ApplicationName: ua.NewLocalizedText("loopmq"), ApplicationType: ua.ApplicationTypeClient,
	}
	if len(s.Certificate) > 0 {
		cert, err := x509.ParseCertificate(s.Certificate)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		if len(cert.URIs) > 0 {
			c.ClientDescription.ApplicationURI = cert.URIs[0].String()
		}
	}
	for _, t := range d.UserIdentityTokens {
		if t == nil || t.TokenType != user {
			continue
		}
		c.AuthPolicyURI = t.SecurityPolicyURI
		if c.AuthPolicyURI == "" {
			c.AuthPolicyURI = d.SecurityPolicyURI
		}
		switch user {
		case ua.UserTokenTypeUserName:
			if c.AuthPolicyURI == ua.SecurityPolicyURINone && d.SecurityMode != ua.MessageSecurityModeSignAndEncrypt && !s.AllowPlainPassword {
				return nil, errPlainPassword
			}
			c.UserIdentityToken = &ua.UserNameIdentityToken{PolicyID: t.PolicyID, UserName: s.Username}
			c.AuthPassword = s.Password
		case ua.UserTokenTypeCertificate:
			c.UserIdentityToken = &ua.X509IdentityToken{PolicyID: t.PolicyID, CertificateData: s.UserCertificate}
		default:
			c.UserIdentityToken = &ua.AnonymousIdentityToken{PolicyID: t.PolicyID}
		}
		return c, nil
	}
	return nil, errNoSuchToken
}

// closeClient ends a connection. Its session goes on, unless it is to end too.
func closeClient(c *opcua.Client, endSession bool) {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if !endSession {
		_, _ = c.DetachSession(ctx) // it can't fail
	}
	_ = c.Close(ctx) // there is nothing that could be done
}
