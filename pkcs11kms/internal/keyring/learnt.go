package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// What was found out about the token of a region stands in the region's record, so that the next process need not find it out by objects
// that it makes in the token. It is believed for some days, of a token of the same maker, model and firmware and through the same library,
// and it is advice: what cannot be read is passed over.

// learntFor is how long it is believed.
const learntFor = 7 * 24 * time.Hour

// learnt is the text of keystore.Region.Learnt. Another version of the program may write it otherwise.
type learnt struct {
	At           time.Time `json:"at"` // since when it is learnt; UTC
	Manufacturer string    `json:"manufacturer"`
	Model        string    `json:"model"`
	Firmware     string    `json:"firmware"`
	Library      string    `json:"library"`

	NoSessionKeys bool        `json:"no_session_keys,omitempty"`
	Made          []string    `json:"made,omitempty"` // key specs
	Gaps          []learntGap `json:"gaps,omitempty"`
}

type learntGap struct {
	KeySpec   string    `json:"key_spec"`
	Algorithm string    `json:"algorithm,omitempty"` // where it is not the whole spec
	What      string    `json:"what"`                // these three as in a token.LearntGap
	Func      string    `json:"func,omitempty"`
	RV        uint      `json:"rv,omitempty"`
	At        time.Time `json:"at"` // UTC
}

// learntOf begins what is learnt of a token.
func learntOf(i token.Info, since time.Time) learnt {
	return learnt{At: records.Time(since), Manufacturer: i.Manufacturer, Model: i.Model, Firmware: i.FirmwareVersion,
		Library: i.LibraryDescription + " " + i.LibraryVersion}
}

// holds tells whether it is to be believed of a token.
func (l learnt) holds(i token.Info, now time.Time) bool {
	same := learntOf(i, l.At)
	return same.Manufacturer == l.Manufacturer && same.Model == l.Model && same.Firmware == l.Firmware && same.Library == l.Library &&
		!l.At.After(now) && now.Sub(l.At) < learntFor
}

// with is the text with what a token knows.
func (l learnt) with(known token.Learnt) learnt {
	l.NoSessionKeys, l.Made, l.Gaps = known.NoSessionKeys, nil, nil
	for _, kind := range known.Made {
		spec, _ := namesOf(kind)
		l.Made = append(l.Made, spec)
	}
	for _, gap := range known.Gaps {
		spec, algorithm := namesOf(gap.Kind)
		l.Gaps = append(l.Gaps, learntGap{spec, algorithm, gap.What, gap.Func, gap.RV, records.Time(gap.At)})
	}
	return l
}

// token is what the text says to a token, but for what is odd.
func (l learnt) token(now time.Time) (known token.Learnt, odd []error) {
	known.Since, known.NoSessionKeys = l.At, l.NoSessionKeys
	for _, spec := range l.Made {
		kind, err := kindNamed(spec, "")
		if err != nil {
			odd = append(odd, err)
			continue
		}
		known.Made = append(known.Made, kind)
	}
	for _, g := range l.Gaps {
		gap, err := g.token(now)
		if err != nil {
			odd = append(odd, err)
			continue
		}
		known.Gaps = append(known.Gaps, gap)
	}
	return known, odd
}

// What a gap may say: its words are shown to callers.
var (
	gapWhat = regexp.MustCompile(`^[A-Za-z0-9_ -]{1,64}$`)
	gapFunc = regexp.MustCompile(`^(C_[A-Za-z]{1,32})?$`)
)

func (g learntGap) token(now time.Time) (token.LearntGap, error) {
	kind, err := kindNamed(g.KeySpec, g.Algorithm)
	switch {
	case err != nil:
		return token.LearntGap{}, err
	case !gapWhat.MatchString(g.What), !gapFunc.MatchString(g.Func), g.At.After(now):
		return token.LearntGap{}, fmt.Errorf("what %s lacks is unreadable", g.KeySpec)
	}
	return token.LearntGap{Kind: kind, What: g.What, Func: g.Func, RV: g.RV, At: g.At}, nil
}

