package frame

import coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"

// WorkFactor is how often a forest is evaluated for a request that asks for this much work.
func WorkFactor(w coppicev1.Work) int {
	switch w {
	case coppicev1.Work_WORK_MEDIUM:
		return 8
	case coppicev1.Work_WORK_HEAVY:
		return 64
	}
	return 1
}

// WorkName is how much work a request asks for, in a word, for metrics and spans.
func WorkName(w coppicev1.Work) string {
	switch w {
	case coppicev1.Work_WORK_MEDIUM:
		return "medium"
	case coppicev1.Work_WORK_HEAVY:
		return "heavy"
	}
	return "light"
}
