"""Options of layers and networks as text of the command line."""

from __future__ import annotations

import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advconv_onnx.errors import InputError

Options = Mapping[str, tuple[Any, Any]]
"""Type and default by name; ``inspect.Parameter.empty`` where one is required."""


def parse_options(arguments: Sequence[str], options: Options, owner: str) -> dict[str, Any]:
    """Read ``--name value`` and ``--name=value``; a truth value may stand alone.

    >>> parse_options(["--kernel-shape", "3,5", "--bias=no"], {
    ...     "kernel_shape": (int | Sequence[int], 3), "bias": (bool, True)}, "conv")
    {'kernel_shape': (3, 5), 'bias': False}

    Args:
        arguments: what the command line does not know itself.
        options: what there is.
        owner: whose options they are, for errors.

    Raises:
        InputError: an option that is missing, does not exist or is given twice, or a value of
            another type.
    """
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag, has_value, text = rest.pop(0).partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in options:
            known = ", ".join(map(_flag, options)) or "none"
            raise InputError(f"{owner} has no option '{flag}'; it has {known}")
        if name in values:
            raise InputError(f"{flag} is given twice; give it once")
        kinds = _kinds(options[name][0])
        if not has_value and rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        elif not has_value:
            text = "yes" if bool in kinds else ""
        values[name] = _parse(flag, text, kinds)
    for name, (hint, default) in options.items():
        if default is inspect.Parameter.empty and name not in values:
            raise InputError(f"{owner} needs {_flag(name)}: give {_describe(_kinds(hint))}")
    return values


def spell_options(options: Options) -> str:
    """All options with their defaults, as one would type them; those without text left out.

    >>> spell_options({"channels": (int, inspect.Parameter.empty), "group": (int, 1)})
    '--channels (required), --group 1'
    """
    return ", ".join(
        f"{_flag(name)} {_spell(default)}".rstrip()
        for name, (hint, default) in options.items()
        if _kinds(hint) - {types.NoneType}
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _spell(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "(required)"
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return "" if default is None else str(default)


def _kinds(hint: Any) -> set[Any]:
    """What a text may stand for: types and literal values."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return set().union(*map(_kinds, typing.get_args(hint)))
    if typing.get_origin(hint) is typing.Literal:
        return set(typing.get_args(hint))
    texts = (bool, int, float, str, types.NoneType, Sequence[int], Sequence[float])
    return {hint} if hint in texts else set()


def _parse(flag: str, text: str, kinds: set[Any]) -> Any:
    readers: list[tuple[Any, Callable[[str], Any]]] = [
        (types.NoneType, {"none": None}.__getitem__),
        (bool, {"yes": True, "true": True, "no": False, "false": False}.__getitem__),
        (int, int),
        (Sequence[int], lambda text: tuple(map(int, text.split(",")))),
        (float, float),
        (Sequence[float], lambda text: tuple(map(float, text.split(",")))),
        (str, str),
    ]
    if text in kinds:
        return text
    for kind, read in readers:
        if kind in kinds and text:
            with contextlib.suppress(ValueError, KeyError):
                return read(text)
    raise InputError(f"{flag} '{text}': give {_describe(kinds)}")


def _describe(kinds: set[Any]) -> str:
    names = {
        bool: "yes or no", int: "an integer", Sequence[int]: "integers with commas between them",
        float: "a number", Sequence[float]: "numbers with commas between them", str: "a name",
        types.NoneType: "none",
    }  # fmt: skip
    known = [name for kind, name in names.items() if kind in kinds]
    literals = sorted(kind for kind in kinds if isinstance(kind, str))
    return " or ".join([*known, *literals]) or "it in Python; it has no text form"
