package policies

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/coppice-mesh/coppice/balancer/pick"
)

func TestByName(t *testing.T) {
	for _, name := range Names() {
		p, err := ByName(name)
		if err != nil || p.Name() != name {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	if _, err := ByName("coin"); !errors.Is(err, ErrUnknown) {
		t.Errorf("error %v", err)
	}
	if Default().Name() != Names()[0] {
		t.Error("the default is not the first")
	}
}

// every runs a test with every policy: what is tested in this file holds for all of them.
func every(t *testing.T, f func(*testing.T, func([]pick.Replica) pick.Picker)) {
	for _, p := range all {
		t.Run(p.Name(), func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			var mu sync.Mutex
			f(t, func(replicas []pick.Replica) pick.Picker {
				return p.Build(replicas, func() uint64 {
					mu.Lock()
					defer mu.Unlock()
					return random.Uint64()
				})
			})
		})
	}
}

func replicas(n int) []pick.Replica {
	rs := make([]pick.Replica, n)
	for i := range rs {
		rs[i].Load = &pick.Load{}
	}
	return rs
}

func TestEmptyPool(t *testing.T) {
	every(t, func(t *testing.T, build func([]pick.Replica) pick.Picker) {
		if _, err := build(nil).Pick(pick.Info{Cost: 1}); !errors.Is(err, pick.ErrNoReplica) {
			t.Errorf("error %v", err)
		}
	})
}

// TestEachOnce: a request that excludes what it tried sees every replica once and then none.
func TestEachOnce(t *testing.T) {
	every(t, func(t *testing.T, build func([]pick.Replica) pick.Picker) {
		rs := replicas(5)
		rs[3].Suspect = true
		p := build(rs)
		seen := make(map[int]bool)
		var info pick.Info
		for range rs {
			i, err := p.Pick(info)
			if err != nil || seen[i] {
				t.Fatalf("picked %d (%v) after %v", i, err, seen)
			}
			if i == 3 && len(seen) != 4 {
				t.Errorf("the suspect came before %d others", 4-len(seen))
			}
			seen[i] = true
			info.Tried = append(info.Tried, rs[i].Load)
		}
		if _, err := p.Pick(info); !errors.Is(err, pick.ErrNoReplica) {
			t.Errorf("error %v", err)
		}
	})
}

func TestBusy(t *testing.T) {
	every(t, func(t *testing.T, build func([]pick.Replica) pick.Picker) {
		rs := replicas(3)
		for i := range rs {
			rs[i].Limit = int64(i + 1)
		}
		rs[2].Suspect = true
		p := build(rs)
		for n := range 6 {
			i, err := p.Pick(pick.Info{Cost: 1})
			if err != nil {
				t.Fatalf("pick %d: %v", n, err)
			}
			if (n < 3) != (i < 2) {
				t.Errorf("pick %d went to replica %d", n, i)
			}
		}
		if _, err := p.Pick(pick.Info{Cost: 1}); !errors.Is(err, pick.ErrBusy) {
			t.Fatalf("error %v", err)
		}
		rs[0].Load.Release(1)
		if i, err := p.Pick(pick.Info{Cost: 1}); i != 0 || err != nil {
			t.Errorf("after a release: %d, %v", i, err)
		}
	})
}

// TestOrderDoesNotMatter: a pool in another order gets the same shares.
func TestOrderDoesNotMatter(t *testing.T) {
	every(t, func(t *testing.T, build func([]pick.Replica) pick.Picker) {
		share := func(order []int) map[int]int64 {
			loads := make([]*pick.Load, len(order))
			rs := make([]pick.Replica, len(order))
			for place, id := range order {
				loads[id] = &pick.Load{}
				loads[id].Acquire(int64(100*id), 0)
				rs[place] = pick.Replica{Load: loads[id]}
			}
			p := build(rs)
			for range 3000 {
				if _, err := p.Pick(pick.Info{Cost: 3}); err != nil {
					t.Fatal(err)
				}
			}
			got := make(map[int]int64)
			for id, l := range loads {
				got[id] = l.Cost()
			}
			return got
		}
		a, b := share([]int{0, 1, 2, 3}), share([]int{2, 0, 3, 1})
		for id := range a {
			if d := a[id] - b[id]; d > 6 || d < -6 {
				t.Errorf("replica %d has cost %d in one order and %d in another", id, a[id], b[id])
			}
		}
	})
}

// TestConcurrent: limits hold and nothing is lost when many pick at once.
func TestConcurrent(t *testing.T) {
	every(t, func(t *testing.T, build func([]pick.Replica) pick.Picker) {
		rs := replicas(4)
		for i := range rs {
			rs[i].Limit = 3
		}
		p := build(rs)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 5000 {
					i, err := p.Pick(pick.Info{Cost: 7})
					if errors.Is(err, pick.ErrBusy) {
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					if n := rs[i].Load.InFlight(); n > 3 {
						t.Errorf("%d in flight at a replica that may have 3", n)
					}
					rs[i].Load.Release(7)
				}
			})
		}
		wg.Wait()
		for i := range rs {
			if rs[i].Load.Cost() != 0 || rs[i].Load.InFlight() != 0 {
				t.Errorf("replica %d keeps cost %d, %d in flight", i, rs[i].Load.Cost(), rs[i].Load.InFlight())
			}
		}
	})
}

func TestNoAllocation(t *testing.T) {
	every(t, func(t *testing.T, build func([]pick.Replica) pick.Picker) {
		rs := replicas(8)
		p := build(rs)
		tried := []*pick.Load{rs[0].Load}
		got := testing.AllocsPerRun(100, func() {
			i, err := p.Pick(pick.Info{Cost: 5, Tried: tried})
			if err != nil {
				t.Fatal(err)
			}
			rs[i].Load.Release(5)
		})
		if got != 0 {
			t.Errorf("%v allocations", got)
		}
	})
}

func BenchmarkPick(b *testing.B) {
	for _, policy := range all {
		for _, n := range []int{2, 4, 32, 128} {
			b.Run(fmt.Sprintf("%s/replicas=%d", policy.Name(), n), func(b *testing.B) {
				rs := replicas(n)
				p := policy.Build(rs, rand.Uint64)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						i, err := p.Pick(pick.Info{Cost: 100})
						if err != nil {
							b.Fatal(err)
						}
						rs[i].Load.Release(100)
					}
				})
			})
		}
	}
}
