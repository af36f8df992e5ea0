package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"loopmq/codec"
)

// answerBytesMax is how much of an answer an error has.
const answerBytesMax = 512

// publication is a message as loopmq and EMQX take it.
type publication struct {
	Topic    string `json:"topic"`
	Payload  []byte `json:"payload"` // as base64
	Encoding string `json:"payload_encoding"`
	QoS      byte   `json:"qos"`
	Retain   bool   `json:"retain"`
}

// publish sends a message by HTTP and acknowledges it when the broker has. An error ends the connection, so that the client knows that the
// message wasn't taken, as MQTT 3.1.1 has no other way to say so.
func (g *Gateway) publish(c *conn, p *codec.Publish) error {
	if g.PublishURL == "" {
		return fmt.Errorf("%w: PUBLISH without a URL to publish to", errUnexpected)
	}
	// What is to be acknowledged before this request mustn't wait for it.
	if err := c.flush(); err != nil {
		return err
	}
	body, err := json.Marshal(publication{string(p.TopicName), p.Payload, "base64", p.QoS, p.Retain})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(g.ctx, http.MethodPost, g.PublishURL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Mqtt-Client-Id", c.clientID)
	if c.user != nil {
		password, _ := c.user.Password()
		request.SetBasicAuth(c.user.Username(), password)
	}
	answer, err := g.client.Do(request)
	if err != nil {
		return fmt.Errorf("publish by HTTP: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerBytesMax))
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, packetBytesMax))
	_ = answer.Body.Close()
	switch {
	case err != nil:
		return fmt.Errorf("publish by HTTP: %w", err)
	case answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusAccepted:
		return fmt.Errorf("publish by HTTP: %s: %s", answer.Status, bytes.TrimSpace(text))
	}
	switch p.QoS {
	case 1:
		c.write(codec.AppendAck(nil, codec.TypePuback, p.PacketID))
	case 2:
		c.write(codec.AppendAck(nil, codec.TypePubrec, p.PacketID))
	}
	return nil
}
