// Package opcuaserver shows topics to OPC UA clients, as a tree of variables, and publishes what they write.
//
// The server is a process of its own: clients that mean harm, or a fault of the codec, can end it and nothing else. [Server]
// is the part in the broker's process. It opens the listener, keeps the last values of topics, and starts the other part,
// [Serve], again whenever it ends. Both talk over a socket pair by net/rpc: the child asks who a user is and what the user may
// do, publishes in the user's name, and fetches what has changed. Nothing waits for it: a slow child sees the newest values.
//
// In the child the codec of messages and the cryptography of policies are the library's. Secure channels, sessions and
// services are this package's, since those of the library check neither who a client is nor how much it asks for.
// What reaches the codec has been looked through before (package wire), as the codec makes room for what a length claims.
package opcuaserver
