package engine

// level is what of the processor's instructions a kernel may use. Each includes those before it.
type level int

// The levels. The standard library's GODEBUG switches them off for a test: GODEBUG=cpu.avx512vbmi=off.
const (
	levelGo     level = iota // Go alone
	levelAVX2                // with BMI2
	levelAVX512              // F, BW, DQ and VL
	levelVBMI                // VBMI and GFNI
)

// highest is the level of this processor; levelGo in builds with the tag purego, too.
var highest = detect()

var levelNames = [...]string{levelGo: "go", levelAVX2: "avx2", levelAVX512: "avx512", levelVBMI: "avx512-vbmi"}

func (l level) String() string { return levelNames[l] }

// CPU names the level of instructions that the kernels use: "go", "avx2", "avx512" or "avx512-vbmi".
func CPU() string { return highest.String() }
