package main

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// iamAccount is an account as its verbs show it.
type iamAccount struct {
	Id, Arn, Name, CreateDate string
}

func iamAccountOf(account pkcs11kms.Account) iamAccount {
	out := iamAccount{Id: account.ID, Arn: account.ARN, Name: account.Name}
	if !account.Created.IsZero() {
		out.CreateDate = iamTime(account.Created)
	}
	return out
}

func (a *app) createAccountCommand() *cobra.Command {
	cmd := verb(groupAccounts, "create-account --account-id ID [--account-name NAME] [--yes]", "Make another account",
		"An account has a root, users, roles, keys, aliases, quotas and request rates of its own; a server that runs\n"+
			"takes notice within a second. Others use its keys where a key policy or a grant says so, and their own\n"+
			"account's policies do. It is never removed. Policies and grants that name its number or everybody today count\n"+
			"for it from then on: where there are such they are listed, and nothing is done without --yes.",
		"pkcs11kms iam create-account --account-id 222222222222 --account-name payments",
		"pkcs11kms iam create-access-key --account-id 222222222222")
	cmd.Annotations = map[string]string{printsResponse: "", allRegions: ""}
	in := newInput(cmd)
	var id, name *string
	in.text(&id, "account-id", "the 12 digits of the account (required)")
	in.text(&name, "account-name", "what it is for")
	agreed := cmd.Flags().Bool("yes", false, "make it although policies or grants count for it already")
	in.require("account-id")
	cmd.RunE = a.accountOperation(in, func(ctx context.Context, client *pkcs11kms.Client) (any, change, error) {
		made, err := client.CreateAccount(ctx, pkcs11kms.NewAccount{ID: *id, Name: aws.ToString(name), Agreed: *agreed})
		return &struct{ Account iamAccount }{iamAccountOf(made)},
			change{fmt.Sprintf("creating account %s", *id), "to see how things stand: pkcs11kms iam list-accounts"}, err
	})
	return cmd
}

func (a *app) listAccountsCommand() *cobra.Command {
	cmd := verb(groupAccounts, "list-accounts", "List the accounts",
		"Prints the accounts, the one of config.yaml first. That one has no CreateDate while it is the only one.",
		"pkcs11kms iam list-accounts --query Accounts[].Id --output text")
	cmd.Annotations = map[string]string{printsResponse: "", allRegions: ""}
	cmd.RunE = a.accountOperation(newInput(cmd), func(ctx context.Context, client *pkcs11kms.Client) (any, change, error) {
		found, err := client.ListAccounts(ctx)
		list := []iamAccount{}
		for _, account := range found {
			list = append(list, iamAccountOf(account))
		}
		return &struct{ Accounts []iamAccount }{list}, change{}, err
	})
	return cmd
}

// accountOperation runs what is about accounts on the state directory, and prints its answer.
func (a *app) accountOperation(in *input,
	operation func(context.Context, *pkcs11kms.Client) (any, change, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := in.parse(); err != nil {
			return err
		}
		return a.withRoot(cmd.Context(), func(client *pkcs11kms.Client) error {
			out, made, err := operation(cmd.Context(), client)
			if err != nil {
				return err
			}
			return made.shown(a.print(cmd.Name(), newDocument(out)))
		})
	}
}
