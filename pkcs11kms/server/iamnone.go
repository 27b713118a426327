package server

import (
	"context"

	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// What programs look for before they delete a user or role, and nobody has here.

// none is a list of what there is nothing of.
type none = []nothing

type (
	profilesOutput struct {
		InstanceProfiles none
		IsTruncated      bool
	}
	devicesOutput struct {
		MFADevices  none
		IsTruncated bool
	}
	certificatesOutput struct {
		Certificates none
		IsTruncated  bool
	}
	sshKeysOutput struct {
		SSHPublicKeys none
		IsTruncated   bool
	}
	credentialsOutput  struct{ ServiceSpecificCredentials none }
	loginProfileOutput struct{ LoginProfile *nothing }
)

func listInstanceProfiles(ctx context.Context, c *iam.Client, in *rolePage) (*profilesOutput, error) {
	return &profilesOutput{InstanceProfiles: []nothing{}}, c.ListInstanceProfiles(ctx, *in.RoleName)
}

// ofUser is the name of the user that an input names, or of the caller.
func ofUser(ctx context.Context, c *iam.Client, in *optionalUser) (string, error) {
	name, err := userOrCaller(ctx, c, in.UserName)
	return name.Name, err
}

func listMFADevices(ctx context.Context, c *iam.Client, in *optionalUser) (*devicesOutput, error) {
	name, err := ofUser(ctx, c, in)
	if err == nil {
		err = c.ListMFADevices(ctx, name)
	}
	return &devicesOutput{MFADevices: none{}}, err
}

func listSigningCertificates(ctx context.Context, c *iam.Client, in *optionalUser) (*certificatesOutput, error) {
	name, err := ofUser(ctx, c, in)
	if err == nil {
		err = c.ListSigningCertificates(ctx, name)
	}
	return &certificatesOutput{Certificates: none{}}, err
}

func listSSHPublicKeys(ctx context.Context, c *iam.Client, in *optionalUser) (*sshKeysOutput, error) {
	name, err := ofUser(ctx, c, in)
	if err == nil {
		err = c.ListSSHPublicKeys(ctx, name)
	}
	return &sshKeysOutput{SSHPublicKeys: none{}}, err
}

func listServiceSpecificCredentials(ctx context.Context, c *iam.Client, in *optionalUser) (*credentialsOutput, error) {
	name, err := ofUser(ctx, c, in)
	if err == nil {
		err = c.ListServiceSpecificCredentials(ctx, name)
	}
	return &credentialsOutput{ServiceSpecificCredentials: none{}}, err
}

func getLoginProfile(ctx context.Context, c *iam.Client, in *optionalUser) (*loginProfileOutput, error) {
	name, err := ofUser(ctx, c, in)
	if err == nil {
		err = c.GetLoginProfile(ctx, name)
	}
	return nil, err
}
