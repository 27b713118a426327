package iam

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// The quotas of managed policies.
const (
	maxPolicies        = 1500
	maxPolicyVersions  = 5
	maxAttached        = 10
	maxManagedPolicy   = 6144 // characters besides blanks
	maxPolicyNameBytes = 128
)

// Policy is a managed policy as AWS IAM returns it, without its documents.
type Policy struct {
	Name, ID, ARN string
	PolicyOptions
	DefaultVersion  string // such as v1
	AttachmentCount int
	Created         time.Time // UTC, whole seconds
	Updated         time.Time // when it got its newest version
}

// PolicyOptions is what a managed policy may have from the beginning.
type PolicyOptions struct {
	Path        string         // begins and ends with a slash; empty: /
	Description string         // up to 1,000 characters
	Tags        []keystore.Tag // ordered by key; at most 50
}

// PolicyVersion is one version of a managed policy.
type PolicyVersion struct {
	ID        string // such as v1
	IsDefault bool
	Created   time.Time
	Document  string // empty in lists, and where one was made
}

// shown is a managed policy as the audit log shows what was made.
func (p Policy) shown() map[string]any {
	return map[string]any{"policyName": p.Name, "policyId": p.ID, "arn": p.ARN, "path": p.Path, "defaultVersionId": p.DefaultVersion,
		"createDate": p.Created}
}

func (v PolicyVersion) shown() map[string]any {
	return map[string]any{"versionId": v.ID, "isDefaultVersion": v.IsDefault, "createDate": v.Created}
}

var (
	policyPathPattern   = regexp.MustCompile(`^(/[A-Za-z0-9.,+@=_-]+)*/$`)
	policyPrefixPattern = regexp.MustCompile(`^/[A-Za-z0-9.,+@=_/-]*$`)
	versionPattern      = regexp.MustCompile(`^v[1-9][0-9]*(\.[A-Za-z0-9-]*)?$`)
)

func (o PolicyOptions) check() error {
	var v form.Violations
	v.Text("path", o.Path, 1, 512, policyPathPattern)
	v.Hidden("description", o.Description, 0, 1000, nil)
	checkTags(&v, o.Tags)
	return invalid(v)
}

// checkManaged checks the document of a managed policy.
func checkManaged(document string) error {
	var v form.Violations
	v.Hidden("policyDocument", document, 1, policy.MaxCharacters, form.PolicyText)
	if err := invalid(v); err != nil {
		return err
	}
	if _, err := policy.ParseIdentityPolicy(document); err != nil {
		return failure(malformedPolicyDocument, "%v", err)
	}
	if policyLength(document) > maxManagedPolicy {
		return quotaExceeded("PolicySize", maxManagedPolicy)
	}
	return nil
}

func checkPolicyARN(arn string) error {
	var v form.Violations
	v.Text("policyArn", arn, 20, 2048, nil)
	if err := invalid(v); err != nil {
		return err
	}
	if parts := strings.SplitN(arn, ":", 6); len(parts) != 6 || parts[0] != "arn" || !strings.HasPrefix(parts[5], "policy/") {
		return failure(validationError, "ARN %s is not valid.", arn)
	}
	return nil
}

func checkVersion(id string) error {
	var v form.Violations
	v.Text("versionId", id, 1, 128, versionPattern)
	return invalid(v)
}

func noSuchManagedPolicy(arn string) error {
	return failure(noSuchEntity, "Policy %s was not found.", arn)
}

func notAttachable(what string) error {
	return failure(noSuchEntity, "Policy %s does not exist or is not attachable.", what)
}

func noSuchVersion(arn, id string) error {
	return failure(noSuchEntity, "Policy %s version %s does not exist or is not attachable.", arn, id)
}

func (d *Directory) policyARN(p keystore.ManagedPolicy) string {
	return d.arn(p.Account, "policy"+p.Path+p.Name)
}

func versionID(number int) string { return "v" + strconv.Itoa(number) }

// versionNumber is the number in a version id; 0 for one that no version has.
func versionNumber(id string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(id, "v"))
	if err != nil || versionID(n) != id {
		return 0
	}
	return n
}

// findPolicy reads the managed policy of the caller's account that has exactly this ARN, past the cache; keystore.ErrNotFound when there is
// none, as for the policies of AWS.
func (c *Client) findPolicy(ctx context.Context, arn string) (keystore.ManagedPolicy, uint64, error) {
	name := arn[strings.LastIndexByte(arn, '/')+1:]
	value := keystore.ManagedPolicyValue(c.caller.account, cmp.Or(name, "/"))
	recs, err := c.dir.cfg.Store.Lookup(ctx, keystore.IndexPolicyName, value, keystore.Ref{}, 1)
	if err != nil {
		return keystore.ManagedPolicy{}, 0, err
	}
	if len(recs) == 0 {
		return keystore.ManagedPolicy{}, 0, keystore.ErrNotFound
	}
	record, err := keystore.DecodeManagedPolicy(recs[0])
	if err == nil && c.dir.policyARN(record) != arn {
		err = keystore.ErrNotFound
	}
	return record, recs[0].Version, err
}

