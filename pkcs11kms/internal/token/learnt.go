package token

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// What was found out about a token is worth keeping for the next process: where keys do not end with their session, each trial makes an
// object in the device. It is advice about what is missing and nothing else. What the token is believed to do is found out anew by each
// process, when it opens the token or makes the first key of a kind, and so is what it cannot be told of a key: a false memory would make
// weaker keys.

// errNoSessionKeys says why a token was not probed.
var errNoSessionKeys = fmt.Errorf("%w: the token makes no keys that end with their session, as was found before", ErrUntried)

// Kind is a kind of key: HMAC keys for Hash, or pairs of Spec; with Algorithm a kind of signature by those.
type Kind struct {
	Hash      Hash
	Spec      pubkey.Spec
	Algorithm pubkey.Algorithm
}

// LearntGap is a kind that was tried in vain.
type LearntGap struct {
	Kind
	What string // as in a GapError
	Func string // that gave the answer; empty if a signature was not valid
	RV   uint
	At   time.Time
}

// Learnt is what was found out about a token, beyond what each opening of it finds out at no cost.
type Learnt struct {
	Since         time.Time // when that was begun, by this process or by the one whose memory was recalled
	NoSessionKeys bool      // it makes no keys that end with their session
	Made          []Kind    // of a token that makes none, the keys that it has made and used
	Gaps          []LearntGap
}

// Learnt returns what is known now, in an order that is always the same. What was recalled and is not found otherwise is part of it.
func (t *Token) Learnt() Learnt {
	f := t.facts()
	l := Learnt{Since: f.since, NoSessionKeys: f.noSessionKeys}
	t.gaps.Range(func(key, value any) bool {
		kind, kept := kindOf(key), value.(keptGap)
		if gap, ok := learntGap(kind, kept); ok && f.keeps(kind) {
			l.Gaps = append(l.Gaps, gap)
		}
		return true
	})
	if f.noSessionKeys {
		l.Made = t.madeKinds()
	}
	slices.SortFunc(l.Gaps, func(a, b LearntGap) int { return a.Kind.compare(b.Kind) })
	return l
}

// madeKinds are the kinds of keys that were made and used, and are not known to be missing now.
func (t *Token) madeKinds() (made []Kind) {
	t.proven.Range(func(key, _ any) bool {
		if kind := kindOf(key); kind.Algorithm == (pubkey.Algorithm{}) {
			made = append(made, kind)
		}
		return true
	})
	for _, kind := range t.facts().recalled {
		if _, gap := t.gaps.Load(kind.key()); !gap && !slices.Contains(made, kind) {
			made = append(made, kind)
		}
	}
	slices.SortFunc(made, Kind.compare)
	return made
}

// recall asks what was learnt of the token before.
func (t *Token) recall(ctx context.Context) Learnt {
	if t.cfg.Recall == nil {
		return Learnt{}
	}
	return t.cfg.Recall(ctx, t.facts().info)
}

// Nothing tells whether it says nothing that an opening would not find out.
func (l Learnt) Nothing() bool { return !l.NoSessionKeys && len(l.Made) == 0 && len(l.Gaps) == 0 }

// believe takes over what was learnt before, where this process has found nothing.
func (t *Token) believe(l Learnt) {
	t.learn(func(known *facts) { known.recalled, known.since = l.Made, l.Since })
	if l.Since.IsZero() {
		t.learn(func(known *facts) { known.since = time.Now() })
	}
	for _, gap := range l.Gaps {
		if _, made := t.proven.Load(gap.key()); made || !t.facts().keeps(gap.Kind) {
			continue
		}
		t.gaps.LoadOrStore(gap.key(), keptGap{gap.Err(), gap.At})
	}
}

// keeps tells whether a gap of the kind is worth keeping. Where each trial makes an object in the token all are. Elsewhere a restart is
// what has kinds of keys tried again, but keys that are in use are to list what they sign by.
func (f *facts) keeps(kind Kind) bool {
	switch {
	case f.noSessionKeys:
		return true
	case kind.Spec == pubkey.Edwards25519 && f.edwardsSeen:
		return false // each opening tries it
	}
	return kind.Algorithm != pubkey.Algorithm{}
}

// learntGap is a gap as it is kept; ok is false for one that the token has not answered with.
func learntGap(kind Kind, kept keptGap) (gap LearntGap, ok bool) {
	gap = LearntGap{Kind: kind, What: kept.gap.What, At: kept.found}
	if e, answered := errors.AsType[*Error](kept.gap.Err); answered {
		gap.Func, gap.RV = e.Func, e.RV
		return gap, true
	}
	return gap, errors.Is(kept.gap.Err, pubkey.ErrInvalid)
}

// key is what the kind is called in the maps of a Token.
func (k Kind) key() any {
	switch {
	case k.Hash.Valid():
		return k.Hash
	case k.Algorithm == pubkey.Algorithm{}:
		return k.Spec
	}
	return signing{k.Spec, k.Algorithm}
}

func kindOf(key any) Kind {
	switch k := key.(type) {
	case Hash:
		return Kind{Hash: k}
	case pubkey.Spec:
		return Kind{Spec: k}
	case signing:
		return Kind{Spec: k.spec, Algorithm: k.algorithm}
	}
	return Kind{}
}

func (k Kind) compare(other Kind) int {
	return cmp.Or(cmp.Compare(k.Hash, other.Hash), cmp.Compare(k.Spec, other.Spec),
		cmp.Compare(k.Algorithm.Scheme, other.Algorithm.Scheme), cmp.Compare(k.Algorithm.Hash, other.Algorithm.Hash))
}

// Err is the gap as an error.
func (g LearntGap) Err() *GapError {
	var answer error = &Error{Func: g.Func, RV: g.RV}
	if g.Func == "" {
		answer = pubkey.ErrInvalid
	}
	return &GapError{Hash: g.Hash, Spec: g.Spec, What: g.What, Err: answer}
}
