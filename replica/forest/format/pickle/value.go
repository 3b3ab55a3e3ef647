package pickle

// Global is the name of a Python class or function. It is a value like any other: nothing resolves it.
type Global struct {
	Module string
	Name   string // may hold dots, for a nested class
}

// String gives the name as Python would write it.
func (g Global) String() string { return g.Module + "." + g.Name }

// Tuple is a tuple's items.
type Tuple []any

// List is a list. It is a pointer where it occurs, since it may be filled after it was referred to.
type List struct {
	Items []any
}

// Set stands for a set or a frozenset, of which only the size is kept.
type Set struct {
	Size int
}

// Dict is a dict, of which the string keys can be looked up. Other keys are counted and not kept: no
// attribute of an object has one.
type Dict struct {
	items map[string]any
	other int
}

// Get gives the value of a string key. A nil Dict has none.
func (d *Dict) Get(key string) (any, bool) {
	if d == nil {
		return nil, false
	}
	v, ok := d.items[key]
	return v, ok
}

// Len is the number of string keys, and of assignments to keys of other kinds.
func (d *Dict) Len() int {
	if d == nil {
		return 0
	}
	return len(d.items) + d.other
}

// Object records the call that would have made an object: of a class, or of a function that returns one.
type Object struct {
	Class Global
	Args  Tuple
	// State is what the pickle gave the object after it was made, often a *Dict of attributes. Nil when
	// it gave none.
	State any
	built bool
}
