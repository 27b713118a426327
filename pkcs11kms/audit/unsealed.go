package audit

import (
	"errors"
)

// FirstUnsealed returns of each chain of a directory the first record that comes after what was sealed, seals aside: sealed tells by chain
// up to which record that is. Nothing is verified, and Records is not counted.
func FirstUnsealed(dir string, sealed map[string]uint64) (all []Unsealed, err error) {
	found, err := list(dir)
	if err != nil {
		return nil, err
	}
	for _, number := range found.numbers() {
		files := found.files[number]
		if len(files) == 0 {
			continue
		}
		end, err := endOf(files)
		if err != nil {
			return nil, err
		}
		upTo := sealed[end.place.chain]
		for len(files) > 1 && files[1].first <= upTo+1 {
			files = files[1:]
		}
		first, err := firstUnsealed(files, upTo)
		if err != nil {
			return nil, err
		}
		all = append(all, first...)
	}
	return all, nil
}

var errEnough = errors.New("enough was read")

func firstUnsealed(files []file, upTo uint64) (first []Unsealed, err error) {
	for _, f := range files {
		err := scanFile(f, func(line []byte) error {
			at, err := linkOf(line)
			if err != nil || at.seq <= upTo || sealOf(line) != nil {
				return err
			}
			first = []Unsealed{{Chain: at.chain, Seq: at.seq}}
			first[0].Time, _ = timeOf(line)
			return errEnough
		})
		if err != nil && !errors.Is(err, errEnough) {
			return nil, err
		}
		if first != nil {
			break
		}
	}
	return first, nil
}
