// Package form checks the form of the inputs of AWS KMS: the constraints of the service model on each member, in the wording
// of the real service. [Check] does it for an input of the SDK's kms package. [Violations] collects what is wrong, for other
// inputs than those as well.
//
// The constraints stand in the tables of model.go, since the SDK for Go has none of them. They are those of the model that
// botocore carries (data/kms/2014-11-01/service-2.json); a test compares the two, and the names with the SDK.
package form