// namesOf are the names of the API for a kind.
func namesOf(kind token.Kind) (spec, algorithm string) {
	for _, s := range slices.Concat(MACSpecs, SignSpecs) {
		if s.Hash == kind.Hash && s.Pair == kind.Spec {
			spec = string(s.Name)
		}
	}
	for _, known := range signingAlgorithms {
		if known.algorithm == kind.Algorithm {
			algorithm = string(known.name)
		}
	}
	return spec, algorithm
}

// kindNamed is the kind that has these names.
func kindNamed(spec, algorithm string) (kind token.Kind, err error) {
	s := SpecOf(types.KeySpec(spec))
	if s == nil {
		return kind, fmt.Errorf("there is no key spec %q", spec)
	}
	kind = token.Kind{Hash: s.Hash, Spec: s.Pair}
	if algorithm == "" {
		return kind, nil
	}
	a, ok := SigningAlgorithm(types.SigningAlgorithmSpec(algorithm))
	if !ok || !s.Pair.Allows(a) {
		return kind, fmt.Errorf("%s has no algorithm %q", spec, algorithm)
	}
	kind.Algorithm = a
	return kind, nil
}

// kind is that of the spec's keys.
func (s *Spec) kind() token.Kind { return token.Kind{Hash: s.Hash, Spec: s.Pair} }

// Learnt tells what is known of a spec that the token lets nobody try: that its keys were made and used, or why they cannot be.
func (s *Spec) Learnt(t *token.Token) (made bool, gap error) {
	l := t.Learnt()
	for _, g := range l.Gaps {
		if g.Kind == s.kind() {
			return false, g.Err()
		}
	}
	return slices.Contains(l.Made, s.kind()), nil
}

// recall reads what was learnt of the token of a region.
func recall(ctx context.Context, store keystore.Store, region string, i token.Info, log *slog.Logger) token.Learnt {
	bound, _, err := readRegion(ctx, store, region)
	if err != nil {
		return token.Learnt{} // which somebody else will say
	}
	now := time.Now()
	l, err := decodeLearnt(bound.Learnt)
	if err == nil && !l.holds(i, now) {
		return token.Learnt{}
	}
	known, odd := l.token(now)
	if err = errors.Join(append(odd, err)...); err != nil && log != nil {
		log.Warn("what the store says of the token of a region is odd, and is passed over", "region", region, "error", err)
	}
	return known
}

func decodeLearnt(text json.RawMessage) (l learnt, err error) {
	if len(text) > 0 {
		err = json.Unmarshal(text, &l)
	}
	if err != nil {
		return learnt{}, err
	}
	return l, nil
}

// keepLearnt puts what is known of the token of a region into the region's record, where it has changed. That it cannot be kept is no
// reason to refuse anything.
func (r *Ring) keepLearnt(ctx context.Context, in *Region) {
	known := in.Token.Learnt()
	if kept := in.kept.Load(); kept != nil && reflect.DeepEqual(*kept, known) {
		return
	}
	ctx, cancel := r.outlast(ctx)
	defer cancel()
	err := records.RetryConflicts(ctx, func() error { return r.putLearnt(ctx, in, known) })
	if err != nil && !errors.Is(err, keystore.ErrReadOnly) {
		r.cfg.Log.Warn("what was found out about the token of a region cannot be kept", "region", in.Name, "error", err)
		return
	}
	in.kept.Store(&known)
}

func (r *Ring) putLearnt(ctx context.Context, in *Region, known token.Learnt) error {
	bound, version, err := readRegion(ctx, r.cfg.Store, in.Name)
	if err != nil || version == 0 {
		return err
	}
	var text json.RawMessage
	if !known.Nothing() {
		if text, err = json.Marshal(learntOf(in.Token.Info(), known.Since).with(known)); err != nil {
			return err
		}
	}
	if bytes.Equal(text, bound.Learnt) {
		return nil
	}
	bound.Learnt = text
	_, err = r.cache.Commit(ctx, bound.Put(version))
	return err
}
