"""Functions stay small: at most ten parameters and a hundred lines, in Python and in C++. The rule is seven and sixty.

Verbs of the command line take their options in groups (`cli.option_groups`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parents[2] / "src"
MOST_PARAMETERS, MOST_LINES = 10, 100
_FUNCTION = r"^[ \t]*(?:[\w:<>&*,~]+[ \t]+)+[&*]?([\w:]+)\(([^;{}()]*)\)\s*(?:const\s*)?[;{]"
STATEMENTS = {"if", "for", "while", "switch", "catch", "return", "sizeof", "defined", "else"}


def functions() -> Iterator[tuple[str, int, int]]:
    """(file and name, parameters without self, lines) of every Python function."""
    for path in sorted((SRC / "drlpp").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                number = len(arguments) - (bool(arguments) and arguments[0].arg in ("self", "cls"))
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{path.relative_to(SRC / 'drlpp')} {node.name}", number, lines


def native_functions(text: str) -> Iterator[tuple[str, int]]:
    """(name, parameters) of every function that a C++ text defines or declares at the start of a line."""
    for match in re.finditer(_FUNCTION, text, re.M):
        if match[1] not in STATEMENTS:
            inside = re.sub(r"<[^<>]*>", "", match[2])
            yield match[1], inside.count(",") + 1 if inside.strip() else 0


def test_python_functions():
    assert [f for f in functions() if f[1] > MOST_PARAMETERS or f[2] > MOST_LINES] == []


def test_native_functions():
    files = [*(SRC / "native").rglob("*.h"), *(SRC / "native").rglob("*.cpp")]
    counted = [(path.name, *f) for path in files for f in native_functions(path.read_text())]
    assert len(counted) > 50
    assert [f for f in counted if f[2] > MOST_PARAMETERS] == []


def test_parameters_of_native_functions_are_counted():
    text = "double f(int a, std::map<int, int> b, View<const double> c) {\n  if (a) return g(a);\n}\nvoid h();\n"
    assert list(native_functions(text)) == [("f", 3), ("h", 0)]
