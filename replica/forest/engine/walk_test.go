package engine

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// walkCase is a random forest with rows, in memory beside pages that must not be touched.
type walkCase struct {
	w       *laneForest
	nodes   []word
	columns []uint32
	form    *form
}

func copied[V any](t *testing.T, from []V, start bool) []V {
	to := guarded[V](t, len(from), start)
	copy(to, from)
	return to
}

// drawWalks makes a case with n rows, of which half of the cases miss no value.
func drawWalks(t *testing.T, random *rand.Rand, n int, start bool) walkCase {
	all := slices.DeleteFunc(styles(), func(s style) bool { return s.linear })
	var w *laneForest
	var features int
	for w == nil { // some have too many sets
		s := all[random.IntN(len(all))]
		s.Outputs, s.Width = 1, 1
		features = 1 + random.IntN(40)
		f, _ := draw(t, random, s, 1+random.IntN(6), random.IntN(12), features)
		w = newLaneForest(newAsk(f), highest)
	}
	rows := drawRows(random, n, features)
	if random.IntN(2) == 0 {
		for i, v := range rows {
			if v != v || math.Abs(v) <= 1e-30 {
				rows[i] = 1
			}
		}
	}
	columns, form := fill(&w.columns, nil, rows, features)
	return walkCase{w, copied(t, w.nodes, start), copied(t, columns, start), form}
}

// leaf follows a row from a node of a tree to its leaf.
func (c *walkCase) leaf(tree []word, n word, row int) word {
	lane := c.columns[row/laneCount*c.form.group+row%laneCount:]
	for !n.isLeaf() {
		child := c.form.left.of(n)
		if lane[2*c.form.column.of(n)] > n.key() {
			child++
		}
		n = tree[child]
	}
	return n
}

func TestWalkRows(t *testing.T) {
	eachPlace(t, func(t *testing.T, l level, random *rand.Rand, start bool) {
		forms := map[bool]int{}
		for n := range 71 {
			c := drawWalks(t, random, n, start)
			forms[c.form == &c.w.columns.wide]++
			n = (n + laneCount - 1) / laneCount * laneCount
			for k, at := range c.w.trees {
				tree := c.nodes[at.base:]
				size := len(c.w.ahead(k - 1))
				if k == len(c.w.trees)-1 {
					size-- // the word that is read with the last leaf
				}
				// From the root all rows, and then each from a node of its own, in place.
				from, to := guarded[word](t, laneCount, start), guarded[word](t, n, start)
				for i := range from {
					from[i] = tree[0]
				}
				l.walkRows(tree, c.form, c.columns, from, 0, to, int(at.steps), c.w.ahead(k))
				for i, leaf := range to {
					if want := c.leaf(tree, tree[0], i); leaf != want {
						t.Fatalf("%d rows, tree %d: row %d is at %x, want %x", n, k, i, leaf, want)
					}
				}
				starts := make([]word, n)
				for i := range starts {
					starts[i] = tree[0]
					if some := tree[random.IntN(size)]; some != 0 { // not beside the root
						starts[i] = some
					}
				}
				copy(to, starts)
				l.walkRows(tree, c.form, c.columns, to, laneCount, to, random.IntN(3), nil)
				for i, leaf := range to {
					if want := c.leaf(tree, starts[i], i); leaf != want {
						t.Fatalf("%d rows, tree %d: row %d from %x is at %x, want %x", n, k, i, starts[i], leaf, want)
					}
				}
			}
		}
		if forms[false] == 0 || forms[true] == 0 {
			t.Errorf("of the forms of columns some was not tried: %v", forms)
		}
	})
}

func TestWalkTrees(t *testing.T) {
	eachPlace(t, func(t *testing.T, l level, random *rand.Rand, start bool) {
		for range 40 {
			n := 1 + random.IntN(20)
			c := drawWalks(t, random, n, start)
			for i := range n {
				lane := c.columns[i/laneCount*c.form.group+i%laneCount:]
				to := copied(t, c.w.roots, start)
				l.walkTrees(c.nodes, c.form, lane, copied(t, c.w.trees, start), to)
				for k, leaf := range to {
					if want := c.leaf(c.nodes[c.w.trees[k].base:], c.w.roots[k], i); leaf != want {
						t.Fatalf("row %d, tree %d: at %x, want %x", i, k, leaf, want)
					}
				}
			}
		}
	})
}
