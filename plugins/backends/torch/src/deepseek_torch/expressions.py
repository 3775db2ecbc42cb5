"""What PyTorch evaluates as Python when it loads an exported program: only harmless sizes, guards and names pass."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

#: Functions that expressions of sizes are made of (torch.utils._sympy.functions, and SymPy's own).
_FUNCTIONS = frozenset({
    "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Mod", "PythonMod", "CleanDiv", "FloorDiv",
    "CeilDiv", "ModularIndexing", "Max", "Min", "Abs", "Where", "FloorToInt", "CeilToInt", "TruncToInt", "RoundToInt",
    "RoundDecimal", "ToFloat", "IntTrueDiv", "FloatTrueDiv", "PowByNatural", "FloatPow", "Identity", "LShift", "RShift",
    "BitwiseFn_bitwise_and", "BitwiseFn_bitwise_or", "IsNonOverlappingAndDenseIndicator", "Piecewise",
    "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "LessThan", "StrictLessThan", "GreaterThan",
    "StrictGreaterThan", "And", "Or", "Not", "floor", "ceiling", "sqrt", "log", "exp",
})  # fmt: skip
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift"})
#: What a guard asks of an input: ``L['x'].size()[0] == 3``.
_METHODS = frozenset({"size", "stride", "storage_offset", "dim", "numel", "ndim", "shape"})
_NAME = re.compile(r"[\w.\[\]'\-:]*")
#: What a node may call: PyTorch looks names up in `torch`, `operator` and `math`, and would find ``torch.os.system``.
_TARGET = re.compile(
    r"torch\.ops\.\w+\.\w+(\.\w+)?|torch\._?sym_\w+|math\.\w+|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|"
    r"abs|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|invert|lshift|rshift|getitem)"
)
_LOOKED_UP = ("torch", "_operator", "math", "#")
#: Operators that reach files.
_FILES = re.compile(r"torch\.ops\.\w+\.(save|from_file)\b")
#: No size of a tensor is a power beyond this.
_LARGEST = 64
_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.Tuple,
    ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def program_faults(value: Any) -> Iterator[str]:
    """What of a program's JSON would run as code, in words; nothing for an honest program."""
    if isinstance(value, list):
        for item in value:
            yield from program_faults(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str):
                yield from _text_faults(key, item)
            elif key == "guards_code" and isinstance(item, list) and not all(map(is_arithmetic, item)):
                yield "a guard that is no comparison of sizes"
            else:
                # Whatever the key: tensors are kept by their names, which are the program's to choose.
                yield from program_faults(item)


def _text_faults(key: str, text: str) -> Iterator[str]:
    if key in ("expr_str", "guards_code") and not is_arithmetic(text):
        yield f"a size that is no arithmetic ({text[:60]!r})"
    elif key == "name" and not _NAME.fullmatch(text):
        yield f"a name that is none ({text[:60]!r})"
    elif key == "target" and not _is_operator(text):
        yield f"a call of `{text[:60]}`"


def _is_operator(target: str) -> bool:
    if not target.startswith(_LOOKED_UP):
        return True
    return bool(_TARGET.fullmatch(target)) and not _FILES.match(target)


def is_arithmetic(text: Any) -> bool:
    """Whether a text is an expression of numbers, symbols, and the functions above; it is parsed, never run."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _NODES) and _harmless(node) for node in ast.walk(tree))


def _harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _METHODS
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift):
        return _is_small(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _POWERS:
        return all(_is_small(argument) for argument in node.args[1:])
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) or (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS)
    if isinstance(node, ast.Name):
        return not node.id.startswith("_")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.isidentifier() or not node.value
    return True


def _is_small(exponent: ast.expr) -> bool:
    """Not a power of a power, whose evaluation would not end."""
    constants = [node.value for node in ast.walk(exponent) if isinstance(node, ast.Constant)]
    numbers = [value for value in constants if isinstance(value, int | float)]
    powers = [node for node in ast.walk(exponent) if isinstance(node, ast.Pow | ast.LShift)]
    called = [n.func.id for n in ast.walk(exponent) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    return all(abs(value) <= _LARGEST for value in numbers) and not powers and not _POWERS & set(called)
