package auth

import "loopmq/codec"

// Why a client is refused. Texts are for the log: they reach no client but as a
// Reason String, and say nothing that helps to guess.
var (
	errRejected    = codec.NewError(codec.BadUserNameOrPassword, "user name or password is not right")
	errNotKnown    = codec.NewError(codec.NotAuthorized, "nobody knows this client")
	errNoMethod    = codec.NewError(codec.BadAuthenticationMethod, "Authentication Method is not supported [MQTT-4.12.0-1]")
	errUnavailable = codec.NewError(codec.ServerUnavailable, "the client can't be authenticated now")
	errNotRenewed  = codec.NewError(codec.NotAuthorized, "re-authentication failed [MQTT-4.12.1-2]")
	errOtherUser   = codec.NewError(codec.NotAuthorized, "re-authentication as another user")
)
