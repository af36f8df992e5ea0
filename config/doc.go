// Package config reads what an operator says of a broker: a YAML file, the
// variables LOOPMQ_… of the environment over it, and flags over those.
//
// Every key is declared once, in the table that the method keys of each section
// returns: its name, the field that it fills, its default, what is allowed, and
// what it means. Reading, checking, printing, comparing for a reload and the
// reference in docs/configuration.md go through that table, so a key that the
// reference doesn't have doesn't exist.
//
// The package holds plain values and knows nothing of the Broker; cmd/loopmq
// hands them on.
package config
