"""The dtypes of arrays by name: the bytes of an element, and what the safetensors format calls them."""

_BY_SIZE = {
    1: {
        "bool": "BOOL",
        "uint8": "U8",
        "int8": "I8",
        "float8_e4m3fn": "F8_E4M3",
        "float8_e5m2": "F8_E5M2",
    },
    2: {"uint16": "U16", "int16": "I16", "float16": "F16", "bfloat16": "BF16"},
    4: {"uint32": "U32", "int32": "I32", "float32": "F32"},
    8: {"uint64": "U64", "int64": "I64", "float64": "F64"},
}

SAFETENSORS = {name: theirs for named in _BY_SIZE.values() for name, theirs in named.items()}
"""Names of the format (its README is the spec) of those that it can hold."""
SIZES = {**{name: size for size, named in _BY_SIZE.items() for name in named}, "complex64": 8}
"""Bytes of an element."""
