package metrics

import "fmt"

// AdminReason says why a request to the admin listener was refused.
type AdminReason uint8

// The reasons. Each is a value of the label `reason`.
const (
	// AdminCredentials: no token, a wrong one, or a certificate without a role.
	AdminCredentials AdminReason = iota
	// AdminRole: the role read, where it takes write.
	AdminRole
	// AdminRate: too many wrong tokens came from the address.
	AdminRate
	// AdminHost: a Host header that isn't the listener's, as when a page of another
	// site has its own name resolve to a loopback address.
	AdminHost
	// AdminOrigin: a page of another site asks for a change.
	AdminOrigin

	// NumAdminReasons is the number of reasons.
	NumAdminReasons = int(iota)
)

var adminReasons = [NumAdminReasons]string{
	AdminCredentials: "credentials",
	AdminRole:        "role",
	AdminRate:        "rate",
	AdminHost:        "host",
	AdminOrigin:      "origin",
}

// String returns the value of the label, such as "rate". It doesn't allocate.
func (r AdminReason) String() string { return label(adminReasons[:], uint8(r)) }

// adminFamilies are the names of what the admin listener counts.
var adminFamilies = []Family{
	{
		"loopmq_admin_refused_total", TypeCounter, "reason",
		"Requests to the admin listener that were refused, by reason.",
		func(s *Set, name string) {
			for r := range s.AdminRefused {
				s.AdminRefused[r] = s.vm.NewCounter(fmt.Sprintf("%s{reason=%q}", name, AdminReason(r)))
			}
		},
	},
}
