// Package opcuatest has OPC UA servers for tests, by node-opcua: one is a process that can be told to change values, to
// forget its sessions, and to start again. They end with their test, and with the process if that dies first.
//
// There is no way to run without node-opcua: a test that would be skipped where it is missing would prove nothing where it
// matters.
package opcuatest
