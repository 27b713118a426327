package fairshare

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A client that can choose among many addresses is one peer.
func TestPeersThatOneClientCanBeAreOne(t *testing.T) {
	for want, addresses := range map[string][]string{
		"192.0.2.7/32":      {"192.0.2.7:1", "192.0.2.7:65535", "[::ffff:192.0.2.7]:1"},
		"192.0.2.8/32":      {"192.0.2.8:1"},
		"2001:db8:0:1::/64": {"[2001:db8:0:1::1]:1", "[2001:db8:0:1:ffff:ffff:ffff:ffff]:2"},
		"2001:db8:0:2::/64": {"[2001:db8:0:2::1]:1"},
		"fe80::/64":         {"[fe80::1%eth0]:1", "[fe80::2%eth1]:1"},
		"127.0.0.0/8":       {"127.0.0.1:1", "127.255.1.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1"},
		"invalid Prefix":    {"", "@", "/run/admin", "192.0.2.7", "localhost:1"},
	} {
		for _, address := range addresses {
			require.Equal(t, want, PeerOf(address).String(), address)
		}
	}
}

func peer(i int) Peer { return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32) }

// The peer that holds most gives way, with its oldest share first; among equals whoever has held longest.
func TestWhoGivesWay(t *testing.T) {
	p := New(4)
	var lost []string
	join := func(i, amount int, name string) *Share {
		return p.Join(peer(i), amount, func() { lost = append(lost, name) })
	}
	first := join(1, 1, "a1")
	join(2, 1, "b1")
	join(2, 1, "b2")
	join(2, 1, "b3")
	require.Empty(t, lost)
	join(3, 1, "c1")
	require.Equal(t, []string{"b1"}, lost, "of the peer that holds most")
	join(1, 1, "a2")
	require.Equal(t, []string{"b1", "a1"}, lost, "the newcomer's own peer would hold as much as the other, and has held longer")
	require.False(t, first.Leave(), "lost")
	require.False(t, first.Grow(1), "lost")
	join(4, 1, "d1")
	require.Equal(t, []string{"b1", "a1", "b2"}, lost)
	join(5, 1, "e1")
	require.Equal(t, []string{"b1", "a1", "b2", "b3"}, lost, "equals: the oldest")
}

// A share that grows beyond the limit gives way itself when its peer holds most and it is the oldest; its own yield is not
// called, since Grow says it.
func TestGrowth(t *testing.T) {
	p := New(10)
	var lost []string
	small := p.Join(peer(1), 4, func() { lost = append(lost, "small") })
	large := p.Join(peer(2), 4, func() { lost = append(lost, "large") })
	require.True(t, large.Grow(2))
	require.False(t, large.Grow(1))
	require.Empty(t, lost)
	require.True(t, small.Grow(6), "the room of the lost one is free")
	require.True(t, small.Leave())
	require.False(t, small.Leave())
	require.Zero(t, p.used)
	require.Empty(t, p.peers)
	require.Empty(t, p.order)

	whole := p.Join(peer(1), 11, func() { lost = append(lost, "whole") })
	require.Equal(t, []string{"whole"}, lost, "more than there is")
	require.False(t, whole.Leave())
}

// Whatever happens at once, the limit holds, nothing is lost without a word, and all is free in the end.
func TestAmountsAddUp(t *testing.T) {
	const limit, workers, rounds = 50, 8, 2000
	p := New(limit)
	var wg sync.WaitGroup
	for worker := range workers {
		random := rand.New(rand.NewPCG(uint64(worker), 1))
		wg.Go(func() {
			var held []*Share
			for range rounds {
				switch random.IntN(3) {
				case 0:
					held = append(held, p.Join(peer(random.IntN(5)), 1+random.IntN(5), func() {}))
				case 1:
					if len(held) > 0 {
						held[random.IntN(len(held))].Grow(random.IntN(5))
					}
				case 2:
					if len(held) > 0 {
						held[0].Leave()
						held = held[1:]
					}
				}
				assert.NoError(t, p.check())
			}
			for _, s := range held {
				s.Leave()
			}
		})
	}
	wg.Wait()
	require.NoError(t, p.check())
	require.Zero(t, p.used)
	require.Empty(t, p.peers)
}

// check compares the sums with their parts.
func (p *Pool) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	total := 0
	for _, h := range p.peers {
		sum := 0
		for e := h.shares.Front(); e != nil; e = e.Next() {
			sum += e.Value.(*Share).amount
		}
		if sum != h.amount || h.shares.Len() == 0 || p.order[h.index] != h || p.order.Less(h.index, 0) {
			return fmt.Errorf("%v: shares of %d, noted %d", h.name, sum, h.amount)
		}
		total += sum
	}
	if total != p.used || total > p.limit || len(p.order) != len(p.peers) {
		return fmt.Errorf("%d of %d used, noted %d", total, p.limit, p.used)
	}
	return nil
}
