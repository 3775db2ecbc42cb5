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
#: What a guard asks of an input: ``L['x'].size()[0] == 3``.
_METHODS = frozenset({"size", "stride", "storage_offset", "dim", "numel", "ndim", "shape"})
_NAME = re.compile(r"[\w.\[\]'\-:]*")
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
            if key == "expr_str" and not is_arithmetic(item):
                yield f"a size that is no arithmetic ({str(item)[:60]!r})"
            elif key == "guards_code" and not all(is_arithmetic(guard) for guard in item or ()):
                yield "a guard that is no comparison of sizes"
            elif key == "name" and isinstance(item, str) and not _NAME.fullmatch(item):
                yield f"a name that is none ({item[:60]!r})"
            # Metadata is free text (stack traces) that PyTorch keeps as text.
            elif key != "metadata":
                yield from program_faults(item)


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
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) or (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS)
    if isinstance(node, ast.Name):
        return not node.id.startswith("_")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.isidentifier() or not node.value
    return True
