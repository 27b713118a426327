package keyring

import (
	"sync"

	"github.com/pkcs11kms/bridge/keystore"
)

// inProgress holds the keys that an instance is creating or deleting right now, so that its own janitor leaves them alone.
// Safe for concurrent use.
type inProgress struct {
	mu   sync.Mutex // guards refs and what it holds
	refs map[keystore.Ref]*mark
}

// mark says that a key is being worked on: by n, and until the channel, if there is one, is closed. Several can be at one
// record whose name is fixed, of whom all but one will lose.
type mark struct {
	n     int
	until <-chan struct{}
}

// instances are the working sets of this process: Rings that were given one Store are one instance.
var instances = struct {
	mu   sync.Mutex // guards sets and users
	sets map[string]*sharedInProgress
}{sets: map[string]*sharedInProgress{}}

type sharedInProgress struct {
	inProgress
	users int
}

// shareInProgress returns the working set of an instance; done ends the use of it.
func shareInProgress(instance string) (set *inProgress, done func()) {
	instances.mu.Lock()
	defer instances.mu.Unlock()
	shared, ok := instances.sets[instance]
	if !ok {
		shared = &sharedInProgress{}
		instances.sets[instance] = shared
	}
	shared.users++
	return &shared.inProgress, func() {
		instances.mu.Lock()
		defer instances.mu.Unlock()
		if shared.users--; shared.users == 0 {
			delete(instances.sets, instance)
		}
	}
}

// add marks a key; the returned function ends that mark, unless keep has prolonged it.
func (w *inProgress) add(ref keystore.Ref) (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of(ref).n++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.of(ref).n--
		w.marked(ref)
	}
}

// keep prolongs the mark of a key until the channel is closed.
func (w *inProgress) keep(ref keystore.Ref, until <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of(ref).until = until
}

func (w *inProgress) has(ref keystore.Ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.marked(ref)
}

// of returns the mark of a key. The caller holds mu.
func (w *inProgress) of(ref keystore.Ref) *mark {
	if w.refs == nil {
		w.refs = map[keystore.Ref]*mark{}
	}
	if w.refs[ref] == nil {
		w.refs[ref] = &mark{}
	}
	return w.refs[ref]
}

// marked tells whether a key has a mark that counts, and forgets one that does not any more. The caller holds mu.
func (w *inProgress) marked(ref keystore.Ref) bool {
	m, ok := w.refs[ref]
	if !ok {
		return false
	}
	select {
	case <-m.until:
		m.until = nil
	default: // also where there is no channel
	}
	if m.n > 0 || m.until != nil {
		return true
	}
	delete(w.refs, ref)
	return false
}
