"""Selectors on disk: XGBoost's own file or safetensors, with a JSON card beside it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from hashlib import sha256
from pathlib import Path

from latte_cli import documents, files
from latte_cli.algorithms import Algorithm
from latte_cli.documents import DocumentSource, Missing
from latte_cli.errors import LatteError
from latte_cli.features import FEATURE_VERSION
from latte_cli.selector.candidates import COLUMNS
from latte_cli.selector.model import SCHEMA, Selector, SelectorCard
from latte_cli.store import Store
from latte_cli.store.shipped import shipped_models

_CARD = "card.json"
_HINT = "`latte train-selector` makes it again"


def selector_name(slugs: Sequence[str], *, all_devices: bool = False) -> str:
    """The name of the selector for the devices `slugs`, which are all that were measured or those asked for."""
    if len(slugs) == 1:
        return f"selector-{slugs[0]}"
    return "selector-" + ("all" if all_devices else sha256(" ".join(sorted(slugs)).encode()).hexdigest()[:12])


def save_selector(selector: Selector, directory: Path) -> None:
    """Write `selector` to `directory`, in place of the one there: its model, then the card that names it.

    Readers see the old one or the new one. Raises LatteError where it cannot be written; the old one is there then.
    """
    content = selector.model.as_files() | selector.workspaces.as_files()
    names = {name: _digest_name(name, one) for name, one in content.items()}
    card = replace(selector.card, files=names)
    with files.files_together(directory, "the selector"):
        for name, one in content.items():
            files.write_file(directory / names[name], one)
        files.write_file(directory / _CARD, json.dumps(asdict(card), indent=1))
    for path in (*directory.glob("*.ubj"), *directory.glob("*.safetensors")):
        if path.name not in names.values():
            path.unlink(missing_ok=True)


def _digest_name(name: str, content: bytes) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{sha256(content).hexdigest()[:12]}.{suffix}"


def load_selector(path: Path) -> Selector:
    """The selector in the folder `path`.

    Raises LatteError where it is missing, damaged, of a newer schema, or made for other features.
    """
    try:
        content = documents.load_document(path / _CARD, SCHEMA, _source(path))
    except Missing as exc:
        raise LatteError(f"there is no selector at `{path}`", hint="`latte train-selector` makes one") from exc
    if content["feature_version"] != FEATURE_VERSION or content["features"] != list(COLUMNS):
        raise LatteError(f"the selector `{path}` was made for other features", hint=_HINT)
    values = {field.name: content[field.name] for field in fields(SelectorCard)}
    card = SelectorCard(**{**values, "algorithms": [Algorithm(**each) for each in content["algorithms"]]})
    if any(
        at >= len(card.algorithms) for each in (card.ran, card.classes) for indices in each.values() for at in indices
    ):
        raise _source(path).error("it names an algorithm that is not there")
    try:
        return _selector(path, card)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as exc:
        raise _source(path).error("its model cannot be read") from exc


def _source(path: Path) -> DocumentSource:
    return DocumentSource(where=f"the selector `{path}`", fault="is damaged", hint=_HINT)


def _selector(path: Path, card: SelectorCard) -> Selector:
    from latte_cli.selector import mlp, trees, workspaces

    content = {name: (path / file).read_bytes() for name, file in card.files.items()}
    own = content.pop(workspaces.FILE, None)
    needed = workspaces.Workspaces() if own is None else workspaces.load_workspaces(own, len(COLUMNS))
    if card.kind == "mlp":
        return Selector(card, mlp.load_perceptrons(content), needed)
    return Selector(card, trees.load_trees(content, card.devices, card.classes), needed)


def find(store: Store, slug: str) -> Selector | None:
    """The newest selector that knows the device `slug`: the store's own, else a shipped one; None without any.

    Raises LatteError where that one cannot be used.
    """
    for models in (store.models_dir, shipped_models()):
        found = sorted(_selectors_made(models, slug)) if models else []
        if found:
            return load_selector(found[-1][1])
    return None


def _selectors_made(models: Path, slug: str) -> Iterator[tuple[float, Path]]:
    """When and where selectors for `slug` were made; one whose card cannot be read counts if it bears its name."""
    for path in models.glob("selector-*"):
        try:
            content = documents.read(path / _CARD, _source(path), finite=False)
            if slug in content["devices"]:
                yield float(content["made_at"]), path
        except Missing:
            continue  # whoever made it was killed before there was one
        except (LatteError, KeyError, TypeError, ValueError):
            if path.name == f"selector-{slug}":
                yield 0.0, path
