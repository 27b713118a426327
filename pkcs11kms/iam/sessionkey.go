package iam

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// Sessions whose tokens were opened are kept, so that a request by one costs what a request by an access key costs. Only tokens that this
// service has sealed get there.

// maxSessions bounds how many are kept: the token, its policy and its tags are some ten kilobytes each at most.
const maxSessions = 4096

// sessions are those that are kept, by their tokens.
type sessions struct {
	mu   sync.Mutex // guards kept
	kept *simplelru.LRU[string, *session]
}

func newSessions() *sessions {
	kept, err := simplelru.NewLRU[string, *session](maxSessions, nil)
	if err != nil {
		panic(err) // it refuses a size of 0
	}
	return &sessions{kept: kept}
}

func (k *sessions) get(token string) (*session, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept.Get(token)
}

func (k *sessions) put(token string, s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept.Add(strings.Clone(token), s)
}

func (k *sessions) drop(token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept.Remove(token)
}

// IsSessionKey tells whether an access key id has the form of one of a session, which no access key of another kind has.
func IsSessionKey(accessKeyID string) bool { return strings.HasPrefix(accessKeyID, sessionKeyPrefix) }

// SessionKey is SigningKey for the access key of a session of a role and its token. A token that this service has not sealed, that is of
// another access key, or whose role is not there any more, is ErrUnknownAccessKey; one that was good and has ended is ErrExpiredToken.
// It asks the HSM once in the life of a process, or for each service key, and for nothing that was forged.
func (d *Directory) SessionKey(ctx context.Context, accessKeyID, token, date, region, service string) (sigv4.Key, Caller, error) {
	if !IsSessionKey(accessKeyID) {
		return sigv4.Key{}, Caller{}, ErrUnknownAccessKey
	}
	s, err := d.sessionOf(ctx, accessKeyID, token)
	if errors.Is(err, errToken) || errors.Is(err, keystore.ErrNotFound) {
		err = ErrUnknownAccessKey
	}
	if err != nil {
		return sigv4.Key{}, Caller{}, err
	}
	return s.signingKey(scope{date, region, service}), s.caller, nil
}

// sessionOf returns the session of a token, in the order of checks of AWS STS: the token, its access key, its end, its role.
func (d *Directory) sessionOf(ctx context.Context, accessKeyID, token string) (*session, error) {
	s, err := d.openSession(ctx, token)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(s.AccessKeyID), []byte(accessKeyID)) != 1 {
		return nil, errToken
	}
	if there, err := d.answersFor(ctx, s.Account); err != nil || !there {
		return nil, cmp.Or(err, errToken)
	}
	now, err := d.sessionTime(ctx)
	if err != nil {
		return nil, err
	}
	if s.expired(now) {
		return nil, ErrExpiredToken
	}
	role, err := d.principal(ctx, s.Account, s.RoleID)
	if err != nil || !s.caller.IsNobody() {
		return s, err
	}
	if err := d.complete(s, role); err != nil {
		return nil, err
	}
	d.sessions.put(token, s)
	return s, nil
}

// openSession returns the session that is kept of a token, or what the token says: a session without a caller.
func (d *Directory) openSession(ctx context.Context, token string) (*session, error) {
	if s, kept := d.sessions.get(token); kept {
		epoch, err := d.cfg.Epoch(ctx, s.sealed.number)
		if err != nil || epoch == s.sealed.epoch {
			return s, err
		}
		d.sessions.drop(token)
	}
	raw, epoch, err := tokenEpoch(token)
	if err != nil {
		return nil, err
	}
	key, of, err := d.tokenKey(ctx, epoch)
	if err != nil {
		return nil, err
	}
	claims, err := key.open(raw)
	if err != nil {
		return nil, err
	}
	return &session{sessionClaims: claims, sealed: of, secret: key.derive("secret", raw), signing: map[scope]sigv4.Key{}}, nil
}

// secretOfSession is the secret access key of a session.
func secretOfSession(made [32]byte) string { return base64.StdEncoding.EncodeToString(made[:30]) }

// signingKey returns the key of a scope.
func (s *session) signingKey(of scope) sigv4.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key, ok := s.signing[of]; ok {
		return key
	}
	key := sigv4.SigningKey(secretOfSession(s.secret), of.date, of.region, of.service)
	if len(s.signing) >= maxScopes {
		clear(s.signing)
	}
	s.signing[of] = key
	return key
}

// storeClock is the latest time that the store has seen, as far as it was read.
type storeClock struct {
	mu     sync.Mutex // guards the rest
	latest time.Time
	read   bool
}

// clockInterval is between two looks at the time of the store.
const clockInterval = time.Minute

// sessionTime is the time by which sessions end: the later one of the clock and of what the store has seen, so that a clock that went back
// does not bring back what has ended.
func (d *Directory) sessionTime(ctx context.Context) (time.Time, error) {
	now, c := d.cfg.Now(), &d.storeClock
	c.mu.Lock()
	latest, read := c.latest, c.read
	c.mu.Unlock()
	if !read {
		var err error
		if latest, err = d.readStoreClock(ctx); err != nil {
			return time.Time{}, err
		}
	}
	if latest.After(now) {
		return latest, nil
	}
	return now, nil
}

func (d *Directory) readStoreClock(ctx context.Context) (time.Time, error) {
	latest, err := d.cfg.Latest(ctx)
	if err != nil {
		return time.Time{}, err
	}
	d.storeClock.mu.Lock()
	defer d.storeClock.mu.Unlock()
	d.storeClock.latest, d.storeClock.read = latest, true
	return latest, nil
}

// watchStoreClock reads the time of the store again and again until ctx ends, once it was asked for.
func (d *Directory) watchStoreClock(ctx context.Context) {
	tick := time.NewTicker(clockInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		d.storeClock.mu.Lock()
		read := d.storeClock.read
		d.storeClock.mu.Unlock()
		if read {
			_, _ = d.readStoreClock(ctx) // what was read before still counts
		}
	}
}
