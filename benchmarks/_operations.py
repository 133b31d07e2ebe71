"""Operations and messages of one device, counted in its compiled program.

The cost analysis of the compiler counts the body of a loop once; here it counts as often as it
runs.  Matrix products count 2 m n k, the factors of QR 4 m n^2 together, everything else one for
each number that it makes, transcendental functions too.  Loops whose length is only known while
they run (searches for roots, line searches) count once and are reported.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

Totals = dict[str, float]

_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_ARITHMETIC = {
    "abs", "add", "and", "atan2", "ceil", "clamp", "compare", "cosine", "divide", "erf",
    "exponential", "exponential-minus-one", "floor", "log", "log-plus-one", "maximum", "minimum",
    "multiply", "negate", "not", "or", "power", "remainder", "rsqrt", "select", "sign", "sine",
    "sqrt", "subtract", "tan", "tanh", "xor", "cbrt", "logistic", "round-nearest-even",
}  # fmt: skip
_HEADER = re.compile(r"^(?:ENTRY )?%(\S+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\]")


class Operations(NamedTuple):
    """What one device does.

    Attributes:
        flops: operations.
        sent: bytes sent to other devices.
        open_loops: loops that were counted once.
    """

    flops: float
    sent: float
    open_loops: int


def count(text: str, devices: int) -> Operations:
    """The operations of the entry computation of an optimised program, ``compiled.as_text()``."""
    computations, entry = _computations(text)
    known: dict[str, Totals] = {}

    def of(name: str) -> Totals:
        if name not in known:
            known[name] = _of_computation(computations[name], of, devices)
        return known[name]

    total = of(entry)
    return Operations(total["flops"], total["sent"], int(total["open"]))


def _computations(text: str) -> tuple[dict[str, list[tuple[str, str, str, str]]], str]:
    found: dict[str, list] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = found.setdefault(header[1], [])
            if line.startswith("ENTRY"):
                entry = header[1]
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current.append(match.groups())
    if not entry:
        raise ValueError("text: expected an optimised program with an entry computation")
    return found, entry


def _of_computation(
    instructions: list[tuple[str, str, str, str]], of: Callable[[str], Totals], devices: int
) -> Totals:
    types = {name: kind for name, kind, _, _ in instructions}
    total: Totals = defaultdict(float)
    for _, kind, operation, rest in instructions:
        if operation in _ARITHMETIC:
            total["flops"] += _numbers(kind)
        elif operation == "dot":
            total["flops"] += _dot(kind, rest, types)
        elif operation in ("reduce", "reduce-window"):
            total["flops"] += _numbers(types.get(_operands(rest)[0], kind))
        elif operation == "custom-call":
            total["flops"] += _custom(kind, rest)
        elif operation == "while":
            _add(total, of(_named("body", rest)), _trips(rest))
            total["open"] += _trips(rest, 0) == 0
        elif operation == "conditional":
            branches = [of(name) for name in _branches(rest)]
            _add(total, max(branches, key=lambda branch: branch["flops"]))
        elif operation in ("fusion", "call", "async-start"):
            name = _named("calls", rest) or _named("to_apply", rest)
            _add(total, of(name))
        else:
            total["sent"] += _sent(operation, kind, devices)
    return total


def _add(total: Totals, part: Mapping[str, float], times: int = 1) -> None:
    for name, value in part.items():
        total[name] += value if name == "open" else times * value


def _shapes(kind: str) -> list[tuple[str, list[int]]]:
    return [
        (name, [int(n) for n in sizes.split(",") if n])
        for name, sizes in _ARRAY.findall(kind)
        if name in _BYTES
    ]


def _numbers(kind: str) -> int:
    return sum(math.prod(sizes) for _, sizes in _shapes(kind))


def _operands(rest: str) -> list[str]:
    return re.findall(r"%([^\s,()]+)", rest.split("), ")[0])


def _named(attribute: str, rest: str) -> str:
    found = re.search(rf"\b{attribute}=%([^\s,}}]+)", rest)
    return found[1] if found else ""


def _branches(rest: str) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", rest)
    if listed:
        return re.findall(r"%([^\s,]+)", listed[1])
    return [_named("true_computation", rest), _named("false_computation", rest)]


def _trips(rest: str, unknown: int = 1) -> int:
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', rest)
    return int(found[1]) if found else unknown


def _dot(kind: str, rest: str, types: dict[str, str]) -> float:
    left = _shapes(types[_operands(rest)[0]])[0]
    along = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", rest)
    inner = math.prod(left[1][int(axis)] for axis in along[1].split(",") if axis) if along else 1
    complex_ = 4 if left[0].startswith("c") else 1
    return 2.0 * complex_ * _numbers(kind) * inner


def _custom(kind: str, rest: str) -> float:
    """Half of a QR factorisation each: of the reflections, and of the product of them."""
    if not re.search(r"geqrf|orgqr|ungqr|householder|Qr", rest):
        return 0.0
    _, sizes = _shapes(kind)[0]
    *batch, rows, columns = sizes
    return 2.0 * math.prod(batch) * rows * columns * min(rows, columns)


def _sent(operation: str, kind: str, devices: int) -> float:
    size = sum(_BYTES[name] * math.prod(sizes) for name, sizes in _shapes(kind))
    others = (devices - 1) / devices
    if operation.startswith("collective-permute"):
        return float(size)
    if operation.startswith("all-reduce"):
        return 2 * others * size  # around a ring: parts are added up, then handed out
    if operation.startswith(("all-gather", "all-to-all")):
        return others * size
    if operation.startswith("reduce-scatter"):
        return (devices - 1) * float(size)
    return 0.0
