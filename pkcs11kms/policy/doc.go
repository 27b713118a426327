// Package policy reads and evaluates the documents that say who may do what: key policies and IAM inline policies.
package policy
