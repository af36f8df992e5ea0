package opcuaserver

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/gopcua/opcua/ua"
)

// The size of RSA keys, in bits, that Basic256Sha256 has.
const (
	keyLeast = 2048
	keyMost  = 4096
)

// chainMax bounds the certificates of a client.
const chainMax = 5

// trust is who is believed: certificates themselves, and CAs.
type trust struct {
	exact map[string]bool
	roots *x509.CertPool
}

func newTrust(ders [][]byte) (t trust, err error) {
	t = trust{exact: make(map[string]bool), roots: x509.NewCertPool()}
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return trust{}, err
		}
		if t.exact[string(der)] = true; cert.IsCA {
			t.roots.AddCert(cert)
		}
	}
	return t, nil
}

// verify returns the first of the certificates in der, or why it isn't believed. [OPC 10000-4, 6.1.3]
func (t *trust) verify(der []byte, now time.Time) (*x509.Certificate, ua.StatusCode, error) {
	all, err := x509.ParseCertificates(der)
	if err != nil || len(all) == 0 || len(all) > chainMax {
		return nil, ua.StatusBadCertificateInvalid, fmt.Errorf("the certificate can't be read")
	}
	cert := all[0]
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < keyLeast || key.N.BitLen() > keyMost {
		return nil, ua.StatusBadCertificatePolicyCheckFailed, fmt.Errorf("the certificate's key isn't RSA with %d to %d bits", keyLeast, keyMost)
	}
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return nil, ua.StatusBadCertificateTimeInvalid, fmt.Errorf("the certificate isn't valid at this time")
	}
	if cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, ua.StatusBadCertificateUseNotAllowed, fmt.Errorf("the certificate isn't for signatures")
	}
	if t.exact[string(cert.Raw)] {
		return cert, ua.StatusOK, nil
	}
	between := x509.NewCertPool()
	for _, c := range all[1:] {
		between.AddCert(c)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, ua.StatusBadCertificateUntrusted, fmt.Errorf("the certificate isn't trusted")
	}
	return cert, ua.StatusOK, nil
}
