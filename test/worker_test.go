package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// libraryJob names what a long-lived process that uses the library works on.
type libraryJob struct {
	StateDir string
	KeyID    string        // watcher: the key it uses
	Keys     int           // worker, peer: how many keys it makes
	KeySpec  types.KeySpec // peer: of which spec
}

// madeKey is a key that was acknowledged, and a MAC or signature made with it.
type madeKey struct {
	KeyID        string
	Message, MAC []byte
	Algorithm    types.SigningAlgorithmSpec // of a signature
}

// openLibrary opens the client of a job.
func openLibrary(line []byte) (c *pkcs11kms.Client, job libraryJob, err error) {
	if err := json.Unmarshal(line, &job); err != nil {
		return nil, job, err
	}
	c, err = openAt(job.StateDir, nil)
	return c, job, err
}

// openAt opens a client on a state directory, with a clock; nil: the machine's.
func openAt(stateDir string, now func() time.Time) (*pkcs11kms.Client, error) {
	cfg, err := statedir.Load(stateDir)
	if err != nil {
		return nil, err
	}
	cfg.Quotas.NoRates = true
	cfg.Now = now
	return statedir.New(context.Background(), cfg)
}

// untilEnd returns a context that ends with the input.
func untilEnd(rest io.Reader) context.Context {
	ctx, stop := context.WithCancel(context.Background())
	go func() { // ends with the input, and that with the process at the latest
		_, _ = io.Copy(io.Discard, rest)
		stop()
	}()
	return ctx
}

// playWorker makes keys one after the other, and signs and verifies with each of them again and again until its input ends.
// Its answers are the keys. No call of it may fail.
func playWorker(line []byte, rest io.Reader, answer *json.Encoder) (err error) {
	c, job, err := openLibrary(line)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	working := untilEnd(rest)
	ctx := context.Background() // what was begun is finished, so that every failure is one of the library
	var made []madeKey
	for working.Err() == nil {
		if len(made) < job.Keys {
			k, err := makeAndSign(ctx, c)
			if err != nil {
				return err
			}
			made = append(made, k)
			if err := answer.Encode(k); err != nil {
				return err
			}
		}
		for _, k := range made {
			if err := useAgain(ctx, c, k); err != nil {
				return err
			}
		}
	}
	return nil
}

func makeAndSign(ctx context.Context, c *pkcs11kms.Client) (madeKey, error) {
	out, err := c.CreateKey(ctx, createInput(types.KeySpecHmac256))
	if err != nil {
		return madeKey{}, err
	}
	return sign(ctx, c, aws.ToString(out.KeyMetadata.KeyId))
}

func sign(ctx context.Context, c *pkcs11kms.Client, keyID string) (madeKey, error) {
	k := madeKey{KeyID: keyID, Message: []byte("signed by a worker")}
	mac, err := c.GenerateMac(ctx, macInput(keyID, types.MacAlgorithmSpecHmacSha256, k.Message))
	if err != nil {
		return madeKey{}, err
	}
	k.MAC = mac.Mac
	return k, nil
}

func useAgain(ctx context.Context, c *pkcs11kms.Client, k madeKey) error {
	mac, err := c.GenerateMac(ctx, macInput(k.KeyID, types.MacAlgorithmSpecHmacSha256, k.Message))
	if err != nil {
		return err
	}
	if !bytes.Equal(mac.Mac, k.MAC) {
		return errors.New("making a MAC again: it differs")
	}
	_, err = c.VerifyMac(ctx, verifyInput(k.KeyID, types.MacAlgorithmSpecHmacSha256, k.Message, k.MAC))
	return err
}

// playWatcher uses one key until its input ends, and answers whenever what happens has changed: "served" or "disabled".
func playWatcher(line []byte, rest io.Reader, answer *json.Encoder) (err error) {
	c, job, err := openLibrary(line)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	watching := untilEnd(rest)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	last := ""
	for watching.Err() == nil {
		now, err := serves(c, job.KeyID)
		if err != nil {
			return err
		}
		if now != last {
			if err := answer.Encode(now); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-tick.C:
		case <-watching.Done():
		}
	}
	return nil
}

func serves(c *pkcs11kms.Client, keyID string) (string, error) {
	_, err := c.GenerateMac(context.Background(), &kms.GenerateMacInput{
		KeyId: aws.String(keyID), MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte("watched"),
	})
	if _, ok := errors.AsType[*types.DisabledException](err); ok {
		return "disabled", nil
	}
	if err != nil {
		return "", err
	}
	return "served", nil
}
