// Package websocket is the server's side of the WebSocket protocol (RFC 6455) for MQTT, without I/O: bytes in, bytes out.
//
// A [Handshake] answers the HTTP request that opens a connection, by the Upgrader of github.com/gorilla/websocket. From
// then on a [Decoder] turns what the client sends into a stream of bytes, and [AppendHeader] and [Seal] put what is sent
// to it into frames. MQTT doesn't care where a message of WebSocket ends [MQTT-6.0.0-2], so nothing is collected here:
// a Decoder keeps no payload, whatever the size of a frame, and a connection on which nothing happens owns no buffer.
//
// It offers no extension, so there is no compression, and a frame has no reserved bit set.
package websocket
