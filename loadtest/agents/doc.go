// Package agents has several processes, on one host or on many, run a scenario together: each a share of the clients.
//
// An agent ([Serve], or [ServePipe] for a child process) waits for a coordinator ([Run]). The coordinator splits the scenario and hands
// each agent its share; the agents connect their clients and say when they have, the coordinator tells all of them to begin, and in the
// end merges what they found out. Who is lost on the way, is an error of the result: the others go on.
//
// # Protocol
//
// Over TCP both sides first prove that they know a token, by an HMAC over random bytes of both; the token itself isn't sent. What
// follows, the scenario and its password among it, isn't encrypted. Over the pipes of a child process there is no handshake. Then
// both sides send frames: a length of four bytes, and a message as JSON. Each side sends one a second at least, and takes the other
// for lost after [silenceMax] without any.
package agents
