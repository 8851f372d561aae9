"""Mutants of a module: its code with one operator, number, condition, argument or statement broken.

Wording is left alone: docstrings, errors, f-strings and strings with a space. So are imports, annotations and
decorators.
"""

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType
from typing import NamedTuple

from tinyvla.errors import one_line

_LONGEST = 100  # letters of the code before and after, each
_SWAPS: dict[type[ast.AST], type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.Break: ast.Continue, ast.Continue: ast.Break,
}  # fmt: skip
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_UNCHANGED_FIELDS = {"annotation", "returns", "decorator_list", "type_params"}


class Mutant(NamedTuple):
    """A module with one change.

    change: the line and the code before and after; it names the mutant, also once the lines above have moved.
    line: its number.
    statement: lines of the statement, of which one runs if the change does; empty: it runs on import.
    code: of the module.
    """

    change: str
    line: int
    statement: range
    code: CodeType


class _Place(NamedTuple):
    """A node of a syntax tree, its statement, and a function that puts another node in its place."""

    node: ast.AST
    replace: Callable[[ast.AST], None]
    statement: ast.stmt
    in_function: bool


def make_mutants(source: str, file: str) -> list[Mutant]:
    """All mutants of a module, in the order of its code."""
    tree, lines = ast.parse(source), source.splitlines()
    mutants, repetitions = [], Counter[str]()
    for node, replace, statement, in_function in _places(tree, tree.body[0], False):
        for replacement in _replacements(node):
            line: int = getattr(node, "lineno", statement.lineno)
            change = f"{lines[line - 1].strip()}: {_describe(node)} -> {_describe(replacement)}"
            repetitions[change] += 1
            if repetitions[change] > 1:
                change += f" ({repetitions[change]})"
            replace(ast.fix_missing_locations(ast.copy_location(replacement, node)))
            code = compile(tree, file, "exec")
            replace(node)
            mutants.append(Mutant(change, line, _header(statement) if in_function else range(0), code))
    return mutants


def _places(parent: ast.AST, statement: ast.stmt, in_function: bool) -> Iterator[_Place]:
    """All nodes below `parent` that may be changed."""
    for field, value in ast.iter_fields(parent):
        if field in _UNCHANGED_FIELDS:
            continue
        within = in_function or (isinstance(parent, _FUNCTIONS) and field == "body")
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or _is_unchanged(child):
                continue
            replace = partial(value.__setitem__, index) if isinstance(value, list) else partial(setattr, parent, field)
            place = _Place(child, replace, child if isinstance(child, ast.stmt) else statement, within)
            yield place
            if not isinstance(child, ast.Raise):
                yield from _places(child, place.statement, within)


def _is_unchanged(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.JoinedStr() | ast.Expr(ast.Constant()):
            return True
        case ast.If(test=ast.Name("TYPE_CHECKING")) | ast.Assign(targets=[ast.Name("__all__")]):
            return True
    return False


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes to put in the place of one, each of which breaks it."""
    match node:
        case ast.Compare(left, operators, right):
            for index, operator in enumerate(operators):
                swapped = _SWAPS[type(operator)]()
                yield ast.Compare(left, [*operators[:index], swapped, *operators[index + 1 :]], right)
        case ast.BinOp(left, operator, right) if type(operator) in _SWAPS:
            yield ast.BinOp(left, _SWAPS[type(operator)](), right)
        case ast.AugAssign(target, operator, value) if type(operator) in _SWAPS:
            yield ast.AugAssign(target, _SWAPS[type(operator)](), value)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(_SWAPS[type(operator)](), values)
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(float() as value):
            yield ast.Constant(value * 2 or 1.0)
        case ast.Constant(str() as value) if " " not in value:
            yield ast.Constant(f"{value}x")
        case ast.If(test, body, alternative) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, alternative)
        case ast.IfExp(test, body, alternative) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, alternative)
        case ast.Return(ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call()) | ast.Raise():
            yield ast.Pass()
        case ast.Break() | ast.Continue():
            yield _SWAPS[type(node)]()
        case ast.Call(function, arguments, keywords):
            for index, keyword in enumerate(keywords):
                if keyword.arg:
                    yield ast.Call(function, arguments, [*keywords[:index], *keywords[index + 1 :]])


def _describe(node: ast.AST) -> str:
    """Code of a node on one line; of an `if` without what it guards."""
    text = f"if {ast.unparse(node.test)}" if isinstance(node, ast.If) else ast.unparse(node)
    return one_line(text, _LONGEST)


def _header(statement: ast.stmt) -> range:
    """Lines of a statement without those of its body."""
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return range(statement.lineno, max(last, statement.lineno) + 1)
