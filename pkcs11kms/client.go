package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// Client answers the operations of AWS KMS for one region in the name of one Caller. Its methods have the signatures
// of the AWS SDK's *kms.Client, and its inputs, outputs and errors are the SDK's own types. Of the option functions
// only a changed Region counts. Make one with New, Bridge.Client or As. A Client is safe for concurrent use; inputs
// are never changed and outputs never shared.
type Client struct {
	bridge *Bridge
	region *keyring.Region
	caller Caller
	owner  bool // made by New: Close closes the Bridge
}

// New opens a Bridge and returns the client of its default region that acts as the root of the configured account.
// Closing that Client closes the Bridge.
func New(ctx context.Context, cfg Config) (*Client, error) {
	b, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c, err := b.Client(b.cfg.DefaultRegion)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	c = c.As(b.Root())
	c.owner = true
	return c, nil
}

// Client returns a handle on a configured region, without a Caller: give it one with As. The empty name is the
// default region. It is cheap.
func (b *Bridge) Client(regionName string) (*Client, error) {
	if regionName == "" {
		regionName = b.cfg.DefaultRegion
	}
	r := b.core.Keys.Region(regionName)
	if r == nil {
		return nil, fmt.Errorf("region %q is not configured", regionName)
	}
	return &Client{bridge: b, region: r}, nil
}

// Region returns the name of the region the Client works in.
func (c *Client) Region() string { return c.region.Name }

// Caller returns the principal in whose name the Client acts.
func (c *Client) Caller() Caller { return c.caller }

// Health is Bridge.Health.
func (c *Client) Health(ctx context.Context) error { return c.bridge.Health(ctx) }

// Close closes the Bridge when the Client was made by New; on every other Client it does nothing.
func (c *Client) Close() error {
	if !c.owner {
		return nil
	}
	return c.bridge.Close()
}

// with applies the SDK's option functions: the Client itself, or a handle on the other region that they ask for.
func (c *Client) with(optFns []func(*kms.Options)) (*Client, error) {
	if len(optFns) == 0 {
		return c, nil
	}
	opts := kms.Options{Region: c.region.Name}
	for _, fn := range optFns {
		fn(&opts)
	}
	return c.in(opts.Region)
}

// in returns the Client itself, or a handle on another region.
func (c *Client) in(region string) (*Client, error) {
	if region == c.region.Name {
		return c, nil
	}
	other, err := c.bridge.Client(region)
	if err != nil {
		return nil, apierr.Validation(fmt.Sprintf("Region %s is not configured. Configured: %s.", region,
			strings.Join(slices.Sorted(slices.Values(c.bridge.Regions())), ", ")))
	}
	return other.As(c.caller), nil
}
