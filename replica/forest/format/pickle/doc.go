// Package pickle reads Python's pickles, protocols 0 to 5, without running anything that they ask for.
//
// A pickle is a program for a small stack machine, and two of its instructions name Python functions
// and call them. This reader interprets the program over an allow-list: a name becomes a Global, which
// is nothing but two strings, and only when the caller's Options.Allow consents; a call becomes an
// Object that records what would have been called and with what. No name is ever looked up. What the
// objects mean is the caller's business.
//
// The values are:
//
//	None                  nil
//	bool, int, float      bool, int64 (*big.Int beyond 64 bits), float64
//	str                   string, in UTF-8; a str of Python 2 too, if it is ASCII
//	bytes, bytearray      []byte, which may alias the input
//	tuple, list           Tuple, *List
//	dict, set, frozenset  *Dict, *Set
//	a class, a function   Global
//	anything else         *Object
//
// Four helpers of the pickle format itself are understood here and need no consent, since they only
// spell values of this list in the old protocols: _codecs.encode to latin1 and bytes() give []byte,
// copyreg._reconstructor over object gives an *Object, and object is its base.
//
// All instructions are read but those that refer to what is not in the pickle: persistent ids, extension
// codes and out-of-band buffers are refused by name, and so are named arguments.
//
// A pickle may ask for far more memory than it has bytes, and a short one may claim to be long. Each
// value is therefore charged to a budget that grows with the bytes read so far, no claimed length is
// believed before its bytes are there, and the stack is bounded. Nothing recurses over the input.
package pickle
