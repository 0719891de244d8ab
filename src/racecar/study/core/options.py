"""Options of a command from the fields of a dataclass, with the words of its docstring."""

from __future__ import annotations

import dataclasses
import re
import typing

from jsonargparse import ArgumentParser


def add_fields(parser: ArgumentParser, kind: type, **words: str) -> None:
    """One option per field, its help from the line of the docstring; several strings are given one after the other.

    Args:
        parser: of the command.
        kind: a dataclass whose fields have defaults.
        words: help where the docstring's is not for the command line.
    """
    types = typing.get_type_hints(kind)
    said = dict(re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", kind.__doc__ or "", re.MULTILINE))
    for field in dataclasses.fields(kind):
        text = words.get(field.name) or " ".join(said.get(field.name, "").replace("``", "").split())
        if types[field.name] is bool:
            add_both(parser, field.name, action="store_true", help=text)
        elif types[field.name] == tuple[str, ...]:
            add_both(
                parser,
                field.name,
                nargs="+",
                type=str,
                default=[*typing.cast(tuple[str, ...], field.default)],
                help=text,
            )
        else:
            add_both(parser, field.name, type=types[field.name], default=field.default, help=text)


def chosen(options: typing.Any, kind: type) -> dict[str, typing.Any]:
    """What was chosen for the fields of ``kind``."""
    found = {f.name: getattr(options, f.name) for f in dataclasses.fields(kind)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


def add_both(parser: ArgumentParser, name: str, **settings: typing.Any) -> None:
    """An option that can be written with - and with _."""
    names = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
    parser.add_argument(*names, dest=name, **settings)
