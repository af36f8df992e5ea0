// Package local keeps in memory what a store that one process has to itself need not
// keep on a disk: which consumers of outboxes live and what they have taken, who
// waits for news, who holds a lease. When the process ends all of that has ended.
package local
