package opcuabridge

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
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

// nonceBytes is the length of what a server has to sign.
const nonceBytes = 32

// find asks a server for its endpoints, and returns the one to use. What it says is believed as far as its certificate is
// trusted: the connection that follows is for who has the certificate's key.
func (e *Endpoint) find(ctx context.Context) (*ua.EndpointDescription, error) {
	c, err := e.dial(ctx, ua.SecurityPolicyURINone, ua.MessageSecurityModeNone, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for endpoints: %w", err)
	}
	defer c.close()
	res, err := request[ua.GetEndpointsResponse](ctx, c, e.RequestTimeout, nil, &ua.GetEndpointsRequest{EndpointURL: e.URL})
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
	for _, d := range res.Endpoints {
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

// session is one at a server. It outlives connections.
type session struct {
	token *ua.NodeID // the secret that it is known by
	nonce []byte     // what the next proof is about
}

// client is a connection with a session.
type client struct {
	*channel
	session *session
	silence time.Duration // how long the server may take to have something to say
}

// connect connects to a server at what find returned.
func (e *Endpoint) connect(ctx context.Context, d *ua.EndpointDescription, silence time.Duration) (*client, error) {
	c, err := e.dial(ctx, d.SecurityPolicyURI, d.SecurityMode, d.ServerCertificate)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &client{channel: c, silence: silence}, nil
}

// applicationURI is what this client calls itself.
func (e *Endpoint) applicationURI() (string, error) {
	if len(e.Security.Certificate) == 0 {
		return applicationURI, nil
	}
	cert, err := x509.ParseCertificate(e.Security.Certificate)
	if err != nil {
		return "", fmt.Errorf("certificate: %w", err)
	}
	if len(cert.URIs) == 0 {
		return applicationURI, nil
	}
	return cert.URIs[0].String(), nil
}

// create makes a session, which isn't anybody's yet.
func (e *Endpoint) create(ctx context.Context, c *client) (*session, error) {
	uri, err := e.applicationURI()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, nonceBytes)
	_, _ = rand.Read(nonce) // it never fails
	res, err := request[ua.CreateSessionResponse](ctx, c.channel, e.RequestTimeout, nil, &ua.CreateSessionRequest{
		ClientDescription: &ua.ApplicationDescription{
			ApplicationURI: uri, ProductURI: applicationURI, ApplicationName: ua.NewLocalizedText("loopmq"), ApplicationType: ua.ApplicationTypeClient,
		},
		EndpointURL: e.URL, SessionName: "loopmq " + e.Name, ClientNonce: nonce, ClientCertificate: c.identity,
		RequestedSessionTimeout: float64(e.SessionTimeout) / float64(time.Millisecond), MaxResponseMessageSize: e.MessageBytes,
	})
	if err != nil {
		return nil, err
	}
	if res.AuthenticationToken == nil {
		return nil, errResponse
	}
	if c.peer != nil {
		cert, err := firstCertificate(res.ServerCertificate)
		if err != nil || !bytes.Equal(cert.Raw, c.peer) || res.ServerSignature == nil ||
			c.asymmetric.VerifySignature(slices.Concat(c.identity, nonce), res.ServerSignature.Signature) != nil {
			return nil, errNoSession
		}
	}
	return &session{token: res.AuthenticationToken, nonce: res.ServerNonce}, nil
}

// activate makes a session, new or of a connection before, one of this connection and of the user.
func (e *Endpoint) activate(ctx context.Context, c *client, s *session, d *ua.EndpointDescription) error {
	user, proof, err := e.user(d, s.nonce)
	if err != nil {
		return err
	}
	own := &ua.SignatureData{}
	if c.peer != nil {
		own.Algorithm = c.asymmetric.SignatureURI()
		if own.Signature, err = c.asymmetric.Signature(slices.Concat(c.peer, s.nonce)); err != nil {
			return err
		}
	}
	res, err := request[ua.ActivateSessionResponse](ctx, c.channel, e.RequestTimeout, s.token, &ua.ActivateSessionRequest{
		ClientSignature: own, UserIdentityToken: ua.NewExtensionObject(user), UserTokenSignature: proof,
	})
	if err != nil {
		return err
	}
	s.nonce, c.session = res.ServerNonce, s
	return nil
}

// user returns who the user is, and with a certificate the proof.
func (e *Endpoint) user(d *ua.EndpointDescription, nonce []byte) (token any, proof *ua.SignatureData, err error) {
	s := &e.Security
	kind := ua.UserTokenTypeAnonymous
	switch {
	case s.Username != "":
		kind = ua.UserTokenTypeUserName
	case s.UserKey != nil:
		kind = ua.UserTokenTypeCertificate
	}
	i := slices.IndexFunc(d.UserIdentityTokens, func(t *ua.UserTokenPolicy) bool { return t != nil && t.TokenType == kind })
	if i < 0 {
		return nil, nil, errNoSuchToken
	}
	t := d.UserIdentityTokens[i]
	proof = &ua.SignatureData{}
	if kind == ua.UserTokenTypeAnonymous {
		return &ua.AnonymousIdentityToken{PolicyID: t.PolicyID}, proof, nil
	}
	policy := cmp.Or(t.SecurityPolicyURI, d.SecurityPolicyURI)
	if kind == ua.UserTokenTypeUserName && policy == ua.SecurityPolicyURINone {
		if d.SecurityMode != ua.MessageSecurityModeSignAndEncrypt && !s.AllowPlainPassword {
			return nil, nil, errPlainPassword
		}
		return &ua.UserNameIdentityToken{PolicyID: t.PolicyID, UserName: s.Username, Password: []byte(s.Password)}, proof, nil
	}
	cert, err := firstCertificate(d.ServerCertificate)
	if err != nil {
		return nil, nil, err
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, nil, errNotTrusted
	}
	algorithm, err := uapolicy.Asymmetric(policy, s.UserKey, key)
	if err != nil {
		return nil, nil, err
	}
	if kind == ua.UserTokenTypeCertificate {
		proof.Algorithm = algorithm.SignatureURI()
		proof.Signature, err = algorithm.Signature(slices.Concat(cert.Raw, nonce))
		return &ua.X509IdentityToken{PolicyID: t.PolicyID, CertificateData: s.UserCertificate}, proof, err
	}
	secret := binary.LittleEndian.AppendUint32(nil, uint32(len(s.Password)+len(nonce)))
	secret, err = algorithm.Encrypt(slices.Concat(secret, []byte(s.Password), nonce))
	return &ua.UserNameIdentityToken{PolicyID: t.PolicyID, UserName: s.Username, Password: secret, EncryptionAlgorithm: algorithm.EncryptionURI()}, proof, err
}

// leave ends a connection. Its session goes on, unless it is to end too.
func (c *client) leave(endSession bool) {
	if endSession && c.session != nil {
		ctx, cancel := context.WithTimeout(context.Background(), farewell)
		defer cancel()
		// There is nothing that could be done if it fails: the server ends it later.
		_, _ = request[ua.CloseSessionResponse](ctx, c.channel, farewell, c.session.token, &ua.CloseSessionRequest{DeleteSubscriptions: true})
	}
	c.close()
}
