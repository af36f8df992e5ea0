package codec

// AppendPingreq appends a PINGREQ (section 3.12). PINGREQ and PINGRESP have no body: [DecodeFixedHeader] has read all there is.
func AppendPingreq(dst []byte) []byte { return append(dst, byte(TypePingreq)<<4, 0) }

// AppendPingresp appends a PINGRESP (section 3.13).
func AppendPingresp(dst []byte) []byte { return append(dst, byte(TypePingresp)<<4, 0) }
