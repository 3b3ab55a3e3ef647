package pickle

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Errors that every refusal wraps one of.
var (
	// ErrMalformed is wrapped when the input is not a pickle, is cut, or contradicts itself.
	ErrMalformed = errors.New("malformed pickle")
	// ErrUnsupported is wrapped when the input uses a part of the format that models do not use, such as
	// persistent ids or out-of-band buffers.
	ErrUnsupported = errors.New("unsupported pickle")
	// ErrLimit is wrapped when the input asks for more than its size justifies.
	ErrLimit = errors.New("pickle over its limit")
)

// Options says what a pickle may hold.
type Options struct {
	// Allow is asked about each name that the pickle mentions, before the name becomes a value. Its error
	// ends the reading and is wrapped by the one returned. Nil allows no name.
	Allow func(Global) error
	// Built is called when an object has been given its state and may return another value that takes its
	// place on the stack. It may read from the Decoder what the format puts between the instructions, as
	// joblib does with arrays. Nil keeps every object.
	Built func(d *Decoder, o *Object) (any, error)
	// MaxMemory bounds what the values may take, in bytes by estimate. 0 leaves only the budget that grows
	// with the bytes read: 32 bytes a byte and 1 MiB besides.
	MaxMemory int64
}

const (
	budgetBase    = 1 << 20 // bytes of values that any pickle may make
	budgetPerByte = 32      // and more for each byte read: the densest real pickles take about 16

	// Real picklers write containers in batches of 1000 items; only a tuple stands on the stack whole.
	maxStack = 1 << 18
	maxMarks = 1 << 12

	maxNumber = 1 << 10 // bytes of an integer, or of a number that is spelled out
	maxName   = 1 << 10 // bytes of a module's or a class's name
)

// Estimates of what values take, beside their own bytes.
const (
	costNumber = 16
	costString = 32
	costObject = 128
	costItem   = 32 // an item of a list or tuple, with the room that growing leaves
	costKey    = 64 // an entry of a dict
	costMemo   = 40
)

// Decoder reads pickles from a Source. It is for one goroutine.
type Decoder struct {
	src    *Source
	opts   Options
	cost   int64
	opcode byte
	start  int64 // of the instruction

	stack []any
	marks []int
	memo  []any
}

// NewDecoder makes a Decoder; it reads nothing yet.
func NewDecoder(src *Source, opts Options) *Decoder { return &Decoder{src: src, opts: opts} }

// Decode reads one pickle and gives its value. It does not look at what follows the pickle; see
// Source.End. The errors wrap ErrMalformed, ErrUnsupported, ErrLimit, or what Options.Allow or
// Options.Built returned, and tell where in the pickle it was.
func (d *Decoder) Decode() (any, error) {
	v, err := d.run()
	if err != nil {
		return nil, fmt.Errorf("at byte %d of the pickle: %w", d.start, err)
	}
	return v, nil
}

// Nested reads a pickle that stands at this place inside another, with a stack and a memo of its own. It
// is for Options.Built, which is not called for the objects of the nested one: pickles nest one deep.
func (d *Decoder) Nested() (any, error) {
	in := &Decoder{src: d.src, opts: d.opts, cost: d.cost}
	in.opts.Built = nil
	v, err := in.run()
	d.cost = in.cost
	if err != nil {
		d.start = in.start
		return nil, err
	}
	return v, nil
}

// Raw gives the n bytes that stand at this place between two instructions, for Options.Built. The bytes
// may alias the input.
func (d *Decoder) Raw(n uint64, what string) ([]byte, error) { return d.src.take(n, what) }

// charge counts n bytes of values against the budget.
func (d *Decoder) charge(n int64) error {
	d.cost += n
	if d.cost > budgetBase+budgetPerByte*d.src.read {
		return fmt.Errorf("%w: %d bytes of it already ask for some %d bytes of memory", ErrLimit, d.src.read, d.cost)
	}
	if d.opts.MaxMemory > 0 && d.cost > d.opts.MaxMemory {
		return fmt.Errorf("%w: its values take more than %d bytes of memory", ErrLimit, d.opts.MaxMemory)
	}
	return nil
}

