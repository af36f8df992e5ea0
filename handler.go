package loopmq

import (
	"loopmq/codec"
)

// Handler turns the packets of one protocol version into calls of the Broker,
// and the Broker's answers into packets. Handlers have no state of their own:
// everything about a connection is in its Client, and each call is on that
// client's loop.
type Handler interface {
	// Connect handles the CONNECT that c has sent.
	Connect(c *Client, p *codec.Connect) error
	// Packet handles any other packet. An error ends the connection, after
	// Refuse.
	Packet(c *Client, h codec.FixedHeader, body []byte) error
	// Connack answers a CONNECT. text is for the Reason String of a refusal.
	Connack(c *Client, sessionPresent bool, reason codec.ReasonCode, text string)
	// Ack sends a PUBACK, PUBREC, PUBREL or PUBCOMP.
	Ack(c *Client, t codec.PacketType, packetID uint16, reason codec.ReasonCode)
	// Disconnect tells the client why the server ends the connection.
	Disconnect(c *Client, reason codec.ReasonCode, text string)
	// Refuse tells the client what was wrong with a packet, before the connection
	// is closed.
	Refuse(c *Client, e *codec.Error)
}

var (
	_ Handler = (*V3Handler)(nil)
	_ Handler = (*V5Handler)(nil)
)

// speaks names the Handler of a client: in a byte, since there are many clients.
type speaks uint8

const (
	speaksNothing speaks = iota // no CONNECT yet
	speaksV3
	speaksV5
	speaksCalls // a LocalClient
)

// handler returns what handles c's packets. There is none before its CONNECT.
func (c *Client) handler() Handler { return c.loop.b.handlers[c.speaks] }

// detect handles the first packet: its version picks the handler.
func (b *Broker) detect(c *Client, h codec.FixedHeader, body []byte) error {
	p := &c.loop.packets.connect
	if h.Type != codec.TypeConnect {
		return codec.ErrFirstPacketNotConnect
	}
	if err := p.Decode(h.Flags, body); err != nil {
		if err == codec.ErrUnsupportedProtocolVersion { //nolint:errorlint // decoders return it bare
			// A client of 3.x whose name and level don't go together reads return code 1
			// [MQTT-3.1.2-2 of 3.1.1]. Others get the form of 5.0, as other brokers do: its
			// fourth byte is not 0 in the form of 3.1.1 either [MQTT-3.1.2-2].
			c.speaks = speaksV5
			if p.Version == codec.V31 || p.Version == codec.V311 {
				c.speaks = speaksV3
			}
		} else if p.Version == codec.V5 {
			c.speaks = speaksV5
		}
		return err
	}
	c.info.ProtocolVersion = p.Version
	c.speaks = speaksV3
	if p.Version == codec.V5 {
		c.speaks = speaksV5
	}
	return c.handler().Connect(c, p)
}

// handshake decodes the packets that both versions handle alike, and hands them
// on. handled is false for others.
func (c *Client) handshake(h codec.FixedHeader, body []byte) (handled bool, err error) {
	a := &c.loop.packets.ack
	switch h.Type {
	case codec.TypePuback, codec.TypePubrec, codec.TypePubrel, codec.TypePubcomp:
		if err := a.Decode(c.info.ProtocolVersion, h.Type, body); err != nil {
			return true, err
		}
	}
	switch h.Type {
	case codec.TypePuback:
		return true, c.puback(a)
	case codec.TypePubrec:
		return true, c.pubrec(a)
	case codec.TypePubrel:
		c.pubrel(a)
	case codec.TypePubcomp:
		return true, c.pubcomp(a)
	case codec.TypePingreq:
		c.conn.EndWrite(codec.AppendPingresp(c.conn.BeginWrite()))
		c.loop.m.PacketsSent[codec.TypePingresp].Inc()
	default:
		return false, nil
	}
	return true, nil
}
