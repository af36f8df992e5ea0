package main

import (
	"fmt"
	"io/fs"
	"log/slog"

	httpbridge "loopmq/bridges/http"
	"loopmq/config"
	"loopmq/metrics"
)

// admin returns the listener for operators, which shows a set of metrics and what f
// knows. It isn't listening yet.
func (f *front) admin(c *config.Config, who *identity, set *metrics.Set, logger *slog.Logger) (*httpbridge.Admin, error) {
	access, err := accessOf(c)
	if err != nil {
		return nil, err
	}
	o := httpbridge.AdminOptions{
		Metrics: set, Health: f.health, Ready: f.ready, Broker: f.broker.Load, Webhooks: f.hooks.Load, Bans: who.banFunctions(),
		Access: access, Profiles: c.Admin.PProf, Logger: logger,
	}
	if c.Admin.TLS != nil && c.Admin.Address != off {
		if o.TLS, err = who.tls("admin.tls", "admin", c.Admin.TLS); err != nil {
			return nil, err
		}
	}
	return httpbridge.NewAdmin(o), nil
}

// listenAdmin starts the listener for operators where the configuration says, and returns
// what the log says of that.
func listenAdmin(c *config.Config, admin *httpbridge.Admin) (where []any, err error) {
	address := off
	if c.Admin.Address != off {
		addr, err := admin.Start(c.Admin.Address)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", named(c, "admin.address", "--admin"), err)
		}
		address = addr.String()
	}
	where = []any{"admin", address}
	if path := c.Admin.Socket; path != "" {
		if err := admin.StartUnix(path, fs.FileMode(c.Admin.SocketMode)); err != nil {
			return nil, fmt.Errorf("%s: %w", named(c, "admin.socket", "admin.socket"), err)
		}
		where = append(where, "admin_socket", path)
	}
	return where, nil
}

// accessOf returns who may use the listener for operators.
func accessOf(c *config.Config) (httpbridge.Access, error) {
	a := &c.Admin
	x := httpbridge.Access{APIOff: !a.API, OpenMonitoring: c.OpenMonitoring(), Required: a.Authenticates(), Hosts: a.Hosts}
	for i, t := range a.Tokens {
		token, err := httpbridge.ParseToken(t.Name + " " + t.Role + " " + t.SHA256)
		if err != nil {
			return x, fmt.Errorf("admin.tokens[%d]: %w", i, err)
		}
		x.Tokens = append(x.Tokens, token)
	}
	if a.TokenFile != "" {
		tokens, err := httpbridge.ReadTokens(a.TokenFile)
		if err != nil {
			return x, fmt.Errorf("admin.token_file: %w", err)
		}
		x.Tokens = append(x.Tokens, tokens...)
	}
	for _, c := range a.Certificates {
		role := httpbridge.RoleRead
		if c.Role == httpbridge.RoleWrite.String() {
			role = httpbridge.RoleWrite
		}
		x.Certificates = append(x.Certificates, httpbridge.CertificateName{Field: c.Field, Name: c.Name, Role: role})
	}
	return x, nil
}
