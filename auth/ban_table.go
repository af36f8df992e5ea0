package auth

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"loopmq/metrics"
)

// banTable finds bans by what they ban.
type banTable struct {
	names     map[banName]Ban
	addresses map[netip.Prefix]Ban
	// lengths is how many networks have a number of bits: only these are looked for.
	lengths4 map[int]int
	lengths6 map[int]int
	bySource [metrics.NumBanSources]int
}

// banName is a kind, and a name.
type banName struct {
	kind BanKind
	name string
}

func newBanTable() *banTable {
	return &banTable{
		names: map[banName]Ban{}, addresses: map[netip.Prefix]Ban{}, lengths4: map[int]int{}, lengths6: map[int]int{},
	}
}

func (t *banTable) len() int { return len(t.names) + len(t.addresses) }

// add adds a ban that was checked, or replaces one.
func (t *banTable) add(ban Ban) {
	t.remove(ban.Kind, ban.Value)
	t.bySource[ban.Source]++
	if ban.Kind != BanAddress {
		t.names[banName{ban.Kind, ban.Value}] = ban
		return
	}
	p, _ := parsePrefix(ban.Value) // It was checked.
	t.addresses[p] = ban
	t.lengthsOf(p.Addr())[p.Bits()]++
}

func (t *banTable) get(kind BanKind, value string) (Ban, bool) {
	if kind != BanAddress {
		ban, ok := t.names[banName{kind, value}]
		return ban, ok
	}
	p, _ := parsePrefix(value)
	ban, ok := t.addresses[p]
	return ban, ok
}

func (t *banTable) remove(kind BanKind, value string) bool {
	ban, ok := t.get(kind, value)
	if !ok {
		return false
	}
	t.bySource[ban.Source]--
	if kind != BanAddress {
		delete(t.names, banName{kind, value})
		return true
	}
	p, _ := parsePrefix(value)
	delete(t.addresses, p)
	lengths := t.lengthsOf(p.Addr())
	if lengths[p.Bits()]--; lengths[p.Bits()] == 0 {
		delete(lengths, p.Bits())
	}
	return true
}

func (t *banTable) lengthsOf(a netip.Addr) map[int]int {
	if a.Is4() {
		return t.lengths4
	}
	return t.lengths6
}

// find returns the first ban that holds for a client.
func (t *banTable) find(clientID, username string, a netip.Addr, now time.Time) (Ban, bool) {
	if ban, ok := t.names[banName{BanClientID, clientID}]; ok && ban.holds(now) {
		return ban, true
	}
	if ban, ok := t.names[banName{BanUsername, username}]; ok && ban.holds(now) {
		return ban, true
	}
	if !a.IsValid() {
		return Ban{}, false
	}
	for bits := range t.lengthsOf(a) {
		p, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if ban, ok := t.addresses[p]; ok && ban.holds(now) {
			return ban, true
		}
	}
	return Ban{}, false
}

func (t *banTable) each(f func(Ban)) {
	for _, ban := range t.names {
		f(ban)
	}
	for _, ban := range t.addresses {
		f(ban)
	}
}

// expire removes what is over, and returns it.
func (t *banTable) expire(now time.Time) (over []Ban) {
	t.each(func(ban Ban) {
		if !ban.holds(now) {
			over = append(over, ban)
		}
	})
	for _, ban := range over {
		t.remove(ban.Kind, ban.Value)
	}
	return over
}

// parseBans reads the lines of a file. Bans that are over are left out as they are
// looked for.
func parseBans(path string, text []byte) ([]Ban, error) {
	p := problems{path: path}
	bans := map[banName]Ban{}
	eachLine(text, func(n int, line string) {
		line = strings.TrimLeft(line, blanks)
		if line == "" || line[0] == '#' {
			return
		}
		ban, err := parseBan(line)
		if err != nil {
			p.add(n, "%w", err)
			return
		}
		bans[banName{ban.Kind, ban.Value}] = ban
	})
	if err := p.err(); err != nil {
		return nil, err
	}
	return slices.Collect(maps.Values(bans)), nil
}

func parseBan(line string) (Ban, error) {
	kind, rest := word(line)
	ban := Ban{Kind: BanKind(kind), Source: metrics.BanFile}
	if strings.HasPrefix(rest, `"`) {
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return ban, fmt.Errorf("the quotes of the value don't end")
		}
		if ban.Value, err = strconv.Unquote(quoted); err != nil {
			return ban, fmt.Errorf("the quoted value can't be read")
		}
		rest = strings.TrimLeft(rest[len(quoted):], blanks)
	} else {
		ban.Value, rest = word(rest)
	}
	if until, after := word(rest); until == "until" {
		at, after := word(after)
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return ban, fmt.Errorf("until %q is not a time; allowed: such as 2026-12-31T00:00:00Z", at)
		}
		ban.Until, rest = t, after
	} else if after != "" {
		rest = until + " " + after
	}
	ban.Reason = rest
	return ban.checked()
}

// word returns the first word of a line, and what follows it.
func word(line string) (first, rest string) {
	i := strings.IndexAny(line, blanks)
	if i < 0 {
		return line, ""
	}
	return line[:i], strings.TrimLeft(line[i:], blanks)
}
