package doctor

import (
	"crypto/fips140"
	"fmt"
	"runtime/debug"

	"github.com/pkcs11kms/bridge/keystore"
)

// FIPS140 tells whether this process is in FIPS 140-3 mode, and by which code: what Go computes, not what a token does.
type FIPS140 struct {
	Mode   string `json:"mode"`   // off, on, or only: what is not approved fails
	Module string `json:"module"` // of the Go Cryptographic Module, such as v1.0.0-c2097c7c; latest is Go's own source, never validated
}

// latest is what Go calls the cryptography of its own release, which is not a frozen version.
const latest = "latest"

// RunningFIPS140 tells it of this process.
func RunningFIPS140() FIPS140 {
	f := FIPS140{Mode: "off", Module: fips140.Version()}
	switch {
	case fips140.Enforced():
		f.Mode = "only"
	case fips140.Enabled():
		f.Mode = "on"
	}
	if info, ok := debug.ReadBuildInfo(); ok && f.Module != latest {
		for _, setting := range info.Settings {
			if setting.Key == "GOFIPS140" {
				f.Module = setting.Value // with the suffix that tells versions of one number apart
			}
		}
	}
	return f
}

// String says it in one line.
func (f FIPS140) String() string {
	if f.Mode == "off" {
		return "FIPS 140-3 mode: off"
	}
	return fmt.Sprintf("FIPS 140-3 mode: %s, Go Cryptographic Module %s", f.Mode, f.Module)
}

// examineMode warns of a mode in which no validated module works.
func (d *examination) examineMode() {
	d.report.FIPS140 = RunningFIPS140()
	if f := d.report.FIPS140; f.Mode != "off" && f.Module == latest {
		d.advise("fips140", "module", StatusWarning, "the cryptography of this build is that of its Go release, and not a frozen module: "+
			"no validation is of it", "use a program that \"make build-fips\" has built")
	}
}

// examineNotApproved tells of a key that the mode keeps from being used. Its object is not tried: that would be a use.
func (d *examination) examineNotApproved(record keystore.Key) {
	d.advise("key", record.ID, StatusWarning, fmt.Sprintf("%s, %s: not approved in FIPS 140-3 mode, so Sign and Verify are refused",
		record.Spec, record.State), "use another key; this one can still be read, disabled and deleted, and its public key read")
}