// malformed makes an error about the current instruction.
func (d *Decoder) malformed(format string, args ...any) error {
	return fmt.Errorf("%w: instruction %s: %s", ErrMalformed, opName(d.opcode), fmt.Sprintf(format, args...))
}

// run interprets instructions up to STOP.
func (d *Decoder) run() (any, error) {
	for {
		d.start = d.src.read
		op, err := d.src.byte("the pickle, before its STOP instruction")
		if err != nil {
			return nil, err
		}
		d.opcode = op
		if op == opStop {
			v, err := d.pop()
			if err != nil {
				return nil, err
			}
			if len(d.stack) > 0 || len(d.marks) > 0 {
				return nil, d.malformed("%d values are left on the stack", len(d.stack))
			}
			return v, nil
		}
		if err := d.step(op); err != nil {
			return nil, err
		}
	}
}

// push puts a value on the stack and charges what it takes.
func (d *Decoder) push(v any, cost int64) error {
	if len(d.stack) >= maxStack {
		return fmt.Errorf("%w: more than %d values are on the stack", ErrLimit, maxStack)
	}
	if err := d.charge(cost); err != nil {
		return err
	}
	d.stack = append(d.stack, v)
	return nil
}

// pop takes the value on the top of the stack, which must lie above the last mark.
func (d *Decoder) pop() (any, error) {
	if len(d.stack) <= d.floor() {
		return nil, d.malformed("the stack is empty")
	}
	v := d.stack[len(d.stack)-1]
	d.stack[len(d.stack)-1] = nil
	d.stack = d.stack[:len(d.stack)-1]
	return v, nil
}

// top looks at the value on the top of the stack.
func (d *Decoder) top() (any, error) {
	if len(d.stack) <= d.floor() {
		return nil, d.malformed("the stack is empty")
	}
	return d.stack[len(d.stack)-1], nil
}

// floor is the height of the stack at the last mark.
func (d *Decoder) floor() int {
	if len(d.marks) == 0 {
		return 0
	}
	return d.marks[len(d.marks)-1]
}

// popMark takes all values above the last mark, and the mark. They lie in the stack's own memory, so the
// caller must copy what it keeps before it pushes.
func (d *Decoder) popMark() ([]any, error) {
	if len(d.marks) == 0 {
		return nil, d.malformed("there is no mark")
	}
	at := d.floor()
	d.marks = d.marks[:len(d.marks)-1]
	items := d.stack[at:]
	d.stack = d.stack[:at]
	return items, nil
}

