package pickle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Source gives the bytes of a pickle: of memory, without copying, or of a stream.
type Source struct {
	mem   []byte // what is left, when r is nil
	r     io.Reader
	read  int64
	limit int64  // most bytes that r may give
	buf   []byte // bytes of r that were fetched and not yet given
	chunk []byte // backs buf
	err   error  // what ended r
}

const (
	// streamChunk is how many bytes a stream is asked for at a time.
	streamChunk = 64 << 10
	// trusted is how many bytes of a claimed length are allocated before they have come, of a stream that has
	// given fewer so far. The last claim of a stream is the only one that can be a lie.
	trusted = 4 << 20
)

// FromBytes reads from data. Values may alias it.
func FromBytes(data []byte) *Source { return &Source{mem: data} }

// FromReader reads from r, at most limit bytes: a stream that goes on is refused with ErrLimit. What r
// returns other than io.EOF becomes part of the error.
func FromReader(r io.Reader, limit int64) *Source {
	return &Source{r: r, limit: limit, chunk: make([]byte, streamChunk)}
}

// Consumed is the number of bytes given so far.
func (s *Source) Consumed() int64 { return s.read }

// fetch reads from the stream into p, and notes what ended it: also that it gives nothing again and again.
func (s *Source) fetch(p []byte) (n int) {
	for range 100 {
		if n, s.err = s.r.Read(p); n > 0 || s.err != nil {
			return n
		}
	}
	s.err = io.ErrNoProgress
	return 0
}

// fill fetches more of the stream into an empty buf. It returns an error only when there is nothing more.
func (s *Source) fill() error {
	for len(s.buf) == 0 {
		if s.err != nil {
			return s.err
		}
		if s.r == nil {
			return io.EOF
		}
		s.buf = s.chunk[:s.fetch(s.chunk)]
	}
	if int64(len(s.buf)) > s.limit-s.read {
		return fmt.Errorf("%w: it unpacks to more than %d bytes", ErrLimit, s.limit)
	}
	return nil
}

// short turns the end of the input into an error about the value that is cut.
func short(err error, what string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the file ends inside %s", ErrMalformed, what)
	}
	if errors.Is(err, ErrLimit) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

// byte gives the next byte.
func (s *Source) byte(what string) (byte, error) {
	if s.r == nil {
		if len(s.mem) == 0 {
			return 0, short(io.EOF, what)
		}
		c := s.mem[0]
		s.mem = s.mem[1:]
		s.read++
		return c, nil
	}
	if len(s.buf) == 0 {
		if err := s.fill(); err != nil {
			return 0, short(err, what)
		}
	}
	c := s.buf[0]
	s.buf = s.buf[1:]
	s.read++
	return c, nil
}

// take gives the next n bytes, which the caller owns or may only read, see FromBytes. It allocates no
// more than the input has.
func (s *Source) take(n uint64, what string) ([]byte, error) {
	if s.r == nil {
		if n > uint64(len(s.mem)) {
			return nil, fmt.Errorf("%w: %s claims %d bytes, %d are left", ErrMalformed, what, n, len(s.mem))
		}
		b := s.mem[:n:n]
		s.mem = s.mem[n:]
		s.read += int64(n)
		return b, nil
	}
	if n > uint64(s.limit-s.read) {
		return nil, fmt.Errorf("%w: %s claims %d bytes, at most %d may follow", ErrLimit, what, n, s.limit-s.read)
	}
	out := make([]byte, 0, min(n, max(trusted, uint64(s.read))))
	for uint64(len(out)) < n {
		if len(out) == cap(out) {
			out = append(make([]byte, 0, min(n, 2*uint64(len(out)))), out...)
		}
		// What is fetched already comes first, then the stream writes to where the bytes stay.
		k := copy(out[len(out):cap(out)], s.buf)
		s.buf = s.buf[k:]
		if k == 0 {
			if s.err != nil {
				return nil, short(s.err, what)
			}
			k = s.fetch(out[len(out):cap(out)])
		}
		out = out[:len(out)+k]
		s.read += int64(k)
	}
	return out, nil
}

// line gives the bytes up to the next newline, which is passed over. A line of more than most bytes is
// refused.
func (s *Source) line(most int64, what string) ([]byte, error) {
	if s.r == nil {
		i := bytes.IndexByte(s.mem, '\n')
		if i < 0 {
			return nil, short(io.EOF, what)
		}
		if int64(i) > most {
			return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrLimit, what, most)
		}
		b := s.mem[:i:i]
		s.mem = s.mem[i+1:]
		s.read += int64(i) + 1
		return b, nil
	}
	var out []byte
	for {
		if len(s.buf) == 0 {
			if err := s.fill(); err != nil {
				return nil, short(err, what)
			}
		}
		i := bytes.IndexByte(s.buf, '\n')
		part := s.buf
		if i >= 0 {
			part = s.buf[:i]
		}
		if int64(len(part)) > most-int64(len(out)) {
			return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrLimit, what, most)
		}
		out = append(out, part...)
		s.buf = s.buf[len(part):]
		s.read += int64(len(part))
		if i >= 0 {
			s.buf = s.buf[1:]
			s.read++
			return out, nil
		}
	}
}

// End checks that nothing is left, and that a stream ended well: a compressed one proves its checksum.
func (s *Source) End() error {
	if s.r == nil {
		if len(s.mem) > 0 {
			return fmt.Errorf("%w: %d bytes follow the end of the pickle", ErrMalformed, len(s.mem))
		}
		return nil
	}
	switch err := s.fill(); {
	case err == nil:
		return fmt.Errorf("%w: bytes follow the end of the pickle", ErrMalformed)
	case errors.Is(err, io.EOF):
		return nil
	default:
		return short(err, "the pickle's stream")
	}
}
