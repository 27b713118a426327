package audit

import (
	"errors"
	"fmt"
	"path/filepath"
)

// followed is what is known of the keys that have followed others.
type followed struct {
	keys SealKeys         // that handovers name
	from map[string]*seal // the handover of each key that has been followed, by its id
	upTo map[string]map[string]uint64
	most map[string]uint64 // of each chain, the last record that any handover names
}

// Errors of handovers.
var (
	errFollowedTwice = errors.New("its key was followed by another one already")
	errNotHad        = errors.New("it names a key that has not signed it")
)

// follow finds the handovers that are valid by the keys that were given, and by those that they name. One to a key that was given comes
// first: whoever has the use of the old key alone may have made others.
func (v *verifier) follow() {
	v.followed = followed{keys: SealKeys{}, from: map[string]*seal{}, upTo: map[string]map[string]uint64{}, most: map[string]uint64{}}
	var left []*seal
	for _, s := range v.seals.all {
		if s.next == nil || s.err != nil {
			continue
		}
		if s.err = v.coSigned(s); s.err == nil {
			left = append(left, s)
		}
	}
	left = v.accept(left, func(s *seal) (bool, error) {
		if v.known.Check(s.text, s.co) != nil {
			return false, nil
		}
		err := v.known.Check(s.text, s.by)
		if errors.Is(err, ErrNoSuchKey) {
			err = nil // the new key's word is enough
		}
		return true, err
	})
	for before := -1; before != len(left); {
		before = len(left)
		left = v.accept(left, func(s *seal) (bool, error) {
			err := v.signed(s.text, s.by)
			return !errors.Is(err, ErrNoSuchKey), err
		})
	}
}

// accept takes up the handovers that may be judged, and returns the others.
func (v *verifier) accept(all []*seal, judge func(*seal) (now bool, err error)) (left []*seal) {
	for _, s := range all {
		now, err := judge(s)
		switch first := v.followed.from[s.next.from]; {
		case !now:
			left = append(left, s)
			continue
		case err != nil:
			s.err = err
		case s.by.Key != s.next.from:
			s.err = ErrWrongSignature
		case first != nil && first.next.to != s.next.to:
			s.err = fmt.Errorf("%w, in %s:%d", errFollowedTwice, filepath.Base(first.file), first.line)
		default:
			v.takeUp(s)
		}
	}
	return left
}

// takeUp takes up a valid handover. Of two that name the same keys, as two processes may have made them, what the later names counts too:
// the new key has signed both.
func (v *verifier) takeUp(s *seal) {
	s.accepted = true
	if v.followed.from[s.next.from] == nil {
		v.followed.from[s.next.from] = s
		v.followed.upTo[s.next.from] = map[string]uint64{}
	}
	for _, h := range s.heads {
		upTo := v.followed.upTo[s.next.from]
		upTo[h.Chain] = max(upTo[h.Chain], h.Seq)
		v.followed.most[h.Chain] = max(v.followed.most[h.Chain], h.Seq)
	}
	if s.next.public != nil {
		keys, _ := SealKeyOf(s.next.public) // which was parsed before
		v.followed.keys[s.next.to] = keys[s.next.to]
	}
}

// coSigned tells whether the new key has signed a handover.
func (v *verifier) coSigned(s *seal) error {
	check := v.known.Check
	if s.next.public != nil {
		keys, err := SealKeyOf(s.next.public)
		if err != nil {
			return err
		}
		check = keys.Check
	}
	if check(s.text, s.co) != nil {
		return errNotHad
	}
	return nil
}

// signed tells whether a signature is by a key that was given, or by one that a handover names.
func (v *verifier) signed(text []byte, by Signature) error {
	err := v.known.Check(text, by)
	if errors.Is(err, ErrNoSuchKey) && v.followed.keys[by.Key] != nil {
		err = v.followed.keys.Check(text, by)
	}
	return err
}

// judge tells whether a seal is valid, and whether it counts. later tells of the chain that it stands in which keys have been followed
// before it there, or have left a seal that does not count.
func (v *verifier) judge(s *seal, later map[string]bool) {
	switch {
	case s.err != nil:
		return
	case s.accepted:
		v.passed(s.next.to, later)
		return
	}
	s.err = v.signed(s.text, s.by)
	before := s.at.seq <= v.followed.most[s.at.chain]
	switch over := v.followed.from[s.by.Key]; {
	case errors.Is(s.err, ErrNoSuchKey) && before:
		s.err, s.idle = nil, "seals from before a handover are by keys that were not given"
	case s.err != nil:
	case over == nil || s.at.seq <= v.followed.upTo[s.by.Key][s.at.chain]:
		v.passed(s.by.Key, later)
	case later[s.by.Key]:
		s.err = fmt.Errorf("its key was followed by another one, in %s:%d", filepath.Base(over.file), over.line)
	default:
		later[s.by.Key] = true
		s.idle = "seals were made while their key was being followed by another one"
	}
}

// passed notes that a chain has a seal by a key: those which that has followed have no seals there any more.
func (v *verifier) passed(key string, later map[string]bool) {
	for from, over := range v.followed.from {
		if over.next.to == key && !later[from] {
			later[from] = true
			v.passed(from, later)
		}
	}
}
