package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/ThalesIgnite/crypto11"

	"github.com/pkcs11kms/bridge/softhsm"
)

// crypto11Job is what crypto11 does to a token. It needs a process of its own, as it must be the one that initialises the
// module.
type crypto11Job struct {
	Module, Serial, PIN string
	Make                []byte // CKA_ID and label of a key to make; empty for none
	Sign                []crypto11Sign
}

// crypto11Sign is one MAC to make; the answer is the list of MACs.
type crypto11Sign struct {
	ID        []byte
	Mechanism uint
	Message   []byte
}

// viaCrypto11 lets crypto11 make a key or MACs on a token.
func viaCrypto11(t *testing.T, tok softhsm.TestToken, job crypto11Job) (macs [][]byte) {
	t.Helper()
	job.Module, job.Serial, job.PIN = tok.Module, tok.Serial, tok.PIN()
	ask(t, tok.Env(), "crypto11", job, &macs)
	return macs
}

func playCrypto11(line []byte, _ io.Reader, answer *json.Encoder) (err error) {
	var job crypto11Job
	if err := json.Unmarshal(line, &job); err != nil {
		return err
	}
	ctx, err := crypto11.Configure(&crypto11.Config{Path: job.Module, TokenSerial: job.Serial, Pin: job.PIN})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ctx.Close()) }()
	if len(job.Make) > 0 {
		if _, err := ctx.GenerateSecretKeyWithLabel(job.Make, job.Make, 256, crypto11.CipherGeneric); err != nil {
			return err
		}
	}
	macs := [][]byte{}
	for _, s := range job.Sign {
		mac, err := signByCrypto11(ctx, s)
		if err != nil {
			return err
		}
		macs = append(macs, mac)
	}
	return answer.Encode(macs)
}

func signByCrypto11(ctx *crypto11.Context, s crypto11Sign) ([]byte, error) {
	key, err := ctx.FindKey(s.ID, nil)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, fmt.Errorf("finding the key with CKA_ID %x: none", s.ID)
	}
	h, err := key.NewHMAC(int(s.Mechanism), 0)
	if err != nil {
		return nil, err
	}
	if _, err := h.Write(s.Message); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