// step interprets one instruction other than STOP.
func (d *Decoder) step(op byte) error {
	switch op {
	case opProto:
		v, err := d.src.byte("PROTO")
		if err != nil {
			return err
		}
		if v > 5 {
			return fmt.Errorf("%w: protocol %d, the newest known is 5", ErrUnsupported, v)
		}
		return nil
	case opFrame:
		return d.frame()
	case opMark:
		if len(d.marks) >= maxMarks {
			return fmt.Errorf("%w: more than %d marks are open", ErrLimit, maxMarks)
		}
		d.marks = append(d.marks, len(d.stack))
		return nil
	case opPop:
		// "POP: discard top of stack; if that is a mark, the mark" - pickle.py's load_pop.
		if len(d.stack) == d.floor() && len(d.marks) > 0 {
			d.marks = d.marks[:len(d.marks)-1]
			return nil
		}
		_, err := d.pop()
		return err
	case opPopMark:
		_, err := d.popMark()
		return err
	case opDup:
		v, err := d.top()
		if err != nil {
			return err
		}
		return d.push(v, 0)
	case opNone:
		return d.push(nil, 0)
	case opNewTrue:
		return d.push(true, 0)
	case opNewFalse:
		return d.push(false, 0)
	case opInt, opLong, opFloat:
		return d.textNumber(op)
	case opBinInt, opBinInt1, opBinInt2, opLong1, opLong4, opBinFloat:
		return d.binaryNumber(op)
	case opUnicode:
		line, err := d.src.line(math.MaxInt64, "UNICODE")
		if err != nil {
			return err
		}
		s, err := rawUnicode(line)
		if err != nil {
			return d.malformed("%v", err)
		}
		return d.push(s, costString+int64(len(s)))
	case opShortBinUnicode, opBinUnicode, opBinUnicode8:
		b, err := d.counted(op)
		if err != nil {
			return err
		}
		if !utf8.Valid(b) {
			return d.malformed("text of %d bytes is not UTF-8", len(b))
		}
		return d.push(string(b), costString+int64(len(b)))
	case opShortBinBytes, opBinBytes, opBinBytes8, opByteArray8:
		b, err := d.counted(op)
		if err != nil {
			return err
		}
		return d.push(b, costString)
	case opEmptyTuple:
		return d.push(emptyTuple, 0)
	case opTuple1, opTuple2, opTuple3:
		n := int(op-opTuple1) + 1
		if len(d.stack)-d.floor() < n {
			return d.malformed("needs %d values on the stack", n)
		}
		at := len(d.stack) - n
		t := Tuple(slices.Clone(d.stack[at:]))
		d.stack = d.stack[:at]
		return d.push(t, costString+int64(n)*costItem)
	case opTuple:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		if err := d.charge(int64(len(items)) * costItem); err != nil {
			return err
		}
		return d.push(Tuple(slices.Clone(items)), costString)
	case opEmptyList:
		return d.push(&List{}, costString)
	case opList:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		l := &List{}
		if err := d.extend(l, items); err != nil {
			return err
		}
		return d.push(l, costString)
	case opAppend:
		v, err := d.pop()
		if err != nil {
			return err
		}
		return d.appendTo([]any{v})
	case opAppends:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		return d.appendTo(items)
	case opEmptyDict:
		return d.push(&Dict{}, costString)
	case opDict:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		m := &Dict{}
		if err := d.assign(m, items); err != nil {
			return err
		}
		return d.push(m, costString)
	case opSetItem:
		v, err := d.pop()
		if err != nil {
			return err
		}
		k, err := d.pop()
		if err != nil {
			return err
		}
		return d.assignTo([]any{k, v})
	case opSetItems:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		return d.assignTo(items)
	case opEmptySet:
		return d.push(&Set{}, costString)
	case opAddItems:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		v, err := d.top()
		if err != nil {
			return err
		}
		s, ok := v.(*Set)
		if !ok {
			return d.malformed("adds to %s, not to a set", Describe(v))
		}
		s.Size += len(items)
		return nil
	case opFrozenSet:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		return d.push(&Set{Size: len(items)}, costString)
	case opPut, opBinPut, opLongBinPut, opMemoize:
		return d.put(op)
	case opGet, opBinGet, opLongBinGet:
		return d.get(op)
	case opGlobal, opStackGlobal:
		return d.global(op)
	case opString, opBinString, opShortBinString:
		return d.oldString(op)
	case opReduce, opNewObj, opNewObjEx:
		return d.reduce(op)
	case opInst, opObj:
		return d.instance(op)
	case opBuild:
		return d.build()
	case opPersID, opBinPersID:
		return fmt.Errorf("%w: instruction %s refers to data outside of the file", ErrUnsupported, opName(op))
	case opNextBuffer, opReadOnlyBuffer:
		return fmt.Errorf("%w: instruction %s refers to buffers outside of the file", ErrUnsupported, opName(op))
	case opExt1, opExt2, opExt4:
		return fmt.Errorf("%w: instruction %s refers to a registry outside of the file", ErrUnsupported, opName(op))
	default:
		return fmt.Errorf("%w: there is no instruction 0x%02x", ErrMalformed, op)
	}
}

