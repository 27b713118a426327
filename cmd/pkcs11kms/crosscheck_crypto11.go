package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/ThalesIgnite/crypto11"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// The mechanisms by their numbers in PKCS#11 (CKM_SHA224_HMAC and so on), which crypto11 takes as they are.
var hmacMechanisms = map[types.MacAlgorithmSpec]int{
	types.MacAlgorithmSpecHmacSha224: 0x256,
	types.MacAlgorithmSpecHmacSha256: 0x251,
	types.MacAlgorithmSpecHmacSha384: 0x261,
	types.MacAlgorithmSpecHmacSha512: 0x271,
}

// secondOpinion makes the MACs of a job by crypto11. It is the only use of that library, and runs in a process of its
// own: crypto11 must own C_Initialize. It would choose the token by one of its names, and send the PIN to another one of that serial;
// so it is told the slot of the one token with all the names.
func secondOpinion(ctx context.Context, job crossJob) crossAnswer {
	at, err := job.Token.Slot(ctx)
	if err != nil {
		return crossAnswer{Error: err.Error()}
	}
	slot := int(at)
	token, err := crypto11.Configure(&crypto11.Config{Path: job.Token.Module, SlotNumber: &slot, Pin: job.PIN})
	if err != nil {
		return crossAnswer{Error: err.Error()}
	}
	var answer crossAnswer
	for _, key := range job.Keys {
		mac, err := crypto11MAC(token, key)
		if err != nil {
			answer.MACs = append(answer.MACs, crossMAC{Error: err.Error()})
			continue
		}
		answer.MACs = append(answer.MACs, crossMAC{MAC: mac})
	}
	if err := token.Close(); err != nil {
		return crossAnswer{Error: err.Error()}
	}
	return answer
}

func crypto11MAC(token *crypto11.Context, key crossKey) (mac []byte, err error) {
	// Sum panics when the token refuses.
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("panic: %v", reason)
		}
	}()
	object, err := token.FindKey(key.CKAID, nil)
	if err != nil {
		return nil, fmt.Errorf("finding the object: %w", err)
	}
	if object == nil {
		return nil, errors.New("finding the object: none has the CKA_ID " + hex.EncodeToString(key.CKAID))
	}
	hash, err := object.NewHMAC(hmacMechanisms[key.Algorithm], 0)
	if err != nil {
		return nil, err
	}
	if _, err := hash.Write(key.Message); err != nil {
		return nil, err
	}
	return hash.Sum(nil), nil
}
