"""Whether what the command line says can be typed: commands in backticks, and the options that advice names."""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from latte_cli.cli.advice import long_options
from latte_cli.cli.commands import COMMANDS, GROUPS

_CODE = re.compile(r"`([^`]*)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_OF_ALL = {"--help", "--version", "--quiet", "--verbose"}
_ADVICE = ("hint: ", "warning: ", "next: ", "then: ")


@lru_cache(maxsize=1)
def commands() -> dict[str, Callable[..., Any]]:
    """Every command by its name, `plan check` as well as `estimate`."""
    grouped = {
        f"{name} {info.name or info.callback.__name__}": info.callback
        for name, group in GROUPS.items()
        for info in group.registered_commands
        if info.callback
    }
    return {**COMMANDS, **grouped}


def named(words: str) -> str | None:
    """The command that `words`, what follows `latte`, begin with; None where they begin with none."""
    first, _, rest = words.strip().partition(" ")
    second = rest.strip().partition(" ")[0]
    return next((name for name in (f"{first} {second}", first) if name in commands()), None)


def wrong_commands(text: str) -> Iterator[str]:
    """What is wrong with the `latte …` in backticks: commands and options that do not exist."""
    for code in _CODE.findall(text):
        if not code.startswith("latte "):
            continue
        words = code.removeprefix("latte ")
        asked = set(_OPTION.findall(words)) - _OF_ALL
        name = named(words)
        if name is None and not (words.split()[0] in GROUPS or words.startswith("-")):
            yield f"there is no such command as `{code}`"
        elif missing := asked - (long_options(commands()[name]) if name else set()):
            yield f"`{code}` has no {', '.join(sorted(missing))}"


def bare(text: str) -> set[str]:
    """The options that `text` names without a command."""
    others = (code for code in _CODE.findall(text) if not code.startswith("--"))
    for code in others:
        text = text.replace(f"`{code}`", " ")
    return set(_OPTION.findall(text)) - _OF_ALL


def check(arguments: Iterable[object], stderr: str) -> None:
    """Fail where advice in the `stderr` of `latte` with these arguments names what that command has not."""
    name = named(" ".join(str(word) for word in arguments if str(word)[:1] != "-"))
    if name is None:
        return
    for line in stderr.splitlines():
        if line.startswith(_ADVICE):
            wrong = list(wrong_commands(line))
            if missing := bare(line) - long_options(commands()[name]):
                wrong.append(f"`latte {name}` has no {', '.join(sorted(missing))}")
            assert not wrong, f"{'; '.join(wrong)}: {line}"
