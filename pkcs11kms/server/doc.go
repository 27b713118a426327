// Package server answers the AWS KMS API (awsJson1_1 over HTTP, signed by SigV4) from a Bridge. It is an http.Handler:
//
//	s := server.New(bridge, server.Options{Logger: log})
//	api := &http.Server{Addr: "127.0.0.1:4599", Handler: s, ReadTimeout: 10 * time.Second}
//	admin := &http.Server{Addr: "127.0.0.1:4600", Handler: s.Admin()}
//
// The operations stand in one table (ops.go); an operation is added by one line there and its method of Client. All
// errors pass one place (errors.go). The server knows no PKCS#11, and the core knows no HTTP: a request is turned into a
// call of the Client of whoever signed it, so everything that holds for library calls holds here.
//
// Order of checks: operation known, body within its limit, signature, syntax of the body, then the operation's own.
package server