// aboutPolicy returns what finds a managed policy by its ARN.
func (c *Client) aboutPolicy(arn string, missing func(string) error) func(context.Context) (subject, error, error) {
	return func(ctx context.Context) (subject, error, error) {
		record, version, err := c.findPolicy(ctx, arn)
		s := subject{arn: arn, shown: "policy " + arn}
		if errors.Is(err, keystore.ErrNotFound) {
			return s, missing(arn), nil
		}
		s.policy, s.policyVersion = record, version
		return s, nil, err
	}
}

func (c *Client) describePolicy(ctx context.Context, record keystore.ManagedPolicy) (Policy, error) {
	counter, _, err := c.membersOf(ctx, record.ID)
	return Policy{Name: record.Name, ID: record.ID, ARN: c.dir.policyARN(record),
		PolicyOptions:  PolicyOptions{Path: record.Path, Description: record.Description, Tags: record.Tags},
		DefaultVersion: versionID(record.Default), AttachmentCount: counter.N, Created: record.Created, Updated: record.Updated}, err
}

// CreatePolicy makes a managed policy, whose first version is the document. EntityAlreadyExists when the name is taken, in whatever case;
// LimitExceeded beyond 1,500 policies or 6,144 characters besides blanks. (CreatePolicy)
func (c *Client) CreatePolicy(ctx context.Context, name, document string, options PolicyOptions) (made Policy, err error) {
	options.Path = cmp.Or(options.Path, "/")
	req := request{
		input: input{"policyName": name, "policyDocument": document, "path": options.Path, "description": options.Description,
			"tags": options.Tags},
		form:  cmp.Or(checkName("policyName", name, maxPolicyNameBytes), options.check(), checkManaged(document)),
		given: RequestTags(options.Tags),
		find: func(context.Context) (s subject, missing, err error) {
			return subject{arn: c.dir.arn(c.caller.account, "policy"+options.Path+name), shown: "policy " + name}, nil, nil
		},
	}
	err = c.perform(ctx, ops.CreatePolicy, req, func(ctx context.Context, x *call, _ subject) error {
		made, err = x.createPolicy(ctx, name, document, options)
		x.output = map[string]any{"policy": made.shown()}
		return err
	})
	return answered(made, err)
}

func (c *call) createPolicy(ctx context.Context, name, document string, options PolicyOptions) (Policy, error) {
	tags, err := withPolicyTags(nil, options.Tags)
	if err != nil {
		return Policy{}, err
	}
	now := c.Now().UTC().Truncate(time.Second)
	record := keystore.ManagedPolicy{
		Account: c.caller.account, ID: keystore.ManagedPolicyID(randomBase32(keystore.PrincipalIDLength)),
		Name: name, Path: options.Path, Description: options.Description, Created: now, Updated: now, Tags: tags,
		Revision: 1, Default: 1, Last: 1, Versions: []keystore.PolicyVersion{{Number: 1, Created: now, Document: document}},
	}
	counter, err := c.count(ctx, keystore.CounterPolicies, 1, "PoliciesPerAccount", maxPolicies)
	if err != nil {
		return Policy{}, err
	}
	err = c.commitPolicy(ctx, record, 0, counter)
	if errors.Is(err, keystore.ErrExists) {
		err = failure(entityAlreadyExists, "A policy called %s already exists. Duplicate names are not allowed.", name)
	}
	if err != nil {
		return Policy{}, err
	}
	return c.describePolicy(ctx, record)
}

// commitPolicy writes a managed policy's record, which must have the version, in one batch with more.
func (c *call) commitPolicy(ctx context.Context, record keystore.ManagedPolicy, version uint64, more ...keystore.Change) error {
	put := record.Put(version)
	if len(put.Value) > keystore.MaxValue { // blanks, which the quota does not count
		return failure(limitExceeded, "The policy with its versions exceeds the maximum size of %d bytes.", keystore.MaxValue)
	}
	return c.commit(ctx, append(more, put)...)
}

// GetPolicy returns a managed policy, or NoSuchEntity. (GetPolicy)
func (c *Client) GetPolicy(ctx context.Context, arn string) (found Policy, err error) {
	err = c.readPolicy(ctx, ops.GetPolicy, arn, input{}, nil, func(ctx context.Context, record keystore.ManagedPolicy) error {
		found, err = c.describePolicy(ctx, record)
		return err
	})
	return answered(found, err)
}

