// Package contention lets several users change the same few keys at once, and judges the store afterwards. The users may be
// clients of one process or of many.
package contention

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

// API are the operations that the users fight with, as the SDK's kms.Client has them.
type API interface {
	CreateAlias(context.Context, *kms.CreateAliasInput, ...func(*kms.Options)) (*kms.CreateAliasOutput, error)
	UpdateAlias(context.Context, *kms.UpdateAliasInput, ...func(*kms.Options)) (*kms.UpdateAliasOutput, error)
	DeleteAlias(context.Context, *kms.DeleteAliasInput, ...func(*kms.Options)) (*kms.DeleteAliasOutput, error)
	TagResource(context.Context, *kms.TagResourceInput, ...func(*kms.Options)) (*kms.TagResourceOutput, error)
	UntagResource(context.Context, *kms.UntagResourceInput, ...func(*kms.Options)) (*kms.UntagResourceOutput, error)
	UpdateKeyDescription(context.Context, *kms.UpdateKeyDescriptionInput, ...func(*kms.Options)) (*kms.UpdateKeyDescriptionOutput, error)
	EnableKey(context.Context, *kms.EnableKeyInput, ...func(*kms.Options)) (*kms.EnableKeyOutput, error)
	DisableKey(context.Context, *kms.DisableKeyInput, ...func(*kms.Options)) (*kms.DisableKeyOutput, error)
	ScheduleKeyDeletion(context.Context, *kms.ScheduleKeyDeletionInput, ...func(*kms.Options)) (*kms.ScheduleKeyDeletionOutput, error)
	CancelKeyDeletion(context.Context, *kms.CancelKeyDeletionInput, ...func(*kms.Options)) (*kms.CancelKeyDeletionOutput, error)
}

// Names that all users fight over, and names that a user has for itself on keys that it shares.
const (
	sharedAliases, ownAliases = 12, 4
	sharedTags, ownTags       = 24, 8 // four users reach the quota of 50 tags
)

// Claim is what one user was told and nobody else may change, so that a lost update shows: its own aliases and tags, and
// the description of every key whose place among the keys is the user's.
type Claim struct {
	Place        int
	Aliases      map[string]string            // name -> key id
	Tags         map[string]map[string]string // key id -> tag -> value
	Descriptions map[string]string            // key id -> text
	Made         map[string]int               // operation -> how often it succeeded
	Refused      int
}

// User makes random changes. It is for the use of one goroutine.
type User struct {
	Claim
	api    API
	keys   []string
	users  int
	random *rand.Rand
}

// NewUser returns one of a number of users of the keys, who has a place from 0.
func NewUser(api API, keys []string, place, users int, seed uint64) *User {
	u := &User{api: api, keys: keys, users: users, random: rand.New(rand.NewPCG(seed, uint64(place)))}
	u.Claim = Claim{Place: place, Aliases: map[string]string{}, Tags: map[string]map[string]string{}, Descriptions: map[string]string{},
		Made: map[string]int{}}
	for _, key := range keys {
		u.Tags[key] = map[string]string{}
	}
	return u
}

// Work makes a number of changes. What is refused is no change. It ends early between two of them when ctx ends, or with
// an error that no user can expect from a service that is well.
func (u *User) Work(ctx context.Context, changes int) error {
	whole := context.WithoutCancel(ctx) // what was begun is finished, so that it is known how it ended
	for made := 0; made < changes && ctx.Err() == nil; {
		operation, err := u.change(whole)
		switch {
		case err == nil:
			u.Made[operation]++
			made++
		case expected(err):
			u.Refused++
		default:
			return fmt.Errorf("%s by user %d: %w", operation, u.Place, err)
		}
	}
	return nil
}

// expected tells whether an error is one that another user can be the cause of.
func expected(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return false
	}
	switch api.ErrorCode() {
	case "AlreadyExistsException", "NotFoundException", "KMSInvalidStateException", "LimitExceededException", "TagException":
		return true
	}
	return false
}

// change tries one operation, and notes what it is told of its own names.
func (u *User) change(ctx context.Context) (operation string, err error) {
	place := u.random.IntN(len(u.keys))
	key := u.keys[place]
	switch u.random.IntN(11) {
	case 0, 1, 2:
		return u.changeAlias(ctx, key)
	case 3, 4, 5:
		return u.changeTag(ctx, key)
	case 6:
		place += u.Place - place%u.users // one that only this user describes
		if place >= len(u.keys) {
			place = u.Place
		}
		text := fmt.Sprintf("text %d of user %d", u.random.IntN(1000), u.Place)
		_, err = u.api.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &u.keys[place], Description: &text})
		if err == nil {
			u.Descriptions[u.keys[place]] = text
		}
		return "UpdateKeyDescription", err
	case 7:
		_, err = u.api.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &key})
		return "EnableKey", err
	case 8:
		_, err = u.api.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &key})
		return "DisableKey", err
	case 9:
		_, err = u.api.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key})
		if err != nil || u.random.IntN(2) == 0 {
			return "ScheduleKeyDeletion", err // for somebody else to cancel
		}
		u.Made["ScheduleKeyDeletion"]++
	}
	_, err = u.api.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: &key})
	return "CancelKeyDeletion", err
}

func (u *User) changeAlias(ctx context.Context, key string) (operation string, err error) {
	name, own := fmt.Sprintf("alias/shared-%d", u.random.IntN(sharedAliases)), u.random.IntN(2) == 0
	if own {
		name = fmt.Sprintf("%s%d", ownAlias(u.Place), u.random.IntN(ownAliases))
	}
	switch u.random.IntN(5) {
	case 0, 1:
		operation = "CreateAlias"
		_, err = u.api.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &key})
	case 2, 3:
		operation = "UpdateAlias"
		_, err = u.api.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: &key})
	default:
		_, err = u.api.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: &name})
		if err == nil && own {
			delete(u.Aliases, name)
		}
		return "DeleteAlias", err
	}
	if err == nil && own {
		u.Aliases[name] = key
	}
	return operation, err
}

func (u *User) changeTag(ctx context.Context, key string) (operation string, err error) {
	name, own := fmt.Sprintf("shared-%d", u.random.IntN(sharedTags)), u.random.IntN(2) == 0
	if own {
		name = fmt.Sprintf("%s%d", ownTag(u.Place), u.random.IntN(ownTags))
	}
	if u.random.IntN(3) == 0 {
		_, err = u.api.UntagResource(ctx, &kms.UntagResourceInput{KeyId: &key, TagKeys: []string{name}})
		if err == nil && own {
			delete(u.Tags[key], name)
		}
		return "UntagResource", err
	}
	value := fmt.Sprint(u.random.IntN(1000))
	_, err = u.api.TagResource(ctx, &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: aws.String(name), TagValue: &value}}})
	if err == nil && own {
		u.Tags[key][name] = value
	}
	return "TagResource", err
}

func ownAlias(place int) string { return fmt.Sprintf("alias/of-%d-", place) }

func ownTag(place int) string { return fmt.Sprintf("of-%d-", place) }
