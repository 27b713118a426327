package pkcs11kms

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

const (
	eventHistory = 90 * 24 * time.Hour // how far back LookupEvents looks
	maxEvents    = 50                  // a page, which is also what is shown where nothing is asked for
)

var _ cloudtrail.LookupEventsAPIClient = (*Client)(nil)

// LookupEvents is AWS CloudTrail's: the calls of the caller's account in the Client's region within the last 90 days, and what the service
// did by itself, the newest first, as the audit log has them. It needs an audit log that can be searched, as that in files.
func (c *Client) LookupEvents(
	ctx context.Context, in *cloudtrail.LookupEventsInput, optFns ...func(*cloudtrail.Options),
) (*cloudtrail.LookupEventsOutput, error) {
	opts := cloudtrail.Options{Region: c.region.Name}
	for _, fn := range optFns {
		fn(&opts)
	}
	c, err := c.in(opts.Region)
	if err != nil {
		return nil, err
	}
	if in == nil {
		in = new(cloudtrail.LookupEventsInput)
	}
	var q audit.Query
	return guarded(ctx, c, ops.LookupEvents, in, func(c *Client, in *cloudtrail.LookupEventsInput) (_ request, err error) {
		q, err = c.eventQuery(in)
		return request{}, err
	}, func(ctx context.Context, _ *call, in *cloudtrail.LookupEventsInput, _ *key) (*cloudtrail.LookupEventsOutput, error) {
		return c.lookupEvents(ctx, in, q)
	})
}

// eventQuery is what a request asks of the audit log.
func (c *Client) eventQuery(in *cloudtrail.LookupEventsInput) (q audit.Query, err error) {
	q = audit.Query{Account: c.caller.Account(), Region: c.region.Name, CallsOnly: true, Max: maxEvents,
		Since: c.bridge.cfg.Now().Add(-eventHistory)}
	switch n := aws.ToInt32(in.MaxResults); {
	case in.MaxResults != nil && (n < 1 || n > maxEvents):
		return q, &types.InvalidMaxResultsException{Message: aws.String(fmt.Sprintf("MaxResults must be between 1 and %d.", maxEvents))}
	case in.MaxResults != nil:
		q.Max = int(n)
	}
	if in.StartTime != nil && in.EndTime != nil && in.EndTime.Before(*in.StartTime) {
		return q, &types.InvalidTimeRangeException{Message: aws.String("The start time must be before the end time.")}
	}
	if in.StartTime != nil && in.StartTime.After(q.Since) {
		q.Since = *in.StartTime
	}
	if in.EndTime != nil {
		q.Until = in.EndTime.Truncate(time.Second).Add(time.Second) // the end is asked for too, and records tell seconds
	}
	if in.EventCategory != "" && in.EventCategory != types.EventCategoryInsight {
		return q, &types.InvalidEventCategoryException{Message: aws.String("The event category must be insight.")}
	}
	if err := attributeOf(in.LookupAttributes, &q); err != nil {
		return q, err
	}
	if in.NextToken != nil {
		q.After, err = c.parsePlace(in, *in.NextToken)
	}
	return q, err
}

// attributeOf is what is looked for: one attribute at most.
func attributeOf(attributes []types.LookupAttribute, q *audit.Query) error {
	if len(attributes) == 0 {
		return nil
	}
	invalid := func(text string) error {
		return &types.InvalidLookupAttributesException{Message: aws.String(text)}
	}
	if len(attributes) > 1 {
		return invalid("Specify one lookup attribute only.")
	}
	value := aws.ToString(attributes[0].AttributeValue)
	if len(value) < 1 || len(value) > 2000 {
		return invalid("The value of a lookup attribute has between 1 and 2000 characters.")
	}
	switch attributes[0].AttributeKey {
	case types.LookupAttributeKeyEventId:
		q.EventID = value
	case types.LookupAttributeKeyEventName:
		q.EventName = value
	case types.LookupAttributeKeyReadOnly:
		if value != "true" && value != "false" {
			return invalid("The value of ReadOnly is true or false.")
		}
		q.ReadOnly = value
	case types.LookupAttributeKeyUsername:
		q.Username = value
	case types.LookupAttributeKeyResourceType:
		q.ResourceType = value
	case types.LookupAttributeKeyResourceName:
		q.ResourceName = value
	case types.LookupAttributeKeyEventSource:
		q.EventSource = value
	case types.LookupAttributeKeyAccessKeyId:
		q.AccessKeyID = value
	default:
		return invalid("The lookup attribute is none of EventId, EventName, ReadOnly, Username, ResourceType, ResourceName, EventSource " +
			"and AccessKeyId.")
	}
	return nil
}

