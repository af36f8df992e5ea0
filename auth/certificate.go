package auth

import (
	"context"
	"crypto/x509"
	"fmt"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// CertificateField is what of a certificate is the user name.
type CertificateField string

// The fields. Of several values of a kind the first counts.
const (
	// CommonName is the subject's CN, as mosquitto's use_identity_as_username.
	CommonName CertificateField = "cn"
	// Subject is the whole distinguished name as in RFC 2253, such as
	// "CN=pump-7,OU=plant,O=example", as mosquitto's use_subject_as_username.
	Subject CertificateField = "subject"
	// The Subject Alternative Names: a DNS name, an e-mail address, a URI.
	DNSName      CertificateField = "dns"
	EmailAddress CertificateField = "email"
	URI          CertificateField = "uri"
)

// Certificate is a Method: the client's certificate says who it is. The TLS handshake
// has verified it; what it takes is a listener that asks for certificates. A user name
// and password in CONNECT are not looked at.
//
// A client without a certificate is left to the next Method. One whose certificate
// lacks the field is rejected.
type Certificate struct{ field CertificateField }

var _ Method = (*Certificate)(nil)

// NewCertificate returns a Method for one field. The error says which there are.
func NewCertificate(field CertificateField) (*Certificate, error) {
	switch field {
	case CommonName, Subject, DNSName, EmailAddress, URI:
		return &Certificate{field}, nil
	}
	return nil, fmt.Errorf("certificate: field %q is not known; allowed: cn, subject, dns, email, uri", field)
}

// Name returns "certificate".
func (*Certificate) Name() string { return metrics.AuthCertificate.String() }

// Authenticate accepts a client by its certificate.
func (m *Certificate) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (Result, error) {
	c := verifiedCertificate(r)
	if c == nil || r.AuthenticationMethod != "" {
		return Result{}, nil
	}
	username := m.username(c)
	if !validName(username) {
		return Result{Decision: Reject, ReasonCode: codec.NotAuthorized}, nil
	}
	// It is good as long as the certificate: a connection may outlive it.
	return Result{Decision: Accept, Identity: loopmq.Identity{Username: username, ExpiresAt: c.NotAfter}}, nil
}

func (m *Certificate) username(c *x509.Certificate) string {
	switch m.field {
	case CommonName:
		return c.Subject.CommonName
	case Subject:
		return c.Subject.String()
	case DNSName:
		return first(c.DNSNames)
	case EmailAddress:
		return first(c.EmailAddresses)
	case URI:
		if len(c.URIs) > 0 {
			return c.URIs[0].String()
		}
	}
	return ""
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// verifiedCertificate returns the client's certificate, or nil. One that a listener
// took without verifying it proves nothing.
func verifiedCertificate(r *loopmq.ConnectRequest) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return nil
	}
	return r.TLS.VerifiedChains[0][0]
}
