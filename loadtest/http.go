//go:build linux

package loadtest

import (
	"context"

	"loopmq/loadtest/gateway"
)

// byHTTP says whether clients of a role reach the broker by HTTP, by way of a gateway, and not by MQTT.
func (s *Scenario) byHTTP(r role) bool {
	return r == publishing && s.PublishURL != "" || r == subscribing && s.Webhook != ""
}

// openGateways starts what stands before the broker's HTTP and webhooks, for each flow that needs it.
func (r *run) openGateways(ctx context.Context) error {
	for _, f := range r.flows {
		if f.PublishURL == "" && f.Webhook == "" {
			continue
		}
		g, err := gateway.Start(gateway.Options{PublishURL: f.PublishURL, Webhook: f.Webhook, OnError: r.fault})
		if err != nil {
			return err
		}
		r.gateways = append(r.gateways, g)
		at := &Scenario{Targets: []string{"tcp://" + g.Addr()}}
		if f.endpoints, err = resolve(ctx, at, f.Scenario.clients(), len(r.loops)); err != nil {
			return err
		}
	}
	return nil
}

// closeGateways ends them. Afterwards they report no errors.
func (r *run) closeGateways() {
	for _, g := range r.gateways {
		g.Close()
	}
}

// gatewayFiles is how many files clients by HTTP need besides their own connections: the other end, and a request.
func (s *Scenario) gatewayFiles() int {
	n := 0
	for _, p := range s.Parts {
		n += p.gatewayFiles()
	}
	if s.PublishURL != "" {
		n += 2 * s.Share.of(max(s.Pairs, s.Publishers))
	}
	if s.Webhook != "" {
		n += 2 * max(s.Pairs, s.Subscribers)
	}
	return n
}
