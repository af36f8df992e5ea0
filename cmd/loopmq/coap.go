package main

import (
	"errors"
	"fmt"
	"syscall"

	coapbridge "loopmq/bridges/coap"
	"loopmq/config"
)

// startCoAP listens for CoAP, and returns where, as attributes of a log line.
func (r *reloader) startCoAP(c *config.Config, o *coapbridge.Options) (where []any, err error) {
	r.coap = coapbridge.New(*o)
	plain := off
	if c.CoAP.Address != off {
		addr, err := r.coap.Start(c.CoAP.Address)
		switch {
		case errors.Is(err, syscall.EADDRINUSE) && c.Source("coap.address") == (config.Source{}):
			o.Logger.Warn("listener_off", "name", "coap", "error", err, "advice", "set --coap to another address, or to off")
		case err != nil:
			return nil, fmt.Errorf("%s: %w", named(c, "coap.address", "--coap"), err)
		default:
			plain = addr.String()
		}
	}
	where = append(where, "coap", plain)
	if d := c.CoAP.DTLS; d != nil && d.Address != off {
		addr, err := r.coap.StartDTLS(d.Address)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", named(c, "coap.dtls.address", "coap.dtls.address"), err)
		}
		where = append(where, "coaps", addr.String())
	}
	return where, nil
}
