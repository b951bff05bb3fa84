"""What every file goes through at the border: JSON that is JSON, and values of the form that a schema asks for.

Errors are one line in the words of the file: where, the value, the rule. Text of Python or of a library never gets out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from drlpp.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

_LONGEST_VALUE = 60
_RULES = {
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of names to values",
    "finite_number": "must be finite",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "model_type": "must be a mapping of names to values",
    "none_required": "must be null",
    "string_type": "must be text",
    "tuple_type": "must be a list",
}
"""Kind of a problem, as pydantic names it -> the rule, where the rule needs no number."""

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, "text"),
    (bool, "true or false"),
    ((int, float), "a number"),
    ((list, tuple), "a list"),
    (Mapping, "a mapping"),
)


def parse_json(text: str, where: str, error: type[InputError]) -> Any:
    """The value that a JSON text stands for. Raises `error` with file, line and what is wrong there."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as cause:
        cut_off = cause.pos >= len(text.rstrip()) or cause.msg.startswith("Unterminated string")
        reason = "it ends in the middle: the file was not written to its end" if cut_off else cause.msg
        raise error(f"{where} line {cause.lineno}: not JSON: {reason}") from cause
    except RecursionError as cause:
        raise error(f"{where}: not usable JSON: lists or mappings are nested too deep") from cause
    except ValueError as cause:  # the one other reason that json has: too many digits
        raise error(f"{where}: not usable JSON: a whole number has too many digits") from cause


def parse_yaml(text: str, where: str, error: type[InputError]) -> Any:
    """The value that a YAML text stands for. Raises `error` with file, line and what is wrong there."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as cause:
        mark = getattr(cause, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        raise error(f"{where}{place}: not YAML: {getattr(cause, 'problem', cause)}") from cause


def kind_of(value: object) -> str:
    """What a parsed value is, in the words of a file."""
    for kinds, words in _KINDS:
        if isinstance(value, kinds):
            return words
    return "nothing"


def check_form(
    adapter: TypeAdapter[Any], data: object, where: str, error: type[InputError], keys: Iterable[str]
) -> None:
    """Checks parsed data against a schema.

    Args:
        keys: all keys that the schema knows, for hints about misspelt ones.

    Raises:
        InputError: of the class `error`: where, the first problem's place and value, and the rule.
    """
    from pydantic import ValidationError

    try:
        adapter.validate_python(data)
    except ValidationError as cause:
        raise error(f"{where}: {first_problem(cause, keys)}") from cause


def first_problem(error: ValidationError, keys: Iterable[str]) -> str:
    """The first problem that validation found, in one line: place, value, rule, and how many more there are."""
    problem = error.errors(include_url=False, include_context=True)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the file"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        hint = did_you_mean(str(problem["loc"][-1]), keys)
        return f"unknown key {place!r}: {hint or 'check the spelling'}".rstrip() + more
    if kind == "missing":
        return f"key {place!r} is missing{more}"
    rule = _RULES.get(kind) or _RULES_WITH_NUMBERS.get(kind, _as_said)({**context, "msg": problem["msg"]})
    return f"{place} = {_shown(problem['input'])}: {rule}{more}"


def _as_said(context: dict[str, Any]) -> str:
    return str(context["msg"]).removeprefix("Value error, ").removeprefix("Input ").replace("should be", "must be")


_RULES_WITH_NUMBERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "greater_than": lambda c: f"must be above {c['gt']}",
    "greater_than_equal": lambda c: f"must be at least {c['ge']}",
    "less_than_equal": lambda c: f"must be at most {c['le']}",
    "literal_error": lambda c: f"must be {c['expected']}",
    "too_short": lambda c: f"must have at least {c['min_length']} {_entries(c['min_length'])}",
    "too_long": lambda c: f"must have at most {c['max_length']} {_entries(c['max_length'])}",
}


def _entries(number: int) -> str:
    return "entry" if number == 1 else "entries"


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 4 * _LONGEST_VALUE:
        return "a number of very many digits"
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
