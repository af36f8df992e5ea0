package storetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"loopmq/store"
)

// bans lists all bans by pages.
func (h *harness) bans(limit int) (all []store.Ban) {
	h.Helper()
	for after := ""; ; {
		page, err := h.s.Bans().List(h.Context(), after, limit)
		h.noError(err)
		if len(page) > limit {
			h.Fatalf("a page of %d has %d", limit, len(page))
		}
		all = append(all, page...)
		if len(page) < limit {
			return all
		}
		after = page[limit-1].Name()
	}
}

// sameBans compares bans whose times may be in different places, and are told by ms.
func (h *harness) sameBans(what string, got, want []store.Ban) {
	h.Helper()
	for i := range min(len(got), len(want)) {
		if got[i].Until.UnixMilli() == want[i].Until.UnixMilli() || got[i].Until.IsZero() && want[i].Until.IsZero() {
			got[i].Until = want[i].Until
		}
	}
	equal(h, what, got, want)
}

var banTests = []test{
	{"bans are listed in order, replaced and removed", func(h *harness) {
		ctx := h.Context()
		h.sameBans("none", h.bans(1), nil)
		var want []store.Ban
		for i := range 12 {
			b := store.Ban{Kind: "kind", Value: fmt.Sprintf("of/%c {x}", 'a'+i), Reason: "why it is\nbanned", Source: "operator"}
			if i%2 == 0 {
				b.Until = h.in((i + 1) * 10)
			}
			want = append(want, b)
		}
		for _, i := range []int{7, 3, 0, 11, 5, 1, 2, 10, 4, 9, 6, 8} {
			h.noError(h.s.Bans().Put(ctx, want[i], 12))
		}
		for _, limit := range []int{1, 5, 12, 100} {
			h.sameBans(fmt.Sprint("by ", limit), h.bans(limit), want)
		}
		h.isError("one too many", h.s.Bans().Put(ctx, store.Ban{Kind: "more", Value: "x"}, 12), store.ErrTooManyBans)
		want[3].Reason, want[3].Until = "", h.in(5)
		h.noError(h.s.Bans().Put(ctx, want[3], 12))
		h.sameBans("one replaced", h.bans(100), want)

		remove := func(name string, endedBy time.Time, removed bool) {
			h.Helper()
			got, err := h.s.Bans().Remove(ctx, name, endedBy)
			h.noError(err)
			equal(h, "removed "+name, got, removed)
		}
		remove("kind/nobody", time.Time{}, false)
		remove(want[1].Name(), time.Time{}, true)
		remove(want[1].Name(), time.Time{}, false)
		remove(want[0].Name(), h.in(9), false)
		remove(want[0].Name(), h.in(10), true)
		remove(want[5].Name(), h.in(1e6), false) // it has no end
		h.sameBans("two removed", h.bans(100), want[2:])
		h.noError(h.s.Bans().Put(ctx, store.Ban{Kind: "kind", Value: "new"}, 12))
		equal(h, "no limit of 0", len(h.bans(100)), 11)
	}},
	{"a ban has bounds", func(h *harness) {
		for what, b := range map[string]store.Ban{
			"value": {Kind: "k", Value: strings.Repeat("v", store.MaxBanValue)}, "reason": {Reason: strings.Repeat("r", store.MaxBanReason+1)},
			"kind": {Kind: "a/b"}, "source": {Source: "a b"},
		} {
			h.isError(what, h.s.Bans().Put(h.Context(), b, 1), store.ErrBanTooLarge)
		}
		largest := store.Ban{Kind: "k", Value: strings.Repeat("v", store.MaxBanValue-2), Reason: strings.Repeat("r", store.MaxBanReason)}
		h.noError(h.s.Bans().Put(h.Context(), largest, 1))
		h.sameBans("the largest", slices.Clone(h.bans(10)), []store.Ban{largest})
	}},
}
