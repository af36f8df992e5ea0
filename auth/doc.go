// Package auth decides who may connect to a broker, and what they may do there.
//
// A [Chain] is a loopmq.Authenticator made of Methods, which are asked in order:
// each accepts a client, rejects it, or leaves it to the next. [PasswordFile]
// and [SCRAM] are Methods with a file of users; an [ACLFile] is a
// loopmq.Authorizer.
//
// What is read from files can be loaded again while clients connect: the new
// contents take effect as a whole, or, if anything is wrong with them, not at all.
//
// No password, token or hash is part of an error or a log line.
package auth
