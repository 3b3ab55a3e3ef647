package pickle

import "fmt"

// The instructions, by the names that Python's pickletools gives them.
const (
	opProto           byte = 0x80
	opFrame           byte = 0x95
	opMark            byte = '('
	opStop            byte = '.'
	opPop             byte = '0'
	opPopMark         byte = '1'
	opDup             byte = '2'
	opNone            byte = 'N'
	opNewTrue         byte = 0x88
	opNewFalse        byte = 0x89
	opInt             byte = 'I'
	opLong            byte = 'L'
	opFloat           byte = 'F'
	opBinInt          byte = 'J'
	opBinInt1         byte = 'K'
	opBinInt2         byte = 'M'
	opLong1           byte = 0x8a
	opLong4           byte = 0x8b
	opBinFloat        byte = 'G'
	opUnicode         byte = 'V'
	opShortBinUnicode byte = 0x8c
	opBinUnicode      byte = 'X'
	opBinUnicode8     byte = 0x8d
	opShortBinBytes   byte = 'C'
	opBinBytes        byte = 'B'
	opBinBytes8       byte = 0x8e
	opByteArray8      byte = 0x96
	opEmptyTuple      byte = ')'
	opTuple1          byte = 0x85
	opTuple2          byte = 0x86
	opTuple3          byte = 0x87
	opTuple           byte = 't'
	opEmptyList       byte = ']'
	opList            byte = 'l'
	opAppend          byte = 'a'
	opAppends         byte = 'e'
	opEmptyDict       byte = '}'
	opDict            byte = 'd'
	opSetItem         byte = 's'
	opSetItems        byte = 'u'
	opEmptySet        byte = 0x8f
	opAddItems        byte = 0x90
	opFrozenSet       byte = 0x91
	opPut             byte = 'p'
	opBinPut          byte = 'q'
	opLongBinPut      byte = 'r'
	opMemoize         byte = 0x94
	opGet             byte = 'g'
	opBinGet          byte = 'h'
	opLongBinGet      byte = 'j'
	opGlobal          byte = 'c'
	opStackGlobal     byte = 0x93
	opReduce          byte = 'R'
	opNewObj          byte = 0x81
	opNewObjEx        byte = 0x92
	opBuild           byte = 'b'
	opString          byte = 'S'
	opBinString       byte = 'T'
	opShortBinString  byte = 'U'
	opInst            byte = 'i'
	opObj             byte = 'o'
	opPersID          byte = 'P'
	opBinPersID       byte = 'Q'
	opNextBuffer      byte = 0x97
	opReadOnlyBuffer  byte = 0x98
	opExt1            byte = 0x82
	opExt2            byte = 0x83
	opExt4            byte = 0x84
)

// names spells the instructions for errors.
var names = [256]string{
	opProto:           "PROTO",
	opFrame:           "FRAME",
	opMark:            "MARK",
	opStop:            "STOP",
	opPop:             "POP",
	opPopMark:         "POP_MARK",
	opDup:             "DUP",
	opNone:            "NONE",
	opNewTrue:         "NEWTRUE",
	opNewFalse:        "NEWFALSE",
	opInt:             "INT",
	opLong:            "LONG",
	opFloat:           "FLOAT",
	opBinInt:          "BININT",
	opBinInt1:         "BININT1",
	opBinInt2:         "BININT2",
	opLong1:           "LONG1",
	opLong4:           "LONG4",
	opBinFloat:        "BINFLOAT",
	opUnicode:         "UNICODE",
	opShortBinUnicode: "SHORT_BINUNICODE",
	opBinUnicode:      "BINUNICODE",
	opBinUnicode8:     "BINUNICODE8",
	opShortBinBytes:   "SHORT_BINBYTES",
	opBinBytes:        "BINBYTES",
	opBinBytes8:       "BINBYTES8",
	opByteArray8:      "BYTEARRAY8",
	opEmptyTuple:      "EMPTY_TUPLE",
	opTuple1:          "TUPLE1",
	opTuple2:          "TUPLE2",
	opTuple3:          "TUPLE3",
	opTuple:           "TUPLE",
	opEmptyList:       "EMPTY_LIST",
	opList:            "LIST",
	opAppend:          "APPEND",
	opAppends:         "APPENDS",
	opEmptyDict:       "EMPTY_DICT",
	opDict:            "DICT",
	opSetItem:         "SETITEM",
	opSetItems:        "SETITEMS",
	opEmptySet:        "EMPTY_SET",
	opAddItems:        "ADDITEMS",
	opFrozenSet:       "FROZENSET",
	opPut:             "PUT",
	opBinPut:          "BINPUT",
	opLongBinPut:      "LONG_BINPUT",
	opMemoize:         "MEMOIZE",
	opGet:             "GET",
	opBinGet:          "BINGET",
	opLongBinGet:      "LONG_BINGET",
	opGlobal:          "GLOBAL",
	opStackGlobal:     "STACK_GLOBAL",
	opReduce:          "REDUCE",
	opNewObj:          "NEWOBJ",
	opNewObjEx:        "NEWOBJ_EX",
	opBuild:           "BUILD",
	opString:          "STRING",
	opBinString:       "BINSTRING",
	opShortBinString:  "SHORT_BINSTRING",
	opInst:            "INST",
	opObj:             "OBJ",
	opPersID:          "PERSID",
	opBinPersID:       "BINPERSID",
	opNextBuffer:      "NEXT_BUFFER",
	opReadOnlyBuffer:  "READONLY_BUFFER",
	opExt1:            "EXT1",
	opExt2:            "EXT2",
	opExt4:            "EXT4",
}

// opName spells an instruction.
func opName(op byte) string {
	if n := names[op]; n != "" {
		return n
	}
	return fmt.Sprintf("0x%02x", op)
}
