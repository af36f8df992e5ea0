// Package codec turns bytes into MQTT Control Packets and back, for MQTT 3.1, 3.1.1 and 5.0, as a Server or a Client sees them.
//
// The package is pure: no I/O, no clock, no goroutine, no allocation on the PUBLISH path. A caller frames its input with
// [DecodeFixedHeader], and hands the body to the Decode method of the packet's type:
//
//	h, ok, err := codec.DecodeFixedHeader(in, version)
//	switch {
//	case err != nil: // close; in 5.0 send DISCONNECT with err's ReasonCode unless it is Silent
//	case !ok || len(in) < h.Size: // read more
//	case h.Type == codec.TypePublish:
//		err = publish.Decode(version, h.Flags, in[h.HeaderSize:h.Size])
//	}
//
// # Lifetime
//
// Decoded fields of type []byte are views of the body: they are valid as long as the body is, and must not be written to. Packet
// structs are meant to be reused: Decode sets every field and keeps the capacity of slices. After an error the fields are
// unspecified. Nothing in the package keeps a reference to its arguments, and all functions may be called concurrently as long
// as no two calls share a packet struct.
//
// # Encoding
//
// Append methods trust their struct: they write what is there in the form that the version has, leave out what it doesn't have,
// and check nothing. The caller sees to it that strings and binary data have at most 65,535 bytes (longer Properties are cut
// there) and that a packet's Remaining Length is at most [MaxRemainingLength].
//
// # Errors
//
// Every violation of the standard is a *[Error] that exists once, with the Reason Code to answer it with. Where the standard
// leaves the choice between Malformed Packet and Protocol Error to the reader, or allows both reactions, the code is the one
// which existing brokers send. MQTT 3.1 leaves many bits "not used": they are ignored in that version.
package codec
