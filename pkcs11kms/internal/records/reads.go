package records

import "github.com/pkcs11kms/bridge/keystore"

// reads are the records that the store is being asked for, each with those who ask. It is as large as the number of callers
// that wait for the store.
//
// A record that was dropped since a read of it began must not be kept by that read: it may be from before the change. Whoever
// begins after the drop sees the change.
type reads map[keystore.Ref]*read

// read is a moment of a record: all who began to read it since it was last dropped share one.
type read struct {
	callers int
	old     bool // the record was dropped
}

// begin begins a read, which must end.
func (rs reads) begin(ref keystore.Ref) *read {
	r := rs[ref]
	if r == nil {
		r = &read{}
		rs[ref] = r
	}
	r.callers++
	return r
}

// end ends a read, and tells whether its result is worth keeping.
func (rs reads) end(ref keystore.Ref, r *read) (current bool) {
	r.callers--
	if r.callers == 0 && !r.old {
		delete(rs, ref)
	}
	return !r.old
}

// outdate says that a record has changed.
func (rs reads) outdate(ref keystore.Ref) {
	if r := rs[ref]; r != nil {
		r.old = true
		delete(rs, ref)
	}
}

// outdateAll says that all records may have changed.
func (rs reads) outdateAll() {
	for ref := range rs {
		rs.outdate(ref)
	}
}
