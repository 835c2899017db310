"""Advice in the words of the command that gives it: what is an option of one command is a field of a file, or nothing,
for another."""

import re
from collections.abc import Callable, Mapping
from functools import cache, partial, wraps
from types import MappingProxyType
from typing import Any

import typer.main

from latte_cli.cli import console
from latte_cli.cli.pasting import name_typed_model

_ADVISED = re.compile(r"`(?P<code>[^`]*)`|(?P<bare>--[a-z][a-z-]*(?: [^\s;,`)]+)?)")
_NAME = re.compile(r"--[a-z][a-z-]*")

_FLEET = {
    "--batch-size": "batch",
    "--device": "device",
    "--layout": "layout",
    "--memory-limit": "memory",
    "--precision": "precision",
    "--threads": "threads",
}
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "allocate": _FLEET,
    "plan check": _FLEET,
    "simulate": {
        "--batch-size": "batch",
        "--device": "device",
        "--memory-limit": "memory",
        "--strategy": "strategy",
        "--threads": "threads",
        "--widths": "widths",
    },
}
"""By the name of a command that reads a file: the fields of the file that replace the options of other commands."""


def with_advice(name: str, command: Callable[..., Any]) -> Callable[..., Any]:
    """`command`, which is called `name`, with its hints and warnings in its own words and about its own model."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        console.put_advice(partial(in_words_of, name, command))
        console.put_model(str)
        name_typed_model(kwargs)
        return command(*args, **kwargs)

    return run


def in_words_of(name: str, command: Callable[..., Any], text: str) -> str:
    """`text` with each option as the command called `name` takes it; commands in backticks stay.

    That is the option itself, or a field of its file; what it cannot be told is an option of `latte estimate`.
    """
    if "--" not in text:
        return text
    from latte_cli.cli.commands import COMMANDS

    own, fields = long_options(command), _FIELDS.get(name, MappingProxyType({}))
    others = long_options(COMMANDS["estimate"])

    def said(found: re.Match[str]) -> str:
        span = found["bare"] or found["code"]
        names = _NAME.findall(span)
        option, _, value = span.partition(" ")
        if not span.startswith("--") or own.issuperset(names):
            return found[0]
        if option in fields:
            return f"`{fields[option]}: {value}`" if value else f"`{fields[option]}`"
        return f"`latte estimate MODEL {span}`" if others.issuperset(names) else found[0]

    return _ADVISED.sub(said, text)


@cache
def long_options(command: Callable[..., Any]) -> frozenset[str]:
    """The long options of a command, as they are typed."""
    alone = typer.Typer(add_completion=False)
    alone.command()(command)
    params = typer.main.get_command(alone).params
    return frozenset(name for param in params for name in (*param.opts, *param.secondary_opts) if name[:2] == "--")
