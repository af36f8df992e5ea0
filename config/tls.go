package config

import (
	"crypto/tls"
)

// TLS is how a listener speaks TLS.
type TLS struct {
	Certificates []KeyPair
	ClientCA     string
	Require      bool
	CRL          string
	MinVersion   uint16
	MaxVersion   uint16
}

func (t *TLS) keys() []*node {
	return []*node{
		listOf("certificates", &t.Certificates, (*KeyPair).keys, "the server's certificates. Which one is for a client is decided by the name that it asks for; the first is for those that none fits"),
		key("client_ca", &t.ClientCA, "", maybeFile, "the CAs of clients' certificates, as PEM; empty: clients aren't asked for one"),
		key("require", &t.Require, false, boolean, "refuse clients without a certificate of a client_ca"),
		key("crl", &t.CRL, "", maybeFile, "revocation lists of these CAs, as PEM or DER; empty: none"),
		key("min_version", &t.MinVersion, tls.VersionTLS12, version, "the oldest version of TLS"),
		key("max_version", &t.MaxVersion, tls.VersionTLS13, version, "the newest"),
	}
}

// KeyPair is a certificate and its key.
type KeyPair struct {
	Certificate string
	Key         string
	Chain       string
}

func (k *KeyPair) keys() []*node {
	return []*node{
		key("certificate", &k.Certificate, "", file, "PEM, with the chain that leads to its root behind it"),
		key("key", &k.Key, "", file, "PEM"),
		key("chain", &k.Chain, "", maybeFile, "CAs, as PEM, in any order: those that lead from the certificate to its root are sent behind it; empty: its file has them"),
	}
}

var version = kind[uint16]{
	name: "version", allowed: "1.2, 1.3", takes: takesText | takesFraction,
	parse: func(s string) (uint16, bool) {
		switch s {
		case "1.2":
			return tls.VersionTLS12, true
		case "1.3":
			return tls.VersionTLS13, true
		}
		return 0, false
	},
	format: func(v uint16) string {
		if v == tls.VersionTLS12 {
			return "1.2"
		}
		return "1.3"
	},
}