// readPolicy makes a call that reads the record of a managed policy.
func (c *Client) readPolicy(ctx context.Context, op *ops.Operation, arn string, in input, wrong error,
	use func(context.Context, keystore.ManagedPolicy) error) error {
	in["policyArn"] = arn
	req := request{input: in, form: cmp.Or(checkPolicyARN(arn), wrong), find: c.aboutPolicy(arn, noSuchManagedPolicy)}
	return c.perform(ctx, op, req, func(ctx context.Context, _ *call, s subject) error { return use(ctx, s.policy) })
}

// PolicyFilter says which managed policies are listed.
type PolicyFilter struct {
	Scope        string // All, AWS or Local; empty: All. Those of AWS are none here
	OnlyAttached bool
	PathPrefix   string
	Usage        string // PermissionsPolicy or PermissionsBoundary; empty: both. None is a boundary here
}

func (f PolicyFilter) check() error {
	var v form.Violations
	oneOf := func(member, value string, values ...string) {
		for _, possible := range append(values, "") {
			if value == possible {
				return
			}
		}
		v.Add("", member, "satisfy enum value set: ["+strings.Join(values, ", ")+"]")
	}
	oneOf("scope", f.Scope, "All", "AWS", "Local")
	oneOf("policyUsageFilter", f.Usage, "PermissionsPolicy", "PermissionsBoundary")
	if f.PathPrefix != "" {
		v.Text("pathPrefix", f.PathPrefix, 1, 512, policyPrefixPattern)
	}
	return invalid(v)
}

// ListPolicies returns a page of the account's managed policies, ordered by name, without descriptions and tags. (ListPolicies)
func (c *Client) ListPolicies(ctx context.Context, filter PolicyFilter, page Page) (list []Policy, next string, err error) {
	in := input{"scope": filter.Scope, "onlyAttached": filter.OnlyAttached, "pathPrefix": filter.PathPrefix,
		"policyUsageFilter": filter.Usage}
	err = c.perform(ctx, ops.ListPolicies, request{input: in, form: cmp.Or(filter.check(), page.check())},
		func(ctx context.Context, _ *call, _ subject) error {
			list = []Policy{}
			if filter.Scope == "AWS" || filter.Usage == "PermissionsBoundary" {
				return nil
			}
			prefix := keystore.ManagedPolicyValue(c.caller.account, "")
			next, err = c.eachNamed(ctx, keystore.IndexPolicyName, prefix, page, func(rec keystore.Record) error {
				record, err := keystore.DecodeManagedPolicy(rec)
				if err != nil || !strings.HasPrefix(record.Path, filter.PathPrefix) {
					return err
				}
				p, err := c.describePolicy(ctx, record)
				p.Description, p.Tags = "", nil
				if err == nil && (p.AttachmentCount > 0 || !filter.OnlyAttached) {
					list = append(list, p)
				}
				return err
			})
			return err
		})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// DeletePolicy removes a managed policy that nobody has attached and that has one version. (DeletePolicy)
func (c *Client) DeletePolicy(ctx context.Context, arn string) error {
	req := request{input: input{"policyArn": arn}, form: checkPolicyARN(arn), find: c.aboutPolicy(arn, noSuchManagedPolicy)}
	return c.perform(ctx, ops.DeletePolicy, req, func(ctx context.Context, x *call, s subject) error {
		gone, err := x.withoutMembers(ctx, s.policy.ID, "Cannot delete a policy attached to entities.")
		if err != nil {
			return err
		}
		if len(s.policy.Versions) > 1 {
			return failure(deleteConflict, "This policy has more than one version. Before you delete a policy, you must delete the policy's "+
				"versions. The default version is deleted with the policy.")
		}
		counter, err := x.count(ctx, keystore.CounterPolicies, -1, "", 0)
		if err != nil {
			return err
		}
		return x.commit(ctx, counter, gone, keystore.Change{Op: keystore.Delete, Ref: s.policy.Ref(), Expect: s.policyVersion})
	})
}

// count changes a counter of the account, unless it would be over a limit.
func (c *call) count(ctx context.Context, name string, n int, quota string, limit int) (keystore.Change, error) {
	counter, version, err := records.ReadCounter(ctx, c.dir.cfg.Store, "", c.caller.account, name)
	if err != nil {
		return keystore.Change{}, err
	}
	if counter.N += n; n > 0 && counter.N > limit {
		return keystore.Change{}, quotaExceeded(quota, limit)
	}
	counter.N = max(0, counter.N)
	return counter.Put(version), nil
}
