package redisstore

import (
	"fmt"
	"strconv"
	"strings"

	"loopmq/store"
)

// streamID writes a place in a stream as Redis does: <generation>-<seq>.
func streamID(n store.Number) string {
	b := make([]byte, 0, 32)
	b = strconv.AppendUint(b, n.Generation, 10)
	b = append(b, '-')
	return string(strconv.AppendUint(b, n.Seq, 10))
}

// parseStreamID reads what streamID wrote.
func parseStreamID(s string) (store.Number, error) {
	generation, seq, _ := strings.Cut(s, "-")
	g, err := strconv.ParseUint(generation, 10, 64)
	if err != nil {
		return store.Number{}, fmt.Errorf("stream id %q: %w", s, err)
	}
	n, err := strconv.ParseUint(seq, 10, 64)
	if err != nil {
		return store.Number{}, fmt.Errorf("stream id %q: %w", s, err)
	}
	return store.Number{Generation: g, Seq: n}, nil
}

// streamEntry is one entry as XRANGE and XREAD answer it, in commands and scripts:
// its fields and their values in turn.
type streamEntry struct {
	id     store.Number
	fields []string
}

// parseEntries reads the entries of one stream. An entry without fields was deleted
// and is passed over.
func parseEntries(reply any) ([]streamEntry, error) {
	list, _ := reply.([]any)
	entries := make([]streamEntry, 0, len(list))
	for _, item := range list {
		pair, _ := item.([]any)
		if len(pair) != 2 {
			return nil, fmt.Errorf("stream entry %v: not an id and its fields", item)
		}
		text, _ := pair[0].(string)
		id, err := parseStreamID(text)
		if err != nil {
			return nil, err
		}
		values, _ := pair[1].([]any)
		if len(values) == 0 {
			continue
		}
		fields := make([]string, len(values))
		for i, v := range values {
			fields[i], _ = v.(string)
		}
		entries = append(entries, streamEntry{id, fields})
	}
	return entries, nil
}
