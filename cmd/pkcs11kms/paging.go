package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
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
	marker, err := json.Marshal(t.Marker)
	must(err)
	text := `{"Marker": ` + string(marker) // with the aws CLI's blanks, so that its tokens and these are the same
	if t.Printed > 0 {
		text += fmt.Sprintf(`, "boto_truncate_amount": %d`, t.Printed)
	}
	return base64.StdEncoding.EncodeToString([]byte(text + "}"))
}

func parseResumeToken(text string) (resumeToken, error) {
	var token resumeToken
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || decodeStrict(string(raw), &token) != nil || token.Printed < 0 {
		return resumeToken{}, usagef("argument --starting-token: %q is not a NextToken of this command", text)
	}
	return token, nil
}

// list is a list operation as the pager needs it: where its input has the size of a page and the place, and what its
// output holds of the list.
type list[In, Out, Entry any] struct {
	operation string
	call      func(api, context.Context, *In, ...func(*kms.Options)) (*Out, error)
	asked     func(*In) (limit **int32, marker **string)
	answered  func(*Out) (entries *[]Entry, truncated bool, next *string)
}

// pagingHelp stands in the help of every verb that lists.
const pagingHelp = "--max-items cuts the list and prints a NextToken for --starting-token.\n" +
	"With --no-paginate, --limit or --marker one page is printed as the API answers it."

// listing gives a verb the flags of paging and returns its function. The other flags have filled req when that runs.
func listing[In, Out, Entry any](a *app, cmd *cobra.Command, in *input,
	l list[In, Out, Entry], req *In) func(*cobra.Command, []string) error {
	var pages paging
	limit, marker := l.asked(req)
	in.number(limit, "limit", "the size of the one page to print")
	in.text(marker, "marker", "the NextMarker of the page before")
	in.number(&pages.maxItems, "max-items", "print at most so many entries")
	in.number(&pages.pageSize, "page-size", "ask for so many entries at a time")
	in.text(&pages.startingToken, "starting-token", "go on from this NextToken")
	single := cmd.Flags().Bool("no-paginate", false, "print the first page only")
	return func(cmd *cobra.Command, _ []string) error {
		if err := in.parse(); err != nil {
			return err
		}
		raw := *single || *limit != nil || *marker != nil
		if raw && pages != (paging{}) {
			return usagef("one page is asked for (--no-paginate, --limit, --marker): " +
				"--max-items, --page-size and --starting-token do not go with it")
		}
		if pages.maxItems != nil && *pages.maxItems < 1 {
			return usagef("argument --max-items: %d is not positive", *pages.maxItems)
		}
		return a.withClient(cmd.Context(), func(client api) error {
			if !raw {
				return l.print(cmd.Context(), a, client, req, pages)
			}
			out, err := call(cmd.Context(), client, l.operation, l.call, req)
			if err != nil {
				return err
			}
			return a.print(l.operation, newDocument(out))
		})
	}
}

// print writes the pages as one response, which has the NextToken in place of what leads from page to page.
func (l list[In, Out, Entry]) print(ctx context.Context, a *app, client api, req *In, pages paging) error {
	entries, next, err := l.collect(ctx, client, req, pages)
	if err != nil {
		return err
	}
	var whole Out
	*l.entriesOf(&whole) = entries
	d := newDocument(&whole)
	root := d.root.(map[string]any)
	delete(root, "Truncated")
	names := slices.DeleteFunc(d.keys(root), func(name string) bool { return name == "Truncated" })
	asText := a.output == "text" && a.search == nil
	if next != nil && !asText {
		names = append(names, nextToken)
		root[nextToken] = *next
	}
	d.order[identity(root)] = names
	if err := a.print(l.operation, d); err != nil || next == nil || !asText {
		return err
	}
	// Labelled and at the end, as the aws CLI does it: a script must be able to tell the token from an entry.
	return a.printf("%s\t%s\n", strings.ToUpper(nextToken), *next)
}

// nextToken is the member that the aws CLI adds to a list that goes on.
const nextToken = "NextToken"

func (l list[In, Out, Entry]) entriesOf(out *Out) *[]Entry {
	entries, _, _ := l.answered(out)
	return entries
}

// collect asks for page after page until the list or MaxItems is at its end.
func (l list[In, Out, Entry]) collect(ctx context.Context, client api, req *In, pages paging) (all []Entry, next *string, err error) {
	var at resumeToken
	if pages.startingToken != nil {
		if at, err = parseResumeToken(*pages.startingToken); err != nil {
			return nil, nil, err
		}
	}
	all = []Entry{}
	for {
		page, truncated, marker, err := l.page(ctx, client, *req, pages.pageSize, at.Marker)
		if err != nil {
			return nil, nil, err
		}
		fresh := page[min(at.Printed, len(page)):]
		if room := int(aws.ToInt32(pages.maxItems)) - len(all); pages.maxItems != nil && len(fresh) > room {
			room = max(room, 0)
			return append(all, fresh[:room]...), aws.String(resumeToken{at.Marker, at.Printed + room}.String()), nil
		}
		all = append(all, fresh...)
		if !truncated || marker == nil {
			return all, nil, nil
		}
		at = resumeToken{Marker: marker}
		if pages.maxItems != nil && len(all) == int(*pages.maxItems) {
			return all, aws.String(at.String()), nil
		}
	}
}

func (l list[In, Out, Entry]) page(ctx context.Context, client api, req In,
	size *int32, at *string) (entries []Entry, truncated bool, next *string, err error) {
	limit, marker := l.asked(&req)
	*limit, *marker = size, at
	out, err := call(ctx, client, l.operation, l.call, &req)
	if err != nil {
		return nil, false, nil, err
	}
	found, truncated, next := l.answered(out)
	return *found, truncated, next, nil
}
