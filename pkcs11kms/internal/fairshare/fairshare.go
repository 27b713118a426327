// Package fairshare shares a limited amount of something (connections, bytes) among peers who have proved nothing. Nobody is
// refused for what others hold: when more is asked for than there is, the peer that holds most gives up its oldest share.
package fairshare

import (
	"container/heap"
	"container/list"
	"net/netip"
	"sync"
)

// Peer is who a share counts for: one IPv4 address, one IPv6 network of 64 bits, this machine, or everybody whose address is
// not known.
type Peer = netip.Prefix

// thisMachine is the peer of all loopback addresses: a local user can choose among 16 million of them.
var thisMachine = netip.MustParsePrefix("127.0.0.0/8")

// PeerOf returns the peer with an address HOST:PORT. Any other text, such as the name of a unix socket, gives the zero Peer.
func PeerOf(address string) Peer {
	parsed, err := netip.ParseAddrPort(address)
	if err != nil {
		return Peer{}
	}
	ip := parsed.Addr().Unmap().WithZone("")
	switch {
	case ip.IsLoopback():
		return thisMachine
	case ip.Is4():
		return netip.PrefixFrom(ip, 32)
	}
	return netip.PrefixFrom(ip, 64).Masked()
}

// Pool is the amount that is shared. Safe for concurrent use.
type Pool struct {
	mu    sync.Mutex // guards the rest, and all of the Pool's shares and peers
	limit int
	used  int
	joins int64 // how many shares there have been
	peers map[Peer]*holder
	order byAmount
}

// New makes a Pool of an amount, at least 1.
func New(limit int) *Pool { return &Pool{limit: max(limit, 1), peers: map[Peer]*holder{}} }

// Limit is the amount that is shared.
func (p *Pool) Limit() int { return p.limit }

// Used is the amount that is held now.
func (p *Pool) Used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// Share is a part of a Pool.
type Share struct {
	pool   *Pool
	holder *holder
	amount int
	number int64 // in the order of joining
	yield  func()
	elem   *list.Element // in the holder's shares; nil when the share is left or lost
}

// Join takes an amount for a peer. When the share has to be given up, it is lost already, and yield is called once by the
// goroutine that takes its place.
func (p *Pool) Join(peer Peer, amount int, yield func()) *Share {
	p.mu.Lock()
	h := p.peers[peer]
	if h == nil {
		h = &holder{name: peer}
		p.peers[peer] = h
		heap.Push(&p.order, h)
	}
	p.joins++
	s := &Share{pool: p, holder: h, number: p.joins, yield: yield}
	s.elem = h.shares.PushBack(s)
	lost := p.add(s, amount)
	p.mu.Unlock()
	giveUp(lost)
	return s
}

// Grow makes a share larger. It returns false when the share is lost, be it before or for the sake of this growth.
func (s *Share) Grow(amount int) bool {
	s.pool.mu.Lock()
	var lost []*Share
	if s.elem != nil {
		lost = s.pool.add(s, amount)
	}
	held := s.elem != nil
	s.pool.mu.Unlock()
	for _, other := range lost {
		if other != s {
			other.yield()
		}
	}
	return held
}

// Leave gives a share back. It returns false when the share was lost before.
func (s *Share) Leave() bool {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	held := s.elem != nil
	if held {
		s.pool.remove(s)
	}
	return held
}

func giveUp(lost []*Share) {
	for _, s := range lost {
		s.yield()
	}
}

// add enlarges a share and removes others until the limit holds again. It is called with p.mu held.
func (p *Pool) add(s *Share, amount int) (lost []*Share) {
	s.amount += amount
	s.holder.amount += amount
	p.used += amount
	heap.Fix(&p.order, s.holder.index)
	for p.used > p.limit {
		oldest := p.order[0].oldest()
		p.remove(oldest)
		lost = append(lost, oldest)
	}
	return lost
}

// remove is called with p.mu held, for a share that is held.
func (p *Pool) remove(s *Share) {
	h := s.holder
	h.shares.Remove(s.elem)
	s.elem = nil
	h.amount -= s.amount
	p.used -= s.amount
	if h.shares.Len() == 0 {
		heap.Remove(&p.order, h.index)
		delete(p.peers, h.name)
		return
	}
	heap.Fix(&p.order, h.index)
}

// holder is what one peer has of a Pool: at least one share, but for a moment in Join.
type holder struct {
	name   Peer
	amount int
	shares list.List // of *Share, oldest first
	index  int       // in the Pool's order
}

func (h *holder) oldest() *Share { return h.shares.Front().Value.(*Share) }

// byAmount is a heap of holders; the first is the one that gives way next.
type byAmount []*holder

func (b byAmount) Len() int { return len(b) }

func (b byAmount) Less(i, j int) bool {
	if b[i].amount != b[j].amount {
		return b[i].amount > b[j].amount
	}
	return b[i].number() < b[j].number()
}

func (h *holder) number() int64 {
	if h.shares.Len() == 0 {
		return 0
	}
	return h.oldest().number
}

func (b byAmount) Swap(i, j int) {
	b[i], b[j] = b[j], b[i]
	b[i].index, b[j].index = i, j
}

func (b *byAmount) Push(x any) {
	h := x.(*holder)
	h.index = len(*b)
	*b = append(*b, h)
}

func (b *byAmount) Pop() any {
	last := len(*b) - 1
	h := (*b)[last]
	(*b)[last] = nil
	*b = (*b)[:last]
	return h
}
