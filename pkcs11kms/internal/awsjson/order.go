package awsjson

import (
	"reflect"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// recordedOrder holds the order in which the real service was seen to write the members of a structure, where that is
// not the order of the SDK's fields. Members not named here follow in the order of the fields. No client may depend on
// it; it is for people and scripts that compare raw bodies.
var recordedOrder = map[reflect.Type][]string{
	reflect.TypeFor[types.KeyMetadata](): {
		"AWSAccountId", "KeyId", "Arn", "CreationDate", "Enabled", "Description", "KeyUsage", "KeyState", "Origin",
		"KeyManager", "CustomerMasterKeySpec", "KeySpec", "MacAlgorithms", "SigningAlgorithms", "MultiRegion",
	},
	reflect.TypeFor[kms.VerifyMacOutput](): {"KeyId", "MacValid", "MacAlgorithm"},
}