// frame checks that a frame's bytes can be there. Frames only tell a reader how much to fetch.
func (d *Decoder) frame() error {
	n, err := d.uint(8)
	if err != nil {
		return err
	}
	if d.src.r == nil && n > uint64(len(d.src.mem)) {
		return d.malformed("claims %d bytes, %d are left", n, len(d.src.mem))
	}
	if d.src.r != nil && n > uint64(d.src.limit-d.src.read) {
		return fmt.Errorf("%w: FRAME claims %d bytes, at most %d may follow", ErrLimit, n, d.src.limit-d.src.read)
	}
	return nil
}

// uint reads a little-endian number of n bytes.
func (d *Decoder) uint(n int) (uint64, error) {
	var v uint64
	for i := range n {
		c, err := d.src.byte(opName(d.opcode))
		if err != nil {
			return 0, err
		}
		v |= uint64(c) << (8 * i)
	}
	return v, nil
}

// counted reads bytes that follow their number.
func (d *Decoder) counted(op byte) ([]byte, error) {
	width := 4
	switch op {
	case opShortBinUnicode, opShortBinBytes, opShortBinString:
		width = 1
	case opBinUnicode8, opBinBytes8, opByteArray8:
		width = 8
	}
	n, err := d.uint(width)
	if err != nil {
		return nil, err
	}
	return d.src.take(n, opName(op))
}

// oldString reads what Python 2 called a string: text here, as Python 3 takes it, and so nothing beyond ASCII.
func (d *Decoder) oldString(op byte) error {
	var b []byte
	var err error
	switch op {
	case opString:
		if b, err = d.src.line(math.MaxInt64, "STRING"); err != nil {
			return err
		}
		if b, err = unquote(b); err != nil {
			return d.malformed("%v", err)
		}
	default:
		if b, err = d.counted(op); err != nil {
			return err
		}
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return d.malformed("a string with the byte 0x%02x, only ASCII is read", c)
		}
	}
	return d.push(string(b), costString+int64(len(b)))
}

// textNumber reads the numbers of protocol 0.
func (d *Decoder) textNumber(op byte) error {
	line, err := d.src.line(maxNumber, opName(op))
	if err != nil {
		return err
	}
	text := string(line)
	switch {
	case op == opFloat:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return d.malformed("%q is not a number", text)
		}
		return d.push(f, costNumber)
	case op == opInt && text == "00":
		return d.push(false, 0)
	case op == opInt && text == "01":
		return d.push(true, 0)
	case op == opLong && len(text) > 0 && text[len(text)-1] == 'L':
		text = text[:len(text)-1]
	}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return d.push(i, costNumber)
	}
	b, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return d.malformed("%q is not an integer", text)
	}
	return d.push(b, costObject+int64(len(text)))
}

// binaryNumber reads the numbers of the later protocols.
func (d *Decoder) binaryNumber(op byte) error {
	switch op {
	case opBinInt1, opBinInt2:
		width := 1
		if op == opBinInt2 {
			width = 2
		}
		n, err := d.uint(width)
		if err != nil {
			return err
		}
		return d.push(int64(n), costNumber)
	case opBinInt:
		n, err := d.uint(4)
		if err != nil {
			return err
		}
		return d.push(int64(int32(n)), costNumber)
	case opBinFloat:
		b, err := d.src.take(8, "BINFLOAT")
		if err != nil {
			return err
		}
		var bits uint64
		for _, c := range b { // big-endian, unlike all else
			bits = bits<<8 | uint64(c)
		}
		return d.push(math.Float64frombits(bits), costNumber)
	}
	width := 1
	if op == opLong4 {
		width = 4
	}
	n, err := d.uint(width)
	if err != nil {
		return err
	}
	if n > maxNumber {
		return fmt.Errorf("%w: an integer of %d bytes", ErrLimit, n)
	}
	b, err := d.src.take(n, opName(op))
	if err != nil {
		return err
	}
	if len(b) > 8 {
		return d.push(bigLong(b), costObject+int64(len(b)))
	}
	var v int64
	for i, c := range b {
		v |= int64(c) << (8 * i)
	}
	if k := len(b); k > 0 && k < 8 && b[k-1]&0x80 != 0 {
		v -= 1 << (8 * k)
	}
	return d.push(v, costNumber)
}

