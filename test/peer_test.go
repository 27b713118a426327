package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// playPeer opens the library and waits until it is told to begin. It makes keys, then is told the keys of all its peers and uses each of
// them. Its answers are that it is open, the list of its own keys, and how many of its peers' the token has not.
func playPeer(line []byte, rest io.Reader, answer *json.Encoder) (err error) {
	c, job, err := openLibrary(line)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	ctx, told := context.Background(), json.NewDecoder(rest)
	var begin bool
	if err := errors.Join(answer.Encode("open"), told.Decode(&begin)); err != nil {
		return err
	}
	var made []madeKey
	for range job.Keys {
		k, err := makePeerKey(ctx, c, job.KeySpec)
		if err != nil {
			return err
		}
		made = append(made, k)
	}
	if err := answer.Encode(made); err != nil {
		return err
	}
	var all []madeKey
	if err := told.Decode(&all); err != nil {
		return err
	}
	unseen := 0
	for i, k := range all {
		err := usePeerKey(ctx, c, k)
		own := slices.ContainsFunc(made, func(other madeKey) bool { return other.KeyID == k.KeyID })
		if _, unavailable := errors.AsType[*types.KeyUnavailableException](err); unavailable && !own {
			unseen++
		} else if err != nil {
			return fmt.Errorf("using key %d of %d: %w", i+1, len(all), err)
		}
	}
	return answer.Encode(unseen)
}

func makePeerKey(ctx context.Context, c *pkcs11kms.Client, spec types.KeySpec) (madeKey, error) {
	if spec == types.KeySpecHmac256 {
		return makeAndSign(ctx, c)
	}
	out, err := c.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeSignVerify})
	if err != nil {
		return madeKey{}, err
	}
	k := madeKey{KeyID: *out.KeyMetadata.KeyId, Message: []byte("signed by a peer"), Algorithm: algorithmsOf[spec][0]}
	k.MAC, err = signByPair(ctx, c, k)
	return k, err
}

// usePeerKey verifies what another process has made with a key, and makes it again.
func usePeerKey(ctx context.Context, c *pkcs11kms.Client, k madeKey) error {
	if k.Algorithm == "" {
		return useAgain(ctx, c, k)
	}
	again, err := signByPair(ctx, c, k)
	if err != nil {
		return err
	}
	for _, signature := range [][]byte{k.MAC, again} {
		in := &kms.VerifyInput{KeyId: &k.KeyID, Message: k.Message, SigningAlgorithm: k.Algorithm, Signature: signature}
		if _, err := c.Verify(ctx, in); err != nil {
			return err
		}
	}
	return nil
}

func signByPair(ctx context.Context, c *pkcs11kms.Client, k madeKey) ([]byte, error) {
	out, err := c.Sign(ctx, &kms.SignInput{KeyId: &k.KeyID, Message: k.Message, SigningAlgorithm: k.Algorithm})
	if err != nil {
		return nil, err
	}
	return out.Signature, nil
}
