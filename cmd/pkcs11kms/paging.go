package main

import (
	"context"
	"encoding/base64"
	"encoding/json"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
)

// paging is how the aws CLI puts the pages of a list together: everything by default, MaxItems of it on request, with a
// token to go on from.
type paging struct {
	maxItems      *int32
	pageSize      *int32
	startingToken *string
}

// resumeToken is what a NextToken holds: the page, and how many of its entries were printed. The aws CLI's has the
// same form.
type resumeToken struct {
	Marker  *string `json:"Marker"`
	Printed int     `json:"boto_truncate_amount,omitempty"`
}

func (t resumeToken) String() string {
	text, err := json.Marshal(t)
	must(err)
	return base64.StdEncoding.EncodeToString(text)
}

func parseResumeToken(text string) (resumeToken, error) {
	var token resumeToken
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || decodeStrict(string(raw), &token) != nil || token.Printed < 0 {
		return resumeToken{}, usagef("argument --starting-token: %q is not a NextToken of this command", text)
	}
	return token, nil
}

func (a *app) listKeysCommand() *cobra.Command {
	cmd := verb(groupKeys, "list-keys [flags]", "List the keys",
		"Prints all keys of the region. --max-items cuts the list and prints a NextToken for --starting-token.\n"+
			"With --no-paginate, --limit or --marker one page is printed as the API answers it.",
		"pkcs11kms list-keys",
		"pkcs11kms list-keys --max-items 10",
		"pkcs11kms list-keys --query 'Keys[].KeyId' --output text")
	var req kms.ListKeysInput
	var pages paging
	in := newInput(cmd)
	in.number(&pages.maxItems, "max-items", "print at most so many keys")
	in.number(&pages.pageSize, "page-size", "ask for so many keys at a time")
	in.text(&pages.startingToken, "starting-token", "go on from this NextToken")
	in.number(&req.Limit, "limit", "the size of the one page to print")
	in.text(&req.Marker, "marker", "the NextMarker of the page before")
	single := cmd.Flags().Bool("no-paginate", false, "print the first page only")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := in.parse(); err != nil {
			return err
		}
		raw := *single || req.Limit != nil || req.Marker != nil
		if raw && pages != (paging{}) {
			return usagef("one page is asked for (--no-paginate, --limit, --marker): " +
				"--max-items, --page-size and --starting-token do not go with it")
		}
		if pages.maxItems != nil && *pages.maxItems < 1 {
			return usagef("argument --max-items: %d is not positive", *pages.maxItems)
		}
		return a.withClient(cmd.Context(), func(client api) error {
			if raw {
				out, err := call(cmd.Context(), client, "ListKeys", api.ListKeys, &req)
				if err != nil {
					return err
				}
				return a.print("ListKeys", newDocument(out))
			}
			return a.printKeys(cmd.Context(), client, pages)
		})
	}
	return cmd
}

// keyList is the response that the pages make together.
type keyList struct {
	Keys      []types.KeyListEntry
	NextToken *string
}

func (a *app) printKeys(ctx context.Context, client api, pages paging) error {
	list, err := collectKeys(ctx, client, pages)
	if err != nil {
		return err
	}
	if a.output == "text" && a.search == nil && list.NextToken != nil {
		// Labelled, as the aws CLI does it: a script must be able to tell the token from a key.
		return a.print("ListKeys", newDocument(&struct {
			Keys      []types.KeyListEntry
			NextToken struct{ NextToken *string }
		}{list.Keys, struct{ NextToken *string }{list.NextToken}}))
	}
	return a.print("ListKeys", newDocument(list))
}

// collectKeys asks for page after page until the list or MaxItems is at its end.
func collectKeys(ctx context.Context, client api, pages paging) (*keyList, error) {
	var at resumeToken
	if pages.startingToken != nil {
		var err error
		if at, err = parseResumeToken(*pages.startingToken); err != nil {
			return nil, err
		}
	}
	list := &keyList{Keys: []types.KeyListEntry{}}
	for {
		page, err := call(ctx, client, "ListKeys", api.ListKeys, &kms.ListKeysInput{Limit: pages.pageSize, Marker: at.Marker})
		if err != nil {
			return nil, err
		}
		fresh := page.Keys[min(at.Printed, len(page.Keys)):]
		if room := int(aws.ToInt32(pages.maxItems)) - len(list.Keys); pages.maxItems != nil && len(fresh) > room {
			room = max(room, 0)
			list.Keys = append(list.Keys, fresh[:room]...)
			list.NextToken = aws.String(resumeToken{at.Marker, at.Printed + room}.String())
			return list, nil
		}
		list.Keys = append(list.Keys, fresh...)
		if !page.Truncated || page.NextMarker == nil {
			return list, nil
		}
		at = resumeToken{Marker: page.NextMarker}
		if pages.maxItems != nil && len(list.Keys) == int(*pages.maxItems) {
			list.NextToken = aws.String(at.String())
			return list, nil
		}
	}
}