// lookupEvents searches. One search runs at a time, so that many callers take the time of one processor at most, and little memory.
func (c *Client) lookupEvents(
	ctx context.Context, in *cloudtrail.LookupEventsInput, q audit.Query,
) (*cloudtrail.LookupEventsOutput, error) {
	searcher, ok := c.bridge.cfg.Audit.(audit.Searcher)
	if !ok {
		return nil, &types.UnsupportedOperationException{
			Message: aws.String("The audit log of this service cannot be searched: it is not kept in files.")}
	}
	out := &cloudtrail.LookupEventsOutput{Events: []types.Event{}}
	if in.EventCategory == types.EventCategoryInsight {
		return out, nil // there are none of that kind
	}
	select {
	case c.bridge.searching <- struct{}{}:
		defer func() { <-c.bridge.searching }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	page := q.Max
	q.Max++ // which tells whether there is a next page
	found, err := searcher.Find(ctx, q)
	if err != nil {
		return nil, err
	}
	if len(found) > page {
		found = found[:page]
		out.NextToken = aws.String(c.placeMarker(in, found[page-1].Place).String())
	}
	for i := range found {
		out.Events = append(out.Events, eventOf(&found[i]))
	}
	return out, nil
}

// eventOf shows a record as CloudTrail does.
func eventOf(r *audit.Found) types.Event {
	event := types.Event{
		CloudTrailEvent: aws.String(string(r.Line)), EventId: aws.String(r.EventID), EventName: aws.String(r.EventName),
		EventSource: aws.String(r.EventSource), EventTime: aws.Time(r.EventTime), ReadOnly: aws.String(strconv.FormatBool(r.ReadOnly)),
		Resources: []types.Resource{},
	}
	if id := r.UserIdentity.AccessKeyID; id != "" {
		event.AccessKeyId = aws.String(id)
	}
	if name := r.Username(); name != "" {
		event.Username = aws.String(name)
	}
	for _, resource := range r.Resources {
		event.Resources = append(event.Resources, types.Resource{ResourceName: aws.String(resource.ARN), ResourceType: aws.String(resource.Type)})
	}
	return event
}

// placeMarker is the marker of the events that come after one, for the same parameters. Whoever makes one up sees no other events by it
// than without it.
func (c *Client) placeMarker(in *cloudtrail.LookupEventsInput, at audit.Place) marker {
	m := marker{Op: ops.LookupEvents.Name, Region: c.region.Name, Account: c.caller.Account(), Filter: eventFilter(in)}
	m.After = fmt.Sprintf("%d.%d.%d", at.Time.Unix(), at.Chain, at.Seq)
	return m
}

func (c *Client) parsePlace(in *cloudtrail.LookupEventsInput, text string) (*audit.Place, error) {
	m, err := parseMarker(text, c.placeMarker(in, audit.Place{}))
	var seconds int64
	var at audit.Place
	if err == nil {
		_, err = fmt.Sscanf(m.After, "%d.%d.%d", &seconds, &at.Chain, &at.Seq)
	}
	if err != nil {
		return nil, &types.InvalidNextTokenException{Message: aws.String("The token is not of a page of the same parameters.")}
	}
	at.Time = time.Unix(seconds, 0).UTC()
	return &at, nil
}

// eventFilter stands for the parameters that a token belongs to. How many events a page has may change.
func eventFilter(in *cloudtrail.LookupEventsInput) string {
	text := fmt.Sprint(in.EventCategory, "\n", timeText(in.StartTime), "\n", timeText(in.EndTime))
	for _, attribute := range in.LookupAttributes {
		text += fmt.Sprintf("\n%s=%q", attribute.AttributeKey, aws.ToString(attribute.AttributeValue))
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func timeText(at *time.Time) string {
	if at == nil {
		return ""
	}
	return at.UTC().Format(time.RFC3339Nano)
}
