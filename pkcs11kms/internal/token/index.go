package token

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// Where C_FindObjects looks at every object of the token (measured: SoftHSM, 84 ms for 10,000 of them), a process that begins its work with
// a thousand keys in use would look at each object a thousand times. So after a few searches that took long it looks once and remembers
// for a while which handle has which CKA_ID. What is remembered gives no right and is not believed: a handle from here is used like one
// that was just found, and whether it is the key's is read from the token before the first answer leaves (see confirm).

const (
	// longSearch is how long a search takes that is worth being counted, and searchesBefore how many of them come before the look at all.
	longSearch     = time.Millisecond
	searchesBefore = 8
	// indexFor is how long what was seen is remembered, and how long it is until the next look at the earliest.
	indexFor = time.Minute
	// indexPatience is how long a search waits for a look that another one has begun.
	indexPatience = time.Second
)

// objectName is what a key is found by.
type objectName struct {
	class uint
	id    string
}

// index remembers the objects of a token after a look at all of them.
type index struct {
	mu         sync.Mutex // guards the rest; never held during a C call
	generation uint64     // of the connection that the rest is about
	searches   int        // that took long since the last look
	looked     time.Time  // when the last look began
	looking    chan struct{}
	objects    map[objectName]pkcs11.ObjectHandle // each is taken once; 0, which is no handle, for those that share a name
}

// locate finds an object by a search, or by what a look at all objects has shown. sought tells which.
func (s *session) locate(class uint, id []byte) (object pkcs11.ObjectHandle, sought bool, err error) {
	if !s.token.facts().quirk.searchesAll {
		object, err = s.find(class, id)
		return object, true, err
	}
	if object, ok := s.remembered(objectName{class, string(id)}); ok {
		return object, false, nil
	}
	began := time.Now()
	object, err = s.find(class, id)
	if err == nil && time.Since(began) >= longSearch {
		s.token.index.count(s.generation)
	}
	return object, true, err
}

// remembered takes an object out of the index, which is made if it is time. Whoever comes while another one makes it waits a while.
func (s *session) remembered(name objectName) (object pkcs11.ObjectHandle, ok bool) {
	x := &s.token.index
	looking, mine := x.begin(s.generation)
	switch {
	case mine:
		objects, err := s.lookAtAll()
		x.end(s.generation, objects, err)
		close(looking)
	case looking != nil:
		patience := time.NewTimer(indexPatience)
		defer patience.Stop()
		select {
		case <-looking:
		case <-patience.C:
			return 0, false
		}
	}
	return x.take(s.generation, name)
}

// begin returns what is closed when the look that is under way has ended, or nil; mine says that it is the caller's to make.
func (x *index) begin(generation uint64) (looking chan struct{}, mine bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.renew(generation)
	if x.looking == nil && x.searches >= searchesBefore && time.Since(x.looked) >= indexFor {
		x.looking, x.looked, x.searches = make(chan struct{}), time.Now(), 0
		return x.looking, true
	}
	return x.looking, false
}

// end notes what a look has seen. One that failed is not made again before it is time.
func (x *index) end(generation uint64, objects map[objectName]pkcs11.ObjectHandle, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.looking = nil
	if err == nil && x.generation == generation {
		x.objects = objects
		time.AfterFunc(indexFor-time.Since(x.looked), x.expire)
	}
}

// expire frees what nobody may take any more.
func (x *index) expire() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if time.Since(x.looked) >= indexFor {
		x.objects = nil
	}
}

// take takes an object out: who comes back for it does so because its handle was none, and must search.
func (x *index) take(generation uint64, name objectName) (object pkcs11.ObjectHandle, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.generation != generation {
		return 0, false
	}
	object = x.objects[name]
	delete(x.objects, name)
	return object, object != 0
}

// count notes a search that took long.
func (x *index) count(generation uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.renew(generation)
	x.searches++
}

// renew forgets what is known of an earlier connection. The caller holds mu.
func (x *index) renew(generation uint64) {
	if x.generation != generation {
		x.generation, x.searches, x.looked, x.objects = generation, 0, time.Time{}, nil
	}
}

// lookAtAll reads class and CKA_ID of every object of the token. It goes on when its caller has gone: it is for all, and there is no other
// one for a while.
func (s *session) lookAtAll() (map[objectName]pkcs11.ObjectHandle, error) {
	handles, err := s.search([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}, maxObjects)
	if err != nil {
		return nil, err
	}
	objects := map[objectName]pkcs11.ObjectHandle{}
	for _, handle := range handles {
		values, err := s.attributes(handle, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, nil), pkcs11.NewAttribute(pkcs11.CKA_ID, nil)})
		if errors.Is(err, ErrKeyMissing) || isRV(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
			continue // it is gone, or has no CKA_ID
		}
		if err != nil {
			return nil, err
		}
		if len(values) != 2 {
			return nil, fmt.Errorf("looking at all objects: %w: %d attributes instead of 2", ErrMalformed, len(values))
		}
		name := objectName{ulong(values[0].Value), string(values[1].Value)}
		if _, twice := objects[name]; twice {
			handle = 0
		}
		objects[name] = handle
	}
	return objects, nil
}
