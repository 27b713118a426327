package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"
)

// The defaults of Options.
const (
	DefaultSealInterval = time.Minute
	DefaultSealIdle     = time.Hour
)

// maxSealed is how many chains one seal names at most: more are left to the next one.
const maxSealed = 500

// sealing makes the seals of a Log. Its fields belong to the goroutine that runs it and, once that has ended, to whoever ends it.
type sealing struct {
	l       *Log
	by      Sealer
	last    time.Time         // when the last seal was made, or sealing began
	looked  map[int]fileState // the newest file of each other chain as it was when the chain was last sealed
	sealed  map[string]uint64 // up to where the other chains are sealed
	pending map[string]Head   // what Keep is still to be told
	expired time.Time         // when was looked for what has expired

	inOffice     bool      // see stillInOffice
	noCheckpoint time.Time // before

	own        Head  // the last record of the log's own chain that a seal names
	ending     bool  // this is the last seal
	outsideErr error // of KeepOutside, the last time
}

// fileState tells whether a file was written to.
type fileState struct {
	path string
	size int64
	at   time.Time
}

// SealBy has the log sealed from now on: each SealInterval when there is something new in it or in the other chains of its directory, each
// SealIdle when there is not, after a rotation, and at the end, which stop is: it is to be called once, before the log and what the Sealer
// needs are closed, and ctx bounds it. After a rotation and at the end a checkpoint of the store comes before the seal. Calls never
// wait for seals. One that cannot be made is told by Warning, and made later. While one Sealer seals, others are not asked.
func (l *Log) SealBy(by Sealer) (stop func(ctx context.Context)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sealed || l.closed {
		return func(context.Context) {}
	}
	l.sealed = true
	if l.fresh.IsZero() && l.place.seq > 0 {
		l.fresh = time.Now() // what processes before this one have left
	}
	s := l.newSealing(by)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx) })
	return func(ctx context.Context) {
		cancel()
		running.Wait()
		s.noCheckpoint, s.ending = time.Time{}, true
		s.checkpoint(ctx, untilHalf(ctx)) // the seal has the rest
		s.try(ctx, true)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sealed = false
	}
}

func (l *Log) newSealing(by Sealer) *sealing {
	return &sealing{l: l, by: by, last: time.Now(), looked: map[int]fileState{}, sealed: map[string]uint64{}, pending: map[string]Head{}}
}

func (s *sealing) run(ctx context.Context) {
	tick := time.NewTicker(s.l.o.SealInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.l.nudge:
			s.checkpoint(ctx, checkpointLimit)
			s.try(ctx, false)
		case <-tick.C:
			s.try(ctx, true)
		}
	}
}

