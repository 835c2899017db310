"""Artefacts: what was learned, in files that are named by a digest of their bytes, and a JSON card that names them."""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from latte_cli import files
from latte_cli.documents import DocumentSource, Missing
from latte_cli.errors import LatteError

CARD = "card.json"
"""The name of the card."""

MOST_CARD_BYTES = 1 << 25
"""A card has at most so many bytes; chosen: a hundred times those of a selector for ten devices."""

_MOST_BYTES = 1 << 29  # chosen: fifteen times the trees fitted to 600,000 imported rows
_DIGITS = 12


def save_artefact(
    folder: Path, content: Mapping[str, bytes], card: Callable[[Mapping[str, str]], object], what: str = ""
) -> None:
    """Write the `content` of files to `folder`, in place of the artefact there, then the card that `card` makes.

    `card` gets the name that each file has got by the name in `content`. Readers see the old artefact or the new one.
    Raises LatteError where `what` cannot be written; the old artefact is there then.
    """
    if large := [name for name, one in content.items() if len(one) > _MOST_BYTES]:
        hint = "learn from fewer devices (`--device`)"
        raise LatteError(f"`{large[0]}` has more than {_MOST_BYTES:,} bytes, too many to be read", hint=hint)
    names = {name: _digest_name(name, one) for name, one in content.items()}
    with files.files_together(folder, what):
        for name, one in content.items():
            files.write_file(folder / names[name], one)
        files.write_file(folder / CARD, json.dumps(card(names), indent=1))
    for path in (*folder.glob("*.ubj"), *folder.glob("*.safetensors")):
        if path.name not in names.values():
            path.unlink(missing_ok=True)


def read_artefact(folder: Path, names: Mapping[str, str], source: DocumentSource) -> dict[str, bytes]:
    """What `save_artefact` wrote to the files called `names`, by the names that their content had.

    Raises LatteError for a file whose bytes do not match the digest in its name, Missing where there is none.
    """
    return {name: _read(folder / file, name, source) for name, file in names.items()}


def _read(path: Path, name: str, source: DocumentSource) -> bytes:
    try:
        files.check_regular(path, source.hint)
        content = files.first_bytes(path, _MOST_BYTES)
    except FileNotFoundError as exc:
        raise Missing(source.error(f"the file of its `{name}` is missing").message, hint=source.hint) from exc
    except (OSError, ValueError) as exc:  # a name with a NUL is a ValueError
        reason: Any = exc.strerror if isinstance(exc, OSError) else exc
        raise source.error(f"the file of its `{name}` cannot be read: {reason}") from exc
    if len(content) > _MOST_BYTES or path.name != _digest_name(name, content):
        raise source.error(f"its `{name}` is not named by a digest of its bytes; it changed, or is of an older LATTE")
    return content


def _digest_name(name: str, content: bytes) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{sha256(content).hexdigest()[:_DIGITS]}.{suffix}"
