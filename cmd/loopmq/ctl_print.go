package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// column is a column of a table: its title, and the key of its value; without a key its
// value is the element.
type column struct {
	title, key string
	format     func(value any) string // nil: as it is
}

// list prints all elements of a list.
func (c *ctl) list(ctx context.Context, path string, query url.Values, columns ...column) error {
	if c.json {
		return c.api.pages(ctx, path, query, func(items []json.RawMessage) error {
			for _, item := range items {
				if err := c.print(item); err != nil {
					return err
				}
			}
			return nil
		})
	}
	titles := make([]string, len(columns))
	for i := range columns {
		titles[i] = columns[i].title
	}
	w := c.table(titles...)
	err := c.api.pages(ctx, path, query, func(items []json.RawMessage) error {
		for _, item := range items {
			if err := row(w, item, columns); err != nil {
				return err
			}
		}
		return w.Flush()
	})
	if err != nil { // A title above nothing says nothing.
		return err
	}
	return w.Flush()
}

func row(w *tabwriter.Writer, item json.RawMessage, columns []column) error {
	var values map[string]any
	if err := json.Unmarshal(item, &values); err != nil {
		return err
	}
	cells := make([]string, len(columns))
	for i := range columns {
		format := columns[i].format
		if format == nil {
			format = plain
		}
		var value any = values
		if key := columns[i].key; key != "" {
			value = values[key]
		}
		if cells[i] = format(value); cells[i] == "" {
			cells[i] = "-"
		}
	}
	_, err := fmt.Fprintln(w, strings.Join(cells, "\t"))
	return err
}

// show prints one element: a key a line, in the order of the answer.
func (c *ctl) show(ctx context.Context, path string) error {
	var item json.RawMessage
	if err := c.api.ask(ctx, http.MethodGet, path, nil, &item); err != nil {
		return err
	}
	if c.json {
		return c.print(item)
	}
	w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
	d := json.NewDecoder(bytes.NewReader(item))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		var v any
		if err := json.Unmarshal(value, &v); err != nil {
			return err
		}
		text := plain(v)
		switch v.(type) {
		case map[string]any, []any:
			text = printable(string(value))
		}
		if text != "" && text != "{}" {
			fmt.Fprintf(w, "%v\t%s\n", key, text)
		}
	}
	return w.Flush()
}

// print writes a value as one line of JSON.
func (c *ctl) print(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.stdout.Write(append(text, '\n'))
	return err
}

// plain writes a value of JSON for people.
func plain(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return printable(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return printable(fmt.Sprint(v))
}

// printable returns text that a terminal shows as it is: what clients choose for their
// names must not move its cursor.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	return strconv.Quote(s)
}

// age writes how long ago something was.
func age(v any) string {
	text, _ := v.(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return ""
	}
	return roughly(time.Since(at))
}

// offline writes how long a session has been offline. One that is connected again still
// says when its connection before ended.
func offline(session any) string {
	values, _ := session.(map[string]any)
	if values["connected"] == true {
		return ""
	}
	return age(values["disconnected_at"])
}

// roughly writes a duration in its two largest units.
func roughly(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "in " + roughly(-d)
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// yes writes true only.
func yes(v any) string {
	if v == true {
		return "yes"
	}
	return ""
}
