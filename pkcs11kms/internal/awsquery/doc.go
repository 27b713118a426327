// Package awsquery reads and writes AWS's query protocol, which IAM and STS speak: an input is the parameters of a form, an output or an
// error is XML. Inputs and outputs are structs whose exported fields have the names of the API's members.
//
//	call, err := awsquery.Parse(body)     // Action=ListUsers&Version=2010-05-08&MaxItems=10
//	err = call.Decode(&in)
//	text := awsquery.Encode(call.Action, namespace, requestID, out)
//
// It knows neither services nor keys.
package awsquery
