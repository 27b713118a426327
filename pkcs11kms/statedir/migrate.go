package statedir

import (
	"context"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// Migrate brings the store to the version of this program, as sqlite.Migrate does, and records that where there is something to do: without
// a record nothing is changed.
func (cfg Config) Migrate(ctx context.Context) (done sqlite.Migrated, err error) {
	end := func(err error) error { return err }
	done, err = sqlite.Migrate(ctx, cfg.StorePath, sqlite.Options{Logger: cfg.Logger, Migrating: func(from, to int) error {
		audited, err := cfg.Audited(ctx, "MigrateStore", map[string]any{"fromVersion": from, "toVersion": to})
		if err == nil {
			end = audited
		}
		return err
	}})
	return done, end(err)
}
