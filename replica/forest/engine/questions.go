package engine

import "github.com/coppice-mesh/coppice/replica/forest/model"

// Questions are what the splits of a forest ask, as columns: whole numbers that are worked out once for each row and
// that a split compares with a key of its own. They are for packages that follow rows down trees in ways of their own.
type Questions struct{ ask *ask }

// QuestionRows is the number of rows whose columns lie side by side.
const QuestionRows = 8

// NewQuestions finds the columns of a forest, or gives nil when its sets are too many: then GoesLeft answers.
func NewQuestions(f *model.Forest) *Questions {
	if a := newAsk(f); a != nil {
		return &Questions{a}
	}
	return nil
}

// Stride is the number of values that QuestionRows rows take.
func (q *Questions) Stride() int { return len(q.ask.columns) * QuestionRows }

// Of is where the first row's value for a split stands, and the key: a row goes left when its value is not above it.
func (q *Questions) Of(s model.Split) (at, key int32) {
	a := q.ask.question(s)
	return int32(a.column) * QuestionRows, a.key
}

// Answer works out the columns of rows: Stride values for each QuestionRows of them, of which the last may lack some, whose
// values are those of before.
func Answer[T Row](q *Questions, dst []int32, rows []T, features int) {
	for lane := 0; len(rows) > 0; rows = rows[features:] {
		for i := range q.ask.columns {
			c := &q.ask.columns[i]
			dst[i*QuestionRows+lane] = value(c, rows[c.feature])
		}
		if lane++; lane == QuestionRows {
			dst, lane = dst[q.Stride():], 0
		}
	}
}

// GoesLeft answers the question of a split for the value of its feature.
func GoesLeft[T Row](f *model.Forest, s model.Split, v T) bool { return goesLeft(f, s, v) }
