package tlsfiles

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"
)

// Why a client's certificate was refused, inside a *tls.CertificateVerificationError.
var (
	// ErrRevoked means that a revocation list names the certificate.
	ErrRevoked = errors.New("the certificate has been revoked")

	// ErrNoCRL means that there is no revocation list of the authority that signed the certificate, or an expired one.
	ErrNoCRL = errors.New("no revocation list of its authority is valid")

	// ErrAuthority means that the client CA is none of those any more that led to the certificate.
	ErrAuthority = errors.New("its authority is not trusted any more")
)

// clients is what certificates of clients are held to.
type clients struct {
	roots       *x509.CertPool
	authorities map[string]bool // the same, by what they are in DER
	revoked     revocations     // nil: none is looked at
}

// revocations are revocation lists by the raw name of their authority.
type revocations map[string]*revocationList

type revocationList struct {
	until   time.Time           // zero: for ever
	serials map[string]struct{} // the bytes of numbers
}

// verify looks at a client's certificate beyond its chain, which crypto/tls has verified; but not now, if the session
// was resumed.
func (c *clients) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return nil // which ClientAuth allows
	}
	err := c.check(state, time.Now())
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return nil
}

func (c *clients) check(state tls.ConnectionState, now time.Time) error {
	chains := state.VerifiedChains
	if state.DidResume {
		intermediates := x509.NewCertPool()
		for _, cert := range state.PeerCertificates[1:] {
			intermediates.AddCert(cert)
		}
		var err error
		if chains, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{
			Roots: c.roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}); err != nil {
			return err
		}
	}
	if c.revoked == nil {
		return nil
	}
	err := ErrNoCRL
	for _, chain := range chains { // one that holds will do
		if err = c.revoked.check(chain, now); err == nil {
			return nil
		}
	}
	return err
}

// still looks at chains that were verified with other files.
func (c *clients) still(chains [][]*x509.Certificate) error {
	err := ErrAuthority
	for _, chain := range chains {
		if !c.authorities[string(chain[len(chain)-1].Raw)] {
			continue
		}
		if !c.revoked.names(chain) {
			return nil
		}
		err = ErrRevoked
	}
	return err
}

// names reports whether the lists have one of a chain's certificates but the root.
func (r revocations) names(chain []*x509.Certificate) bool {
	for _, cert := range chain[:max(1, len(chain)-1)] {
		if list := r[string(cert.RawIssuer)]; list != nil {
			if _, ok := list.serials[serial(cert.SerialNumber)]; ok {
				return true
			}
		}
	}
	return false
}

// check looks for a chain's certificates but the root in the lists. The client's own must have one.
func (r revocations) check(chain []*x509.Certificate, now time.Time) error {
	for i, cert := range chain[:max(1, len(chain)-1)] {
		list := r[string(cert.RawIssuer)]
		switch {
		case list == nil && i > 0: // whose authority publishes none
		case list == nil || !list.until.IsZero() && now.After(list.until):
			return ErrNoCRL
		default:
			if _, ok := list.serials[serial(cert.SerialNumber)]; ok {
				return ErrRevoked
			}
		}
	}
	return nil
}

// serial makes a key of a number.
func serial(n *big.Int) string { return string(n.Bytes()) }

// readCertificates reads a PEM file with at least one certificate; what says what they are for.
func readCertificates(what, name string) (certs []*x509.Certificate, err error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("tlsfiles: %s: %w", what, err)
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("tlsfiles: %s %s: %w", what, name, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("tlsfiles: %s %s: there is no certificate in it", what, name)
	}
	return certs, nil
}

// readCRL reads revocation lists, each of which one of the authorities has signed.
func readCRL(name string, authorities []*x509.Certificate) (revocations, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("tlsfiles: CRL: %w", err)
	}
	lists, err := parseCRL(b, authorities)
	if err != nil {
		return nil, fmt.Errorf("tlsfiles: CRL %s: %w", name, err)
	}
	return lists, nil
}

func parseCRL(b []byte, authorities []*x509.Certificate) (revocations, error) {
	ders := [][]byte{b}
	if bytes.Contains(b, []byte("-----BEGIN ")) {
		ders = nil
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "X509 CRL" {
				ders = append(ders, block.Bytes)
			}
		}
		if len(ders) == 0 {
			return nil, errors.New("there is no revocation list in it")
		}
	}
	lists := make(revocations, len(ders))
	for _, der := range ders {
		crl, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, err
		}
		if err := signed(crl, authorities); err != nil {
			return nil, fmt.Errorf("the list of %s: %w", crl.Issuer, err)
		}
		list := &revocationList{until: crl.NextUpdate, serials: make(map[string]struct{}, len(crl.RevokedCertificateEntries))}
		for i := range crl.RevokedCertificateEntries {
			list.serials[serial(crl.RevokedCertificateEntries[i].SerialNumber)] = struct{}{}
		}
		lists[string(crl.RawIssuer)] = list
	}
	return lists, nil
}

// signed checks that an authority has signed the list.
func signed(crl *x509.RevocationList, authorities []*x509.Certificate) error {
	err := errors.New("its authority is not in the client CA")
	for _, a := range authorities {
		if bytes.Equal(a.RawSubject, crl.RawIssuer) {
			if err = crl.CheckSignatureFrom(a); err == nil {
				return nil
			}
		}
	}
	return err
}
