package policy_test

import (
	"fmt"

	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// One key, two roles: the producer makes MACs, the consumer verifies them, and neither can do the other's work.
func Example() {
	key, err := policy.ParseKeyPolicy(`{
		"Version": "2012-10-17",
		"Statement": [
			{
				"Sid": "Produce",
				"Effect": "Allow",
				"Principal": {"AWS": "arn:aws:iam::111122223333:role/JwtProducer"},
				"Action": "kms:GenerateMac",
				"Resource": "*"
			},
			{
				"Sid": "Consume",
				"Effect": "Allow",
				"Principal": {"AWS": "arn:aws:iam::111122223333:role/JwtConsumer"},
				"Action": "kms:VerifyMac",
				"Resource": "*"
			}
		]
	}`)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, action := range []string{"kms:GenerateMac", "kms:VerifyMac"} {
		d := policy.Evaluate(policy.Request{
			Principal: policy.Principal{
				Account: "111122223333",
				ARN:     "arn:aws:iam::111122223333:role/JwtProducer",
				ID:      "AROAPRODUCER00000001",
			},
			Action:   action,
			Resource: "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
			Account:  "111122223333",
		}, policy.Policies{Key: key})
		fmt.Println(action, d.Allowed, d.Reason, d.Sid)
	}
	// Output:
	// kms:GenerateMac true AllowedByKeyPolicy Produce
	// kms:VerifyMac false NoIdentityAllow
}
