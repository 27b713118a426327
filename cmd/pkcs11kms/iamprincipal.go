package main

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// iamPrincipal is a user, role or group as the API of AWS IAM has it: of the members that name one, those of the other are empty
// and so are not shown.
type iamPrincipal struct {
	Path                     string
	UserName, RoleName       string
	GroupName                string
	UserId, RoleId, GroupId  string
	Arn                      string
	CreateDate               string
	AssumeRolePolicyDocument jsonText
	Description              string
	MaxSessionDuration       *int32
	Tags                     []iamTag
}

type iamTag struct {
	Key   string
	Value *string
}

// principalResponse is the response about one or about many.
type principalResponse struct {
	User, Role, Group    *iamPrincipal
	Users, Roles, Groups []iamPrincipal
}

// iamTime is a time as IAM has it. Unlike those of KMS its times are text on the wire, which the aws CLI leaves in UTC.
func iamTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05") + "+00:00" }

func iamTagsOf(tags []keystore.Tag) (list []iamTag) {
	for _, tag := range tags {
		list = append(list, iamTag{tag.Key, aws.String(tag.Value)})
	}
	return list
}

func iamPrincipalOf(p iam.Principal) iamPrincipal {
	out := iamPrincipal{Path: p.Path, Arn: p.ARN, CreateDate: iamTime(p.Created), Description: p.Description,
		AssumeRolePolicyDocument: jsonText(p.TrustPolicy), Tags: iamTagsOf(p.Tags)}
	switch p.Type {
	case keystore.PrincipalUser:
		out.UserName, out.UserId = p.Name, p.ID
	case keystore.PrincipalRole:
		out.RoleName, out.RoleId = p.Name, p.ID
		if p.MaxSessionDuration > 0 { // the answer to CreateRole does not have it
			out.MaxSessionDuration = &p.MaxSessionDuration
		}
	case keystore.PrincipalGroup:
		out.GroupName, out.GroupId = p.Name, p.ID
	}
	return out
}

func onePrincipal(p iam.Principal) *principalResponse {
	out := iamPrincipalOf(p)
	switch p.Type {
	case keystore.PrincipalUser:
		return &principalResponse{User: &out}
	case keystore.PrincipalGroup:
		return &principalResponse{Group: &out}
	}
	return &principalResponse{Role: &out}
}

// manyPrincipals is a list, in which AWS IAM does not tell the tags.
func (k iamKind) manyPrincipals(list []iam.Principal) *principalResponse {
	out := []iamPrincipal{}
	for _, p := range list {
		p.Tags = nil
		out = append(out, iamPrincipalOf(p))
	}
	switch k.principal {
	case keystore.PrincipalUser:
		return &principalResponse{Users: out}
	case keystore.PrincipalGroup:
		return &principalResponse{Groups: out}
	}
	return &principalResponse{Roles: out}
}

func (a *app) createPrincipalCommand(k iamKind) *cobra.Command {
	long := "It may do nothing until a policy of its own, or a key policy, allows something. What is bound to the {kind}\n" +
		"is bound to its unique id: a namesake made after it was deleted inherits nothing."
	examples := []string{"create-{kind} --{kind}-name {name}"}
	if k.principal == keystore.PrincipalGroup {
		long = "Users in it may do what its policies allow, and not what they deny. A namesake made after it was deleted\n" +
			"has neither its users nor its policies."
		examples = append(examples, "create-group --group-name {name} --path /jwt/")
	} else {
		examples = append(examples, "create-{kind} --{kind}-name {name} --path /jwt/ --tags Key=Stage,Value=test Key=Team,Value=id")
	}
	if k.principal == keystore.PrincipalRole {
		long += "\nThe assume role policy says who may assume the role. Unlike with AWS it may be left out, as of a role that has\n" +
			"access keys of its own: then nobody may."
		examples = append(examples, "create-role --role-name JwtProducer --assume-role-policy-document file://trust.json")
	}
	cmd, in := k.verb("create-{kind} --{kind}-name NAME [flags]", "Make a {kind}", long, examples...)
	name := k.named(in)
	var path, trust, description *string
	var session *int32
	var options iam.PrincipalOptions
	in.text(&path, "path", "the path, which is part of the ARN; it begins and ends with / (default: /)")
	if k.principal == keystore.PrincipalRole {
		in.text(&trust, "assume-role-policy-document", "who may assume the role: JSON, or file://PATH (default: nobody)")
		in.text(&description, "description", "what the role is for")
		in.number(&session, "max-session-duration", sessionUsage)
	}
	if k.principal != keystore.PrincipalGroup {
		in.iamTags(&options.Tags, "tags", iamTagsUsage)
	}
	cmd.RunE = a.iamOperation(k.text.Replace("Create{Kind}"), in, func(ctx context.Context, client identities) (any, change, error) {
		options.Path, options.TrustPolicy, options.Description = aws.ToString(path), aws.ToString(trust), aws.ToString(description)
		options.MaxSessionDuration = aws.ToInt32(session)
		p, err := client.CreatePrincipal(ctx, name(), options)
		return onePrincipal(p), k.changed("creating", name()), err
	})
	return cmd
}

const sessionUsage = "how many seconds a session of the role may last, 3600 to 43200 (default: 3600)"

func (a *app) updateRoleCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("update-role --role-name NAME [flags]", "Describe a role anew, or say how long its sessions last",
		"What is not given stays. Sessions that there are last as long as they were given. Prints nothing.",
		"update-role --role-name {name} --max-session-duration 7200")
	name := k.named(in)
	var to iam.RoleUpdate
	in.text(&to.Description, "description", "what the role is for")
	in.number(&to.MaxSessionDuration, "max-session-duration", "how many seconds a session of the role may last, 3600 to 43200")
	return k.act(a, cmd, in, "UpdateRole", "updating", name, func(ctx context.Context, client identities) error {
		return client.UpdateRole(ctx, name().Name, to)
	})
}

func (a *app) getPrincipalCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("get-{kind} --{kind}-name NAME", "Show a {kind}", "Prints what there is of it, besides policies and access keys.",
		"get-{kind} --{kind}-name {name}", "get-{kind} --{kind}-name {name} --query {Kind}.Arn --output text")
	name := k.named(in)
	return k.answer(a, cmd, in, "Get{Kind}", func(ctx context.Context, client identities) (any, error) {
		p, err := client.GetPrincipal(ctx, name())
		return onePrincipal(p), err
	})
}

func (a *app) listPrincipalsCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("list-{kind}s [--path-prefix PATH]", "List the {kind}s", "Prints the {kind}s, ordered by name, without their tags.",
		"list-{kind}s", "list-{kind}s --path-prefix /jwt/ --query {Kind}s[].{Kind}Name --output text")
	var prefix *string
	in.text(&prefix, "path-prefix", "only those whose path begins so")
	return k.answer(a, cmd, in, "List{Kind}s", func(ctx context.Context, client identities) (any, error) {
		list, err := client.ListPrincipals(ctx, k.principal, aws.ToString(prefix))
		return k.manyPrincipals(list), err
	})
}

func (a *app) deletePrincipalCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("delete-{kind} --{kind}-name NAME", "Delete a {kind}",
		"Its access keys and policies must be deleted and detached before, and users be removed from groups. Whatever\n"+
			"else was bound to the {kind} ends with it. Prints nothing.", "delete-{kind} --{kind}-name {name}")
	name := k.named(in)
	cmd.RunE = a.iamOperation(k.text.Replace("Delete{Kind}"), in, func(ctx context.Context, client identities) (any, change, error) {
		return nothing, change{}, client.DeletePrincipal(ctx, name())
	})
	return cmd
}
