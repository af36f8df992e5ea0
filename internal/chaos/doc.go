// Package chaos has what tests need that end processes at random: clients that
// connect again whatever happens, as MQTT has them do, a [Link] that can be cut, and a
// [Ledger] of what was sent, acknowledged and received, which says afterwards whether
// anything was lost, doubled or out of order.
package chaos
