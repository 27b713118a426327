// Package server answers the AWS KMS API (awsJson1_1 over HTTP, signed by SigV4) from a Bridge. Run does all of it, with
// TLS, limits for slow clients and a graceful end:
//
//	s := server.New(bridge, server.Options{Logger: log})
//	err := s.Run(ctx, server.Listen{API: "127.0.0.1:4599", Admin: "127.0.0.1:4600"})
//
// A Server is an http.Handler too, for programs that have an HTTP server of their own; Admin is the handler of health and
// metrics. Such a program sets the limits for slow clients, and for connections, itself.
//
// The operations stand in one table (ops.go); an operation is added by one line there and its method of Client. All
// errors pass one place (errors.go). The server knows no PKCS#11, and the core knows no HTTP: a request is turned into a
// call of the Client of whoever signed it, so everything that holds for library calls holds here.
//
// # Connections
//
// Run counts the connections of both listeners (gate.go), so that descriptors are left for store, token and log. What there is
// for those who have proved nothing, connections and memory for bodies, is shared by their addresses (internal/fairshare):
// nobody can keep it from others. docs/server.md has the numbers.
//
// # Order of checks
//
// Operation known, body within its limit of 1 MiB, signature, syntax of the body, then the operation's own. So nothing is
// parsed for senders who are not known, and operations that are known and not done are refused without a look at the body.
//
// # Where the protocol's sources are silent
//
// Every error of the client is answered with status 400, as by AWS, but for a body over the limit, which is 413
// RequestEntityTooLargeException. An operation that does not end in time is DependencyTimeoutException, which SDKs repeat.
// The content type is not looked at. The text of an unexpected error never leaves the process: the log has it, under the
// request id of the answer.
//
// # The log
//
// One line for each request, with the access key and the key or alias that was asked for, and never with another member of
// the request. Lines about requests that nobody
// is known to have sent are limited to a few a second; the next one says how many were suppressed. Metrics count all. A
// client that has gone before its answer is RequestCanceled with the status 499, which nobody receives.
package server
