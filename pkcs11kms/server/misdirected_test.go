package server

import (
	"encoding/xml"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// A request for another service is refused in the form that its clients read, with what was asked for, and in the log too.
// The forms are those of the clients in test/clients.
func TestOtherServicesAreNamed(t *testing.T) {
	f := newFixture(t, nil)
	f.unauthenticated = rate.NewLimiter(rate.Inf, 1)
	r := f.run(t, Listen{})
	const (
		begin = `This endpoint answers AWS KMS only: `
		form  = "application/x-www-form-urlencoded"
		error = `<Code>InvalidAction</Code><Message>{{message}}</Message>`
		query = `<ErrorResponse><Error><Type>Sender</Type>` + error + `</Error><RequestId>{{uuid}}</RequestId></ErrorResponse>`
		ec2   = `<Response><Errors><Error>` + error + `</Error></Errors><RequestID>{{uuid}}</RequestID></Response>`
		s3    = `<Error>` + error + `<RequestId>{{uuid}}</RequestId></Error>`
		off   = ` Its operator can add the service to services in config.yaml.`
		json  = `{"__type":"UnknownOperationException","message":"{{message}}"}`
	)
	for name, tc := range map[string]struct {
		method, path, contentType, target, body, service string
		answer, message                                  string
	}{
		"STS": {"POST", "/", form + "; charset=utf-8", "", "Action=GetCallerIdentity&Version=2011-06-15", "sts",
			query, "GetCallerIdentity of sts is not here." + off},
		"form with more": {"POST", "/", form, "", "Version=2010-05-08&Action=CreateUser&UserName=" + strings.Repeat("x", 3*firstBody), "iam",
			query, "CreateUser of iam is not here." + off},
		"form, not signed":    {"POST", "/", form, "", "Action=ListUsers", "", query, "ListUsers is not here."},
		"form without action": {"POST", "/", form, "", "%zz", "sts", query, "this action of sts is not here." + off},
		"form, markup": {"POST", "/", form, "", url.Values{"Action": {"<a>&"}}.Encode(), "s<t>s",
			query, "this action is not here."},
		"query string": {"GET", "/?Action=ListQueues&Version=2012-11-05", "", "", "", "sqs",
			query, "ListQueues of sqs is not here."},
		"EC2": {"POST", "/", form, "", "Action=DescribeRegions&Version=2016-11-15", "ec2",
			ec2, "DescribeRegions of ec2 is not here."},
		"S3": {"GET", "/", "", "", "", "s3", s3, "GET / of s3 is not here."},
		"S3 bucket": {"PUT", "/bucket/key", "", "", "text", "s3",
			s3, "PUT /bucket/key of s3 is not here. Its path is /."},
		"Route 53": {"GET", "/2013-04-01/hostedzone", "", "", "", "route53",
			query, "GET /2013-04-01/hostedzone of route53 is not here. Its path is /."},
		"Lambda": {"GET", "/2015-03-31/functions/", "", "", "", "lambda",
			json, "GET /2015-03-31/functions/ of lambda is not here. Its path is /."},
		"DynamoDB": {"POST", "/", "application/x-amz-json-1.0", "DynamoDB_20120810.ListTables", "{}", "dynamodb",
			json, "DynamoDB_20120810.ListTables of dynamodb is not here."},
		"KMS elsewhere": {"POST", "/kms", keyManagement.codec.contentType, targetPrefix + "ListKeys", "{}", "kms",
			json, "POST /kms is not here. Its path is /."},
		"odd path": {"POST", "/%22%3C", keyManagement.codec.contentType, targetPrefix + "ListKeys", "{}", "kms",
			json, "POST this path is not here. Its path is /."},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(tc.method, r.url+tc.path, strings.NewReader(tc.body))
			require.NoError(t, err)
			for header, value := range map[string]string{"Content-Type": tc.contentType, "X-Amz-Target": tc.target} {
				if value != "" {
					req.Header.Set(header, value)
				}
			}
			if tc.service != "" {
				f.sign(t, req, tc.body, signing{service: tc.service})
			}
			got := f.send(t, req)
			require.Equal(t, 400, got.StatusCode)
			want := strings.Replace(tc.answer, "{{message}}", begin+tc.message, 1)
			wantType := keyManagement.codec.contentType
			if tc.answer != json {
				want, wantType = strings.TrimSuffix(xml.Header, "\n")+"\n"+want, "text/xml"
			}
			require.Regexp(t, pattern(want), got.body)
			require.Equal(t, wantType, got.Header.Get("Content-Type"))
			require.Eventually(t, func() bool {
				return strings.Contains(f.log.String(), got.Header.Get("X-Amzn-Requestid"))
			}, patience, 1e6)
		})
	}
	require.Contains(t, f.log.String(), `"reason":"This endpoint answers AWS KMS only: `)
}

// What names no other service is refused as by AWS, without a text.
func TestUnknownOperationsHaveNoText(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	for _, target := range []string{"", "TrentService.Nothing", "Nothing"} {
		req := f.request(t, r.url, "ListKeys", "{}")
		req.Header.Set("X-Amz-Target", target)
		require.Equal(t, `{"__type":"UnknownOperationException"}`, f.send(t, req).body, target)
	}
}
