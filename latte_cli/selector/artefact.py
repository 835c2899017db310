"""Selectors on disk: XGBoost's own file or safetensors, with a JSON card beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from hashlib import sha256
from math import isfinite
from pathlib import Path

from latte_cli import artefacts, documents
from latte_cli.algorithms import Algorithm
from latte_cli.documents import DocumentSource, Missing
from latte_cli.errors import LatteError
from latte_cli.features import FEATURE_VERSION
from latte_cli.selector.candidates import COLUMNS
from latte_cli.selector.model import SCHEMA, Selector, SelectorCard
from latte_cli.store import Store
from latte_cli.store.shipped import shipped_models

_HINT = "`latte train-selector` makes it again"


def selector_name(slugs: Sequence[str], *, all_devices: bool = False) -> str:
    """The name of the selector for the devices `slugs`, which are all that were measured, or those named."""
    if len(slugs) == 1:
        return f"selector-{slugs[0]}"
    return "selector-" + ("all" if all_devices else sha256(" ".join(sorted(slugs)).encode()).hexdigest()[:12])


def save_selector(selector: Selector, directory: Path) -> None:
    """Write `selector` to `directory`, in place of the one there: its model, then the card that names it.

    Readers see the old one or the new one. Raises LatteError where it cannot be written; the old one is there then.
    """
    content = selector.model.as_files() | selector.workspaces.as_files()
    artefacts.save_artefact(
        directory, content, lambda names: asdict(replace(selector.card, files=names)), "the selector"
    )


def load_selector(path: Path) -> Selector:
    """The selector in the folder `path`.

    Raises LatteError where it is missing, damaged, of a newer schema, or made for other features.
    """
    try:
        content = documents.load_document(
            path / artefacts.CARD, SCHEMA, _source(path), most_bytes=artefacts.MOST_CARD_BYTES
        )
    except Missing as exc:
        raise LatteError(f"there is no selector at `{path}`", hint="`latte train-selector` makes one") from exc
    if content["feature_version"] != FEATURE_VERSION or content["features"] != list(COLUMNS):
        raise LatteError(f"the selector `{path}` was made for other features", hint=_HINT)
    values = {field.name: content[field.name] for field in fields(SelectorCard)}
    card = SelectorCard(**{**values, "algorithms": [Algorithm(**each) for each in content["algorithms"]]})
    if problem := _problem(card):
        raise _source(path).error(problem)
    return _selector(path, card)


def _problem(card: SelectorCard) -> str:
    """What of a card does not belong together; nothing where all does."""
    lists = [indices for each in (card.ran, card.classes) for indices in each.values()]
    if any(at >= len(card.algorithms) for indices in lists for at in indices):
        return "it names an algorithm that is not there"
    named: list[Sequence[object]] = [card.devices, card.algorithms, *lists]
    if any(len(set(each)) < len(each) for each in named):
        return "it names a device or an algorithm twice"
    return ""


def _source(path: Path) -> DocumentSource:
    return DocumentSource(where=f"the selector `{path}`", fault="is damaged", hint=_HINT)


def _selector(path: Path, card: SelectorCard) -> Selector:
    from latte_cli.selector import mlp, trees, workspaces

    content = artefacts.read_artefact(path, card.files, _source(path))
    own = content.pop(workspaces.FILE, None)
    try:
        needed = workspaces.Workspaces() if own is None else workspaces.load_workspaces(own, len(COLUMNS))
        if card.kind == "mlp":
            return Selector(card, mlp.load_perceptrons(content, len(card.algorithms)), needed)
        return Selector(card, trees.load_trees(content, card.devices, card.classes), needed)
    except (KeyError, TypeError, ValueError) as exc:
        raise _source(path).error("its model is not that of its card") from exc


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
            content = documents.read(
                path / artefacts.CARD, _source(path), most_bytes=artefacts.MOST_CARD_BYTES, finite=False
            )
            if slug in content["devices"]:
                yield _finite(content["made_at"]), path
        except Missing:
            continue  # whoever made it was killed before there was one
        except (LatteError, KeyError, TypeError, ValueError, OverflowError):
            if path.name == f"selector-{slug}":
                yield 0.0, path


def _finite(made_at: float) -> float:
    if not isfinite(made_at):
        raise ValueError("no moment")
    return float(made_at)