// bigLong reads two's complement, little-endian.
func bigLong(b []byte) *big.Int {
	be := slices.Clone(b)
	slices.Reverse(be)
	v := new(big.Int).SetBytes(be)
	if be[0]&0x80 != 0 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(be))))
	}
	return v
}

// appendTo adds items to the list on the top of the stack.
func (d *Decoder) appendTo(items []any) error {
	v, err := d.top()
	if err != nil {
		return err
	}
	l, ok := v.(*List)
	if !ok {
		return d.malformed("appends to %s, not to a list", Describe(v))
	}
	return d.extend(l, items)
}

func (d *Decoder) extend(l *List, items []any) error {
	if err := d.charge(int64(len(items)) * costItem); err != nil {
		return err
	}
	l.Items = append(l.Items, items...)
	return nil
}

// assignTo puts keys and values, one after the other, into the dict on the top of the stack.
func (d *Decoder) assignTo(items []any) error {
	v, err := d.top()
	if err != nil {
		return err
	}
	m, ok := v.(*Dict)
	if !ok {
		return d.malformed("assigns to %s, not to a dict", Describe(v))
	}
	return d.assign(m, items)
}

func (d *Decoder) assign(m *Dict, items []any) error {
	if len(items)%2 != 0 {
		return d.malformed("the last of %d keys has no value", len(items)/2+1)
	}
	if err := d.charge(int64(len(items)/2) * costKey); err != nil {
		return err
	}
	for i := 0; i < len(items); i += 2 {
		switch k := items[i].(type) {
		case string:
			if m.items == nil {
				m.items = make(map[string]any, len(items)/2)
			}
			m.items[k] = items[i+1]
		case *List, *Dict, *Set:
			return d.malformed("%s cannot be a key", Describe(items[i]))
		default:
			m.other++
		}
	}
	return nil
}

// put remembers the value on the top of the stack.
func (d *Decoder) put(op byte) error {
	v, err := d.top()
	if err != nil {
		return err
	}
	at := uint64(len(d.memo))
	if op != opMemoize {
		if at, err = d.memoIndex(op); err != nil {
			return err
		}
	}
	// Picklers number what they remember from 0 without gaps. A gap is charged, so that an index of 2^32
	// cannot ask for memory that the input does not justify.
	if at >= uint64(len(d.memo)) {
		grow := at - uint64(len(d.memo)) + 1
		if err := d.charge(int64(min(grow, 1<<40)) * costMemo); err != nil {
			return err
		}
		for uint64(len(d.memo)) <= at {
			d.memo = append(d.memo, unset{})
		}
	}
	d.memo[at] = v
	return nil
}

// emptyTuple is shared, as it is in Python.
var emptyTuple any = Tuple{}

// unset stands in the memo where nothing was put.
type unset struct{}

// get pushes a remembered value.
func (d *Decoder) get(op byte) error {
	at, err := d.memoIndex(op)
	if err != nil {
		return err
	}
	if at >= uint64(len(d.memo)) {
		return d.malformed("nothing was put at %d", at)
	}
	v := d.memo[at]
	if _, ok := v.(unset); ok {
		return d.malformed("nothing was put at %d", at)
	}
	return d.push(v, 0)
}

func (d *Decoder) memoIndex(op byte) (uint64, error) {
	switch op {
	case opBinPut, opBinGet:
		return d.uint(1)
	case opLongBinPut, opLongBinGet:
		return d.uint(4)
	}
	line, err := d.src.line(maxNumber, opName(op))
	if err != nil {
		return 0, err
	}
	at, err := strconv.ParseUint(string(line), 10, 32)
	if err != nil {
		return 0, d.malformed("%q is not an index", line)
	}
	return at, nil
}

