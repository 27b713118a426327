package doctor

import (
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
)

// examineLeftovers names what backups and restores have left half made that were killed.
func (d *examination) examineLeftovers(name string) {
	store, ok := d.store.Below().(keystore.Backuper)
	if !ok {
		return
	}
	files, err := store.DeadDrafts()
	if err != nil {
		d.fail("store", name, fmt.Errorf("looking for what killed backups have left: %w", err))
	}
	for _, file := range files {
		d.advise("store", file, StatusWarning, "was left half made by a backup or restore that was killed",
			"the next backup removes it: pkcs11kms backup FILE")
	}
}
