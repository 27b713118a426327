package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tenStatements is a key policy as people write them, whose last statement decides.
func tenStatements(tb testing.TB) *Document {
	var list []string
	for i := range 8 {
		list = append(list, fmt.Sprintf(`{"Sid": "role %d", "Effect": "Allow", "Principal": {"AWS": "AROAROLE00000000000%d"},
			"Action": ["kms:DescribeKey", "kms:VerifyMac"], "Resource": "*"}`, i, i))
	}
	list = append(list,
		`{"Sid": "no plain HTTP", "Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*",
			"Condition": {"Bool": {"aws:SecureTransport": "false"}, "NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}`,
		`{"Sid": "produce", "Effect": "Allow", "Principal": {"AWS": "AROAPRODUCER00000001"}, "Action": ["kms:DescribeKey", "kms:GenerateMac"],
			"Resource": "*",
			"Condition": {"StringEquals": {"kms:MacAlgorithm": "HMAC_SHA_256"}, "StringLike": {"kms:RequestAlias": "alias/jwt/*"}}}`)
	d, err := ParseKeyPolicy(`{"Version": "2012-10-17", "Statement": [` + strings.Join(list, ",") + `]}`)
	require.NoError(tb, err)
	return d
}

func producerRequest() Request {
	return Request{Principal: callers["producer"], Action: "kms:GenerateMac", Resource: keyARN, Account: "111122223333", Context: keys{
		"aws:securetransport": {"true"}, "aws:sourceip": {"10.1.2.3"},
		"kms:macalgorithm": {"HMAC_SHA_256"}, "kms:requestalias": {"alias/jwt/current"},
	}}
}

func TestTenStatements(t *testing.T) {
	p, r := Policies{Key: tenStatements(t)}, producerRequest()
	require.Equal(t, Decision{Allowed: true, Reason: AllowedByKeyPolicy, Statement: 9, Sid: "produce", ByKey: true}, Evaluate(r, p))
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { Evaluate(r, p) }), 1.0)
}

func BenchmarkEvaluateTenStatements(b *testing.B) {
	p, r := Policies{Key: tenStatements(b)}, producerRequest()
	b.ReportAllocs()
	for b.Loop() {
		if !Evaluate(r, p).Allowed {
			b.Fatal("denied")
		}
	}
}

// BenchmarkEvaluateTenDelegations has ten statements that all reach the caller, then the caller's inline policy.
func BenchmarkEvaluateTenDelegations(b *testing.B) {
	statement := `{"Effect": "Allow", "Principal": {"AWS": "111122223333"}, "Action": ["kms:DescribeKey", "kms:VerifyMac"], "Resource": "*"},`
	key, err := ParseKeyPolicy(`{"Version": "2012-10-17", "Statement": [` + strings.Repeat(statement, 9) +
		strings.TrimSuffix(strings.Replace(statement, "kms:VerifyMac", "kms:*", 1), ",") + `]}`)
	require.NoError(b, err)
	inline, err := ParseIdentityPolicy(`{"Version": "2012-10-17",
		"Statement": {"Effect": "Allow", "Action": "kms:GenerateMac", "Resource": "arn:aws:kms:*:*:key/*"}}`)
	require.NoError(b, err)
	p, r := Policies{Key: key, Identity: []Named{{"mac", inline}}}, producerRequest()
	b.ReportAllocs()
	for b.Loop() {
		if Evaluate(r, p).Reason != AllowedByIdentityPolicy {
			b.Fatal("not by the inline policy")
		}
	}
}

func BenchmarkParseTenStatements(b *testing.B) {
	text := tenStatements(b).Text()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseKeyPolicy(text); err != nil {
			b.Fatal(err)
		}
	}
}
