"""Commands in hints and warnings with the model that was typed, so that they can be pasted."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from latte_cli.cli import console

_PLACE = re.compile(r"--suite network FILE|\bMODEL\b")
_TICK = "`"
_COMMAND = re.compile(rf"(?<={_TICK}latte )[a-z-]+ [^{_TICK}]*?(?:{_PLACE.pattern})[^{_TICK}]*(?={_TICK})")
_FROM_STDIN = "-"


def name_model(model: str, options: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
    """Let commands name `model`, as a shell takes it, for the rest of the command, with their `options` by command."""
    console.put_model(partial(with_model, model, options))


def name_typed_model(arguments: Mapping[str, Any]) -> None:
    """Let commands name the one model among a command's `arguments`, if there is one, at its batch sizes."""
    given = arguments.get("model") or arguments.get("models") or arguments.get("files") or ()
    models = [str(each) for each in (given if isinstance(given, list | tuple) else (given,))]
    if len(models) == 1 and models[0] != _FROM_STDIN and not models[0].endswith(".json"):
        name_model(console.shell_word(models[0]), {"profile": batch_options(arguments.get("batch_size"))})


def batch_options(batches: Any) -> list[str]:
    """The options of `latte profile` for the batch sizes that an option `--batch-size` gives."""
    sizes = getattr(batches, "sizes", batches) or ()
    return [f"--batch-size {size}" for size in (sizes if isinstance(sizes, list | tuple) else (sizes,))]


def with_model(model: str, options: Mapping[str, Sequence[str]], text: str) -> str:
    """`text` whose commands in backticks name `model` where they say MODEL, and the `options` that they lack."""

    def paste(found: re.Match[str]) -> str:
        words = found[0].split()
        more = [each for each in options.get(words[0], ()) if each.partition(" ")[0] not in words]
        return _PLACE.sub(lambda _: " ".join((model, *more)), found[0])

    return _COMMAND.sub(paste, text)
