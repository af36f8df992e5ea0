// Package chaos has what tests need that end processes at random: clients that
// connect again whatever happens, as MQTT has them do, and a [Ledger] of what they
// sent, had acknowledged and received, which says afterwards whether anything
// was lost, doubled or out of order.
package chaos
