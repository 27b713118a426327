package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// mostLogBytes is how large an audit log may be, as its files are, for an examination to read it. Closed files are compressed, to about a
// tenth, and all are read twice.
const mostLogBytes = 256 << 20

const verifyStoreCommand = "pkcs11kms audit verify --store"

// compareLog compares the store, which is unlocked, with what its audit log says that was written last. Records whose seals are not right
// have been named.
func (d *examination) compareLog(ctx context.Context, name string) {
	log, ok := d.cfg.Audit.(interface{ Directory() string })
	if !ok {
		return
	}
	size, err := audit.Size(log.Directory())
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && size == 0:
		return // there is no log yet, which is told
	case err == nil && size > mostLogBytes:
		d.add("store", name, StatusOK, fmt.Sprintf("not compared with its audit log, of %d MiB: that takes its time, and %s does it",
			size>>20, verifyStoreCommand))
		return
	}
	var found *audit.Comparison
	if err == nil {
		found, err = d.compared(ctx, log.Directory())
	}
	if err != nil {
		d.advise("store", name, StatusWarning, "not compared with its audit log: "+err.Error(), "try that by itself: "+verifyStoreCommand)
		return
	}
	notes := append([]string{fmt.Sprintf("was compared with what its audit log says was written last (records: %d)", found.Compared)},
		found.Notes...)
	d.add("store", name, StatusOK, strings.Join(notes, "; "))
	for _, problem := range found.Problems {
		d.advise("store", name, StatusError, "by its audit log, "+problem, "see what was changed, and when: "+verifyStoreCommand+"\n"+
			"It is not what this program wrote last: restore the store from a backup, or see what it holds, and have\n"+
			"all of it sealed anew as it is: "+keyring.ResealCommand)
	}
}

// compared compares by the public keys that the store names. Checkpoints that an HMAC key has signed do not count: audit verify asks the
// token for those.
func (d *examination) compared(ctx context.Context, dir string) (*audit.Comparison, error) {
	public, err := keyring.AuditPublicKeys(ctx, d.store, d.regions())
	if err != nil {
		return nil, err
	}
	text := strings.Join(slices.Collect(maps.Values(public)), "")
	var check func([]byte, audit.Signature) error
	if text != "" {
		keys, err := audit.ParseSealKeys([]byte(text))
		if err != nil {
			return nil, err
		}
		check = keys.Check
	}
	return audit.CompareStore(dir, check, func() (audit.StoredRecords, error) { return d.store.Stored(ctx) })
}
