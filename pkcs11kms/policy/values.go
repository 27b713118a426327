package policy

import (
	"cmp"
	"encoding/base64"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxAtom is longer than any date or address, in bytes.
const maxAtom = 64

// ordered is a type of values that have an order: numbers and dates. A test holds values and no functions, so that two
// documents can be compared.
type ordered[T any] interface {
	parse(s string) (T, bool)
	compare(other T) int
}

type orderTest[T ordered[T]] struct {
	want   order
	values []T
}

func (t *orderTest[T]) fits(e *evaluation, value string) verdict {
	var kind T
	got, ok := kind.parse(value)
	if !ok {
		return unknown
	}
	return anyOf(e, t.values, func(want *T) verdict { return verdictOf(t.want.has(got.compare(*want))) })
}

func compileNumeric(want order) compileValues {
	return compileOrder[number](want, "is no number of at most 15 digits")
}

func compileDate(want order) compileValues {
	return compileOrder[moment](want, "is no date such as 2026-01-31T12:00:00Z and no seconds since 1970")
}

// compileOrder takes the values as strings or as JSON numbers.
func compileOrder[T ordered[T]](want order, complaint string) compileValues {
	return func(c *compiler, n *node, path string, cond *condition) error {
		t := &orderTest[T]{want: want}
		cond.test = t
		return c.values(n, path, aNumber, func(item *node, path string) error {
			var kind T
			value, ok := kind.parse(item.text)
			if !ok {
				return c.errorf(item, path, "%s %s", excerpt(item.text), complaint)
			}
			t.values = append(t.values, value)
			return nil
		})
	}
}

type number float64

func (n number) compare(other number) int { return cmp.Compare(n, other) }

// numberPattern: integers and decimals of at most 15 digits, which a float64 tells apart exactly.
var numberPattern = regexp.MustCompile(`^-?[0-9]{1,15}(\.[0-9]{1,15})?$`)

func (number) parse(s string) (number, bool) {
	const maxNumber = 16 // bytes of a point and 15 digits, without the sign
	if len(strings.TrimPrefix(s, "-")) > maxNumber || !numberPattern.MatchString(s) {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return number(f), err == nil
}

type moment struct{ time.Time }

func (m moment) compare(other moment) int { return m.Compare(other.Time) }

// epochPattern: from 1973 on. Eight digits might be a day, four a year.
var epochPattern = regexp.MustCompile(`^[0-9]{9,12}$`)

// parse reads the forms of ISO 8601 that have no second reading, or seconds since 1970. A time without a zone is no
// moment.
func (moment) parse(s string) (moment, bool) {
	if len(s) > maxAtom {
		return moment{}, false
	}
	if epochPattern.MatchString(s) {
		seconds, err := strconv.ParseInt(s, 10, 64)
		return moment{time.Unix(seconds, 0)}, err == nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return moment{t}, true
		}
	}
	return moment{}, false
}

// literalTest compares texts that have one form only: true and false, and strict base64.
type literalTest []string

func (t literalTest) fits(e *evaluation, value string) verdict {
	if !e.spend(len(t)) {
		return unknown
	}
	return verdictOf(slices.Contains(t, value))
}

func compileBool(c *compiler, n *node, path string, cond *condition) error {
	var t literalTest
	err := c.values(n, path, aBool, func(item *node, path string) error {
		if item.text != "true" && item.text != "false" {
			return c.errorf(item, path, "want true or false, not %s", excerpt(item.text))
		}
		t = append(t, item.text)
		return nil
	})
	cond.test = t
	return err
}

func compileBinary(c *compiler, n *node, path string, cond *condition) error {
	var t literalTest
	err := c.values(n, path, aString, func(item *node, path string) error {
		if b, err := base64.StdEncoding.Strict().DecodeString(item.text); err != nil || base64.StdEncoding.EncodeToString(b) != item.text {
			return c.errorf(item, path, "not base64")
		}
		t = append(t, item.text)
		return nil
	})
	cond.test = t
	return err
}

func compileNull(c *compiler, n *node, path string, cond *condition) error {
	cond.null = true
	cond.absent = no
	return c.values(n, path, aBool, func(item *node, path string) error {
		switch item.text {
		case "true":
			cond.absent = yes
		case "false":
			cond.present = yes
		default:
			return c.errorf(item, path, "want true or false, not %s", excerpt(item.text))
		}
		return nil
	})
}

type ipTest []netip.Prefix

func (t ipTest) fits(e *evaluation, value string) verdict {
	if len(value) > maxAtom {
		return unknown
	}
	addr, err := netip.ParseAddr(value)
	if err != nil {
		return unknown
	}
	addr = addr.Unmap().WithZone("")
	return anyOf(e, t, func(p *netip.Prefix) verdict {
		return verdictOf(p.Contains(addr))
	})
}

func compileIP(c *compiler, n *node, path string, cond *condition) error {
	var t ipTest
	err := c.values(n, path, aString, func(item *node, path string) error {
		p, ok := parsePrefix(item.text)
		if !ok {
			return c.errorf(item, path, "%s is no address and no range such as 203.0.113.0/24", excerpt(item.text))
		}
		t = append(t, p)
		return nil
	})
	cond.test = t
	return err
}

// parsePrefix reads an address or a range in CIDR form. Both ways to write an IPv4 address are the same address.
func parsePrefix(s string) (netip.Prefix, bool) {
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, false
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, true
}
