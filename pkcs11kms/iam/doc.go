// Package iam keeps the users and roles of an account, their policies, tags and access keys, and answers the operations of AWS IAM on
// them. A Client acts in the name of a Caller, in the Caller's account: every method is an operation of AWS IAM, decided by the
// caller's own policies on its iam: action, as AWS IAM decides it. The account's root may do everything.
//
//	client := bridge.IAM().As(bridge.Root())
//	made, err := client.CreatePrincipal(ctx, iam.PrincipalName{Type: keystore.PrincipalRole, Name: "JwtProducer"}, iam.PrincipalOptions{})
//	err = client.PutPrincipalPolicy(ctx, made.PrincipalName, "mac", document)
//	key, err := client.CreateAccessKey(ctx, made.PrincipalName)
//
// Users and roles have one set of methods: CreatePrincipal is CreateUser or CreateRole, by the type in the name. Errors are of
// *smithy.GenericAPIError with the codes of AWS IAM (NoSuchEntity, EntityAlreadyExists, DeleteConflict, LimitExceeded,
// MalformedPolicyDocument, InvalidInput, ValidationError, AccessDenied), or what store and token failed with.
//
// A Directory is what is below that: it tells who a Caller is and which access key is whose, and asks nobody for permission. It is for
// this module's other packages. It never sees a token: the secrets of access keys are made by a function that it is given.
//
// Access keys, callers and saved key policies are bound to the unique id of a principal, never to its name. So whatever was given to
// a principal ends with it, and a namesake made later begins with nothing.
package iam