// try seals what is new, and tells the log what became of it. With keep, Keep is told, which so happens at most once an interval.
func (s *sealing) try(ctx context.Context, keep bool) {
	err := s.handOver(ctx)
	if err == nil && !s.inOffice { // asked once: the key that is used from then on is never an earlier one
		err = s.stillInOffice(ctx, "", s.by.Check)
		s.inOffice = err == nil
	}
	if err == nil {
		err = s.seal(ctx, addition{})
	}
	if err == nil && keep {
		if err = s.keep(ctx); err == nil {
			s.keepOutside(ctx)
			err = s.expire(ctx)
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return // the log ends, and tries once more
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if err != nil {
		s.l.counts.sealFailures.Add(1)
		if s.l.sealErr == nil {
			s.l.o.Logger.Warn("the audit log cannot be sealed", "error", err)
		}
	} else if s.l.sealErr != nil {
		s.l.o.Logger.Info("the audit log is sealed again")
	}
	s.l.sealErr = err
}

// addition is what a seal says beside how far chains went. Where it says anything it names all chains.
type addition struct {
	gone []Head    // what has expired
	over *Handover // nil: the key of the seals stays
}

func (a addition) none() bool { return len(a.gone) == 0 && a.over == nil }

// seal makes a seal, if there is anything to be sealed, or told.
func (s *sealing) seal(ctx context.Context, more addition) error {
	s.l.sealTurn.Lock()
	defer s.l.sealTurn.Unlock()
	if !more.none() {
		clear(s.looked)
		clear(s.sealed)
	}
	others, states, err := s.others(more.over != nil)
	switch {
	case err != nil:
		return err
	case !more.none() && len(others) >= maxSealed:
		return fmt.Errorf("there are %d chains and more: no seal names all of them", maxSealed)
	}
	own, fresh := s.l.takeFresh()
	isNew := !fresh.IsZero() || slices.ContainsFunc(others, func(o otherHead) bool { return o.fresh })
	if !isNew && more.none() && (time.Since(s.last) < s.l.o.SealIdle || own.Seq == 0) {
		return nil // fresh is zero
	}
	if err := s.write(ctx, own, others, more); err != nil {
		s.l.giveFreshBack(fresh)
		return err
	}
	s.l.endFresh()
	maps.Copy(s.looked, states)
	for _, o := range others {
		s.sealed[o.Chain] = o.Seq
	}
	s.last = time.Now()
	s.l.counts.seals.Add(1)
	return nil
}

// write writes a seal of the log's own chain and others. All of what it names is on the disk before: a power cut must not make it look
// as if records had been taken out.
func (s *sealing) write(ctx context.Context, own Head, others []otherHead, more addition) error {
	said := statement{gone: more.gone, time: s.l.o.Now()}
	if own.Seq > 0 {
		said.heads = append(said.heads, own)
		if err := s.l.durable(own.Seq); err != nil {
			return err
		}
	}
	for _, o := range others {
		said.heads = append(said.heads, o.Head)
	}
	e, err := s.event(ctx, said, more)
	if err != nil {
		return err
	}
	if err := s.l.take(e); err != nil {
		return err
	}
	for _, h := range said.heads {
		s.pending[h.Chain] = h
	}
	if own.Seq > 0 {
		s.own = own
	}
	return nil
}

// event is the event of a seal, which it signs.
func (s *sealing) event(ctx context.Context, said statement, more addition) (*Event, error) {
	if more.over != nil {
		return more.over.event(ctx, said)
	}
	name := sealName
	if len(more.gone) > 0 {
		name = expiryName
	}
	signature, err := s.by.Sign(ctx, said.text())
	return sealEvent(name, said.text(), signature), err
}

// keepOutside has kept outside of log and store what both have by now. That it cannot be is no failure of the seals.
func (s *sealing) keepOutside(ctx context.Context) {
	if s.own.Seq == 0 {
		return
	}
	err := s.by.KeepOutside(ctx, s.own, s.ending)
	if err != nil && s.outsideErr == nil {
		s.l.o.Logger.Warn("the token does not keep the last seal of the audit log", "error", err)
	} else if err == nil && s.outsideErr != nil {
		s.l.o.Logger.Info("the token keeps the last seal of the audit log again")
	}
	s.outsideErr = err
}

// keep has kept elsewhere what was sealed.
func (s *sealing) keep(ctx context.Context) error {
	if len(s.pending) == 0 {
		return nil
	}
	if err := s.by.Keep(ctx, slices.Collect(maps.Values(s.pending))); err != nil {
		return fmt.Errorf("keeping how far the audit log is sealed: %w", err)
	}
	clear(s.pending)
	return nil
}

// otherHead is the end of another chain of the directory.
type otherHead struct {
	Head
	fresh bool // its last record is no seal: whoever writes to it has not sealed it
}

// others returns the ends of the other chains that were written to since they were sealed here. A chain that cannot be read is left out,
// unless it must not be: its own process, or verification, tells that.
func (s *sealing) others(all bool) (heads []otherHead, states map[int]fileState, err error) {
	found, err := list(s.l.dir)
	if err != nil {
		return nil, nil, err
	}
	own := s.l.number()
	states = map[int]fileState{}
	for _, number := range sortedKeys(found.files) {
		files := found.files[number]
		if number == own || len(files) == 0 || len(heads) == maxSealed {
			continue
		}
		newest := files[len(files)-1]
		info, err := os.Stat(newest.name())
		if err != nil && all {
			return nil, nil, fmt.Errorf("chain %d: %w", number, err)
		}
		if err != nil {
			continue
		}
		state := fileState{newest.path, info.Size(), info.ModTime()}
		if s.looked[number] == state {
			continue
		}
		head, err := s.l.otherEnd(files)
		if err != nil {
			if all || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errBroken) {
				return nil, nil, fmt.Errorf("chain %d: %w", number, err)
			}
			continue
		}
		states[number] = state
		if head.Seq > s.sealed[head.Chain] {
			heads = append(heads, head)
		}
	}
	return heads, states, nil
}

// otherEnd reads the end of another chain, which is on the disk when it returns.
func (l *Log) otherEnd(files []file) (head otherHead, err error) {
	end, err := endOf(files)
	if err != nil || end.last == nil {
		return head, err
	}
	if l.o.Fsync != FsyncOff {
		if err := syncLast(l.dir, files); err != nil {
			return head, err
		}
	}
	return otherHead{Head{Chain: end.place.chain, Seq: end.place.seq, Hash: hexOf(end.place.prev)}, sealOf(end.last) == nil}, nil
}

// sealWarning is what an operator must know of the seals.
func (l *Log) sealWarning() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	since := l.unsealedSince()
	switch {
	case l.sealErr == nil:
		return ""
	case since.IsZero():
		return "the audit log cannot be sealed"
	}
	return fmt.Sprintf("the audit log cannot be sealed: it is unsealed since %s", since.UTC().Format(time.RFC3339))
}

// unsealedSince is since when there is a record that no seal covers; zero: there is none. mu is held.
func (l *Log) unsealedSince() time.Time {
	if !l.taken.IsZero() {
		return l.taken
	}
	return l.fresh
}

// syncLast brings to the disk what is written last in the files of a chain: the newest, and those before it that the disk may not have yet.
func syncLast(dir string, files []file) error {
	for i := len(files) - 1; i >= 0; i-- {
		r, err := openFile(files[i])
		if err != nil {
			return err
		}
		if f, ok := r.(*os.File); ok { // a compressed one was synced before it got its name
			err = f.Sync()
		}
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		if !files[i].fresh {
			break
		}
	}
	return syncDir(dir)
}

// number is that of the chain that is written to.
func (l *Log) number() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current.number
}

// takeFresh returns the last record that is written, and since when there was one that no seal covers; zero: there is none. From now on
// what the returned record covers counts as sealed.
func (l *Log) takeFresh() (own Head, fresh time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh = l.fresh
	l.fresh, l.taken = time.Time{}, fresh
	if l.place.seq != l.written.seq { // which may be such
		l.fresh = time.Now()
	}
	return Head{Chain: l.written.chain, Seq: l.written.seq, Hash: hexOf(l.written.prev)}, fresh
}

// giveFreshBack undoes takeFresh.
func (l *Log) giveFreshBack(fresh time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !fresh.IsZero() {
		l.fresh = fresh
	}
	l.taken = time.Time{}
}

// endFresh says that what takeFresh has returned is sealed.
func (l *Log) endFresh() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken = time.Time{}
}

// durable waits until a record is on the disk, where that is asked for.
func (l *Log) durable(seq uint64) error {
	if l.o.Fsync == FsyncOff {
		return nil
	}
	return l.sync(seq)
}

// sealSoon asks for a seal. mu may be held.
func (l *Log) sealSoon() {
	select {
	case l.nudge <- struct{}{}:
	default:
	}
}
