package codec

// Auth is AUTH, a step of an extended authentication (section 3.15), in 5.0 only.
type Auth struct {
	ReasonCode ReasonCode
	Properties Properties
}

// Decode reads the body of an AUTH. Only an empty body may do without an Authentication Method, and means Success.
func (a *Auth) Decode(v Version, flags byte, body []byte) error {
	if !flagsAllowed(v, TypeAuth, flags) {
		return flagsError(v, TypeAuth, flags)
	}
	err := decodeReason(&a.ReasonCode, &a.Properties, v, TypeAuth, body)
	if err == nil && len(body) > 0 && !a.Properties.Has(PropAuthenticationMethod) {
		err = ErrAuthenticationMethodMissing
	}
	return err
}

// Append appends the packet in its shortest form.
func (a *Auth) Append(dst []byte, v Version) []byte {
	return appendReason(dst, a.ReasonCode, &a.Properties, v, TypeAuth)
}

// Size is the number of bytes that Append writes.
func (a *Auth) Size(v Version) int {
	return packetSize(reasonSize(a.ReasonCode, &a.Properties, v, TypeAuth))
}
