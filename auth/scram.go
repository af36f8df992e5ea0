package auth

import (
	"context"

	"github.com/xdg-go/scram"

	"loopmq"
	"loopmq/metrics"
)

// methodSCRAM is the Authentication Method, as registered for SASL.
const methodSCRAM = "SCRAM-SHA-256"

// maxSCRAMMessage bounds a message of a client, whose nonce comes back in the answer.
const maxSCRAMMessage = 4096

// SCRAM is a Method for MQTT 5.0's enhanced authentication: client and broker prove
// to each other that they know a password, which doesn't travel. It knows the users
// of a PasswordFile whose hash is of SCRAMSHA256.
//
// CONNECT and the AUTH that begins a re-authentication bring the client's first
// message, or nothing, and are asked for it then; the CONNACK or the last AUTH
// brings the broker's proof.
type SCRAM struct {
	file *PasswordFile
}

var _ Conversation = (*SCRAM)(nil)

// NewSCRAM returns a SCRAM for the users of a file, also after its Reload.
func NewSCRAM(f *PasswordFile) *SCRAM { return &SCRAM{f} }

// Name returns "scram".
func (s *SCRAM) Name() string { return metrics.AuthScram.String() }

// Authenticate begins a conversation. Clients with another Authentication Method,
// or none, are left to the next Method.
func (s *SCRAM) Authenticate(ctx context.Context, r *loopmq.ConnectRequest) (Result, error) {
	if r.AuthenticationMethod != methodSCRAM {
		return Result{}, nil
	}
	server, err := scram.SHA256.NewServer(s.file.users.Load().credentials)
	if err != nil {
		return Result{}, err
	}
	c := server.NewConversation()
	if len(r.AuthenticationData) == 0 {
		return Result{Decision: Ask, Challenge: &loopmq.Challenge{State: c}}, nil
	}
	return s.Continue(ctx, r, c, r.AuthenticationData)
}

// Continue judges the client's next message. state is what the last Challenge had.
func (s *SCRAM) Continue(_ context.Context, r *loopmq.ConnectRequest, state any, data []byte) (Result, error) {
	c, ok := state.(*scram.ServerConversation)
	if !ok || c.Done() || len(data) > maxSCRAMMessage {
		return Result{Decision: Reject}, nil
	}
	answer, err := c.Step(string(data))
	switch user := c.Username(); {
	case err != nil, c.AuthzID() != "" && c.AuthzID() != user, r.Username != "" && r.Username != user:
		return Result{Decision: Reject}, nil
	case !c.Done():
		return Result{Decision: Ask, Challenge: &loopmq.Challenge{AuthenticationData: []byte(answer), State: c}}, nil
	case !c.Valid() || !s.file.users.Load().hasKeys(user): // it may have gone meanwhile
		return Result{Decision: Reject}, nil
	default:
		return Result{Decision: Accept, Identity: loopmq.Identity{Username: user, AuthenticationData: []byte(answer)}}, nil
	}
}

// credentials returns what the file has of a user. Who has no keys for SCRAM gets
// some that nobody can prove, like a user's: the salt of a name stays the same as
// long as the file does.
func (u *users) credentials(username string) (scram.StoredCredentials, error) {
	if h, ok := u.byName[username].(scramHash); ok {
		return scram.StoredCredentials(h), nil
	}
	factors := scram.KeyFactors{Salt: string(make([]byte, newSaltBytes)), Iters: newSCRAMIterations}
	if h, ok := u.like(username, u.scram).(scramHash); ok {
		factors = h.KeyFactors
	}
	salt := append(u.fake("salt "+username), u.fake("more salt "+username)...) // as much as a file may have
	factors.Salt = string(salt[:len(factors.Salt)])
	return scram.StoredCredentials{KeyFactors: factors, StoredKey: u.fake("stored " + username), ServerKey: u.fake("server " + username)}, nil
}

func (u *users) hasKeys(username string) bool {
	_, ok := u.byName[username].(scramHash)
	return ok
}
