package server

import (
	"context"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// Groups.

func createGroup(ctx context.Context, c *iam.Client, in *createGroupInput) (*groupOutput, error) {
	made, err := c.CreatePrincipal(ctx, in.principal(), iam.PrincipalOptions{Path: text(in.Path)})
	return &groupOutput{Group: shownGroup(made)}, err
}

func getGroup(ctx context.Context, c *iam.Client, in *groupPage) (*groupUsersOutput, error) {
	if err := in.page.check(); err != nil {
		return nil, err
	}
	found, users, next, err := c.GetGroup(ctx, *in.GroupName, in.page.asked())
	return &groupUsersOutput{Group: shownGroup(found), Users: shownUsers(users), paged: upTo(next)}, err
}

func listGroups(ctx context.Context, c *iam.Client, in *listInput) (*groupsOutput, error) {
	part, next, err := listPrincipals(ctx, c, keystore.PrincipalGroup, in)
	return &groupsOutput{Groups: shownGroups(part), paged: next}, err
}

func shownGroups(list []iam.Principal) []groupShape {
	shown := []groupShape{}
	for _, found := range list {
		shown = append(shown, *shownGroup(found))
	}
	return shown
}

func listGroupsOfUser(ctx context.Context, c *iam.Client, in *userPage) (*groupsOutput, error) {
	if err := in.page.check(); err != nil {
		return nil, err
	}
	all, err := c.ListGroups(ctx, *in.UserName)
	if err != nil {
		return nil, err
	}
	part, next := pageOf(all, in.page, func(p iam.Principal) string { return strings.ToLower(p.Name) })
	return &groupsOutput{Groups: shownGroups(part), paged: next}, nil
}

func addToGroup(ctx context.Context, c *iam.Client, in *membershipInput) (*nothing, error) {
	return done(c.AddUserToGroup(ctx, *in.GroupName, *in.UserName))
}

func removeFromGroup(ctx context.Context, c *iam.Client, in *membershipInput) (*nothing, error) {
	return done(c.RemoveUserFromGroup(ctx, *in.GroupName, *in.UserName))
}
