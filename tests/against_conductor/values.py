"""JSON that a reader may get wrong, as texts: Python's own writer could not say ``1E5`` or ``-0``."""

import random
import struct

ZOO = r"""{
 "one": 1, "zero": 0, "minus": -7, "minusZero": -0, "minusZeroFloat": -0.0,
 "int32": 2147483647, "overInt32": 2147483648, "underInt32": -2147483649,
 "int64": 9223372036854775807, "overInt64": 9223372036854775808, "underInt64": -9223372036854775809,
 "big": 123456789012345678901234567890, "minusBig": -123456789012345678901234567890, "over2to53": 9007199254740993,
 "float": 1.0, "tenPlaces": 0.1000000000, "tenth": 0.1, "third": 0.30000000000000004, "hundred": 100.0,
 "exponent": 1e10, "upperExponent": 1E5, "plusExponent": 1.5e+3, "small": 1e-7, "thousandth": 0.001, "below": 0.0001,
 "tenMillion": 10000000.0, "belowTenMillion": 9999999.0, "manyDigits": 12345678.9, "lostDigits": 3.14159265358979323846,
 "1e21": 1e21, "2e22": 2e22, "1e23": 1e23, "huge": 1.7976931348623157e308, "tiny": 5e-324,
 "subnormal": 2.2250738585072011e-308,
 "tooSmall": 1e-400, "zeroExponent": 0e7,
 "null": null, "true": true, "false": false, "emptyMap": {}, "emptyList": [], "emptyText": "",
 "list": [1, 1.0, null, "x", {}, [], {"null": null}, [[[]]]],
 "text": "\u00e9 \u6f22\u5b57 \ud83c\udf89 \u2028\u2029\u0085\ufeff",
 "raw": "é 漢字 🎉",
 "escapes": "\" \\ \/ \b \f \n \r \t \u0001 \u001f \u007f <>&'",
 "k\u00e9y \ud83c\udf89": "key", "": "no name", "a.b": "dotted", "$dollar": "$", "@type": "x", "null text": "null",
 "number text": "1.0",
 "nested": {"a": {"b": {"c": {"d": {"e": [{"f": [[{"g": {"h": null}}]]}]}}}}}
}""".encode()
"""For inputs and outputs of tasks. No U+0000: Conductor on PostgreSQL refuses to start a workflow with it."""

SURROGATES = rb"""{"lone": "a\ud83cz", "reversed": "\udf89\ud83c", "\udfff": 1}"""
"""Text that is no Unicode; JSON can carry it as escapes only."""

INFINITE = rb"""{"infinite": 1e400, "minusInfinite": -1e400}"""
"""Well-formed numbers beyond what a double can hold."""

DEEP = b'{"deep":' + b'[{"a":' * 15 + b"1.0" + b"}]" * 15 + b"}"
"""Twice as many levels would be too many for protobuf, and so for a typed GetTask."""

LONG_REASON = "x" * 499 + "\N{PARTY POPPER}" + " y" * 200
"""Its first 500 UTF-16 units end within the emoji."""

LONG_ASTRAL_REASON = "\N{PARTY POPPER}" * 251
"""One UTF-16 unit over 500, all of them pairs; 251 characters."""


def random_doubles(count: int, seed: int) -> bytes:
    """An object of doubles of every magnitude, each as Python's shortest text: what a database may hold."""
    generator = random.Random(seed)
    texts: list[str] = []
    while len(texts) < count:
        (number,) = struct.unpack("<d", generator.randbytes(8))
        if number - number == 0:  # neither infinite nor no number
            texts.append(repr(number))
    texts += [repr(generator.uniform(-1, 1) * 10 ** generator.randint(-5, 9)) for _ in range(count)]
    return b'{"doubles":[' + ",".join(texts).encode() + b"]}"