// global makes a name a value, if the caller allows it.
func (d *Decoder) global(op byte) error {
	var g Global
	if op == opGlobal {
		var err error
		if g, err = d.nameLines(); err != nil {
			return err
		}
	} else {
		name, err := d.pop()
		if err != nil {
			return err
		}
		module, err := d.pop()
		if err != nil {
			return err
		}
		var ok, ok2 bool
		g.Module, ok = module.(string)
		g.Name, ok2 = name.(string)
		if !ok || !ok2 {
			return d.malformed("needs two strings, got %s and %s", Describe(module), Describe(name))
		}
		if len(g.Module) > maxName || len(g.Name) > maxName {
			return fmt.Errorf("%w: a name is longer than %d bytes", ErrLimit, maxName)
		}
	}
	if err := d.consent(g); err != nil {
		return err
	}
	return d.push(g, costObject)
}

// nameLines reads a name that stands in the pickle as two lines.
func (d *Decoder) nameLines() (Global, error) {
	module, err := d.src.line(maxName, opName(d.opcode))
	if err != nil {
		return Global{}, err
	}
	name, err := d.src.line(maxName, opName(d.opcode))
	return Global{Module: string(module), Name: string(name)}, err
}

// consent asks the caller whether a name may become a value.
func (d *Decoder) consent(g Global) error {
	switch {
	case ofFormat(g):
		return nil
	case d.opts.Allow == nil:
		return fmt.Errorf("%w: it names %s, and no name is allowed", ErrUnsupported, g)
	}
	return d.opts.Allow(g)
}

// reduce records the call of what lies below a tuple of arguments.
func (d *Decoder) reduce(op byte) error {
	if op == opNewObjEx {
		v, err := d.pop()
		if err != nil {
			return err
		}
		if named, ok := v.(*Dict); !ok || named.Len() > 0 {
			return fmt.Errorf("%w: instruction NEWOBJ_EX with %s of named arguments, only an empty dict is read", ErrUnsupported, Describe(v))
		}
	}
	v, err := d.pop()
	if err != nil {
		return err
	}
	f, err := d.pop()
	if err != nil {
		return err
	}
	args, ok := v.(Tuple)
	if !ok {
		return d.malformed("the arguments are %s, not a tuple", Describe(v))
	}
	return d.call(f, args)
}

// instance records a call as protocols 0 and 1 may spell it: the arguments stand above a mark, with OBJ below them the
// name, which with INST follows in the pickle.
func (d *Decoder) instance(op byte) error {
	var f any
	if op == opInst {
		g, err := d.nameLines()
		if err != nil {
			return err
		}
		if err := d.consent(g); err != nil {
			return err
		}
		f = g
	}
	items, err := d.popMark()
	if err != nil {
		return err
	}
	if op == opObj {
		if len(items) == 0 {
			return d.malformed("there is nothing to call")
		}
		f, items = items[0], items[1:]
	}
	if err := d.charge(costString + int64(len(items))*costItem); err != nil {
		return err
	}
	return d.call(f, append(Tuple{}, items...))
}

// call records a call.
func (d *Decoder) call(f any, args Tuple) error {
	g, ok := f.(Global)
	if !ok {
		return d.malformed("calls %s, which is not a name", Describe(f))
	}
	if ofFormat(g) {
		v, cost, err := helper(g, args)
		if err != nil {
			return d.malformed("%v", err)
		}
		return d.push(v, cost)
	}
	return d.push(&Object{Class: g, Args: args}, costObject)
}

// build gives an object its state.
func (d *Decoder) build() error {
	state, err := d.pop()
	if err != nil {
		return err
	}
	v, err := d.top()
	if err != nil {
		return err
	}
	o, ok := v.(*Object)
	if !ok {
		return d.malformed("gives a state to %s, not to an object", Describe(v))
	}
	if o.built {
		return d.malformed("%s already has a state", o.Class)
	}
	o.State, o.built = state, true
	if d.opts.Built == nil {
		return nil
	}
	out, err := d.opts.Built(d, o)
	if err != nil {
		return err
	}
	d.stack[len(d.stack)-1] = out
	return nil
}
