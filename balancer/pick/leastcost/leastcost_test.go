package leastcost

import (
	"math/rand/v2"
	"testing"

	"github.com/coppice-mesh/coppice/balancer/pick"
)

func pool(costs ...int64) []pick.Replica {
	rs := make([]pick.Replica, len(costs))
	for i, c := range costs {
		rs[i].Load = &pick.Load{}
		if c > 0 {
			rs[i].Load.Acquire(c, 0)
		}
	}
	return rs
}

func TestPick(t *testing.T) {
	tests := []struct {
		name string
		pool []pick.Replica
		info pick.Info
		want int
	}{
		{"the least", pool(30, 10, 20), pick.Info{Cost: 1}, 1},
		{"one of 1", pool(30), pick.Info{Cost: 1}, 0},
		{"a request without cost", pool(1, 0), pick.Info{}, 1},
	}
	tried := pool(30, 10, 20)
	tests = append(tests, struct {
		name string
		pool []pick.Replica
		info pick.Info
		want int
	}{"not again", tried, pick.Info{Cost: 1, Tried: []*pick.Load{tried[1].Load}}, 2})

	suspect := pool(1000, 0, 0)
	suspect[1].Suspect, suspect[2].Suspect = true, true
	tests = append(tests, struct {
		name string
		pool []pick.Replica
		info pick.Info
		want int
	}{"ready before suspect", suspect, pick.Info{Cost: 1}, 0})

	// 300 at twice the speed is done before 200 at its own; for a big request already the idle slow one loses.
	rates := pool(300, 200)
	rates[0].Rate, rates[1].Rate = 2, 1
	tests = append(tests, struct {
		name string
		pool []pick.Replica
		info pick.Info
		want int
	}{"rate", rates, pick.Info{Cost: 10}, 0})

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Policy{}.Build(tt.pool, rand.Uint64).Pick(tt.info)
			if err != nil || got != tt.want {
				t.Errorf("picked %d (%v), want %d", got, err, tt.want)
			}
		})
	}
}

// TestIdleShare: equal replicas get equal shares, wherever the unequal ones stand in the list.
func TestIdleShare(t *testing.T) {
	for _, costs := range [][]int64{{0, 0, 0}, {9, 0, 0}, {0, 9, 0, 9, 0}, {0, 0, 9}} {
		rs := pool(costs...)
		random := rand.New(rand.NewPCG(3, 4))
		p := Policy{}.Build(rs, random.Uint64)
		const picks = 6000
		got := make([]int, len(costs))
		idle := 0
		for _, c := range costs {
			if c == 0 {
				idle++
			}
		}
		for range picks {
			i, err := p.Pick(pick.Info{Cost: 4})
			if err != nil {
				t.Fatal(err)
			}
			got[i]++
			rs[i].Load.Release(4)
		}
		for i, c := range costs {
			want := 0
			if c == 0 {
				want = picks / idle
			}
			if d := got[i] - want; d > 250 || d < -250 {
				t.Errorf("costs %v: shares %v, want %d for replica %d", costs, got, want, i)
			}
		}
	}
}

// TestBalancesWork: what is outstanding stays level when costs differ by a thousand.
func TestBalancesWork(t *testing.T) {
	rs := pool(0, 0, 0, 0)
	random := rand.New(rand.NewPCG(5, 6))
	p := Policy{}.Build(rs, random.Uint64)
	var total int64
	for range 4000 {
		cost := int64(1)
		if random.IntN(20) == 0 {
			cost = 1000
		}
		if _, err := p.Pick(pick.Info{Cost: cost}); err != nil {
			t.Fatal(err)
		}
		total += cost
	}
	for i := range rs {
		if d := rs[i].Load.Cost() - total/4; d > 1000 || d < -1000 {
			t.Errorf("replica %d has %d of %d", i, rs[i].Load.Cost(), total)
		}
	}
}
