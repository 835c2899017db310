"""Time models on disk: beside the store, and made again when the device's rows have changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from latte_cli import artefacts, boosters, documents
from latte_cli.documents import DocumentSource, Missing
from latte_cli.errors import LatteError
from latte_cli.features import FEATURE_VERSION, FEATURES
from latte_cli.lookup import Timing
from latte_cli.store import Store
from latte_cli.store.shipped import shipped_models
from latte_cli.time_model.card import SCHEMA, TimeModelCard
from latte_cli.time_model.fitting import fit_time_model
from latte_cli.time_model.groups import feature_count
from latte_cli.time_model.model import Prior, TimeModel
from latte_cli.time_model.moving import move_model

_FEW = 400
"""Of fewer timings a model is moved: trees err more then, in the root mean square (measured on two cores, on layers of
13 networks: 0.37 against 0.33 from 189 timings, 0.33 against 0.32 from 373, 0.29 against 0.32 from 742)."""


def time_model(
    store: Store, slug: str, timings: Callable[[], Sequence[Timing]], note: Callable[[str], None] = lambda text: None
) -> TimeModel | None:
    """The model of the device's present rows: from the store's or the shipped models, else fitted and kept.

    None where the device has no timings. `note` hears what takes a while, and why.
    """
    fingerprint = store.fingerprint(slug)
    for models in (store.models_dir, shipped_models()):
        kept = _load(models / folder_name(slug), fingerprint, store, note) if models else None
        if kept:
            return kept
    rows = [timing for timing in timings() if not timing.task.layer.free]
    if not rows:
        return None
    prior = prior_of(store, slug, note)
    if prior and len(rows) < _FEW:
        note(f"the time model of `{slug}` is that of `{prior.device.slug}`, moved by {len(rows)} timings")
        model = move_model(rows, store.device(slug), fingerprint, prior)
    else:
        note(f"fitting the time model of `{slug}` on {len(rows)} timings")
        model = fit_time_model(rows, store.device(slug), fingerprint, prior=prior)
    if store.models_dir:
        folder = store.models_dir / folder_name(slug)
        try:
            save_time_model(model, folder)
        except LatteError as exc:
            note(f"the time model is not kept: {exc.message}")
    return model


def prior_of(store: Store, slug: str, note: Callable[[str], None] = lambda text: None) -> Prior | None:
    """A shipped model of another device of the kind of `slug`, where the store has its rows."""
    own, models = store.device(slug), shipped_models()
    if models is None:
        return None
    for device in store.devices():
        if device.kind == own.kind and device.slug != slug:
            model = _load(models / folder_name(device.slug), store.fingerprint(device.slug), None, note)
            if model:
                return Prior(device, model)
    return None


def folder_name(slug: str) -> str:
    """The name of the folder of a device's model, among others."""
    return f"times-{slug}"


def save_time_model(model: TimeModel, folder: Path) -> None:
    """Write the trees, then the card that names them, in place of the model there.

    Readers see the old one or the new one. Raises LatteError where it cannot be written; the old one is there then.
    """
    content = {
        _file(group, index): bytes(booster.save_raw(raw_format="ubj"))
        for group, trees in model.trees.items()
        for index, booster in enumerate(trees)
    }

    def card(names: Mapping[str, str]) -> dict[str, Any]:
        trees = {
            group: [names[_file(group, index)] for index in range(len(each))] for group, each in model.trees.items()
        }
        return asdict(replace(model.card, trees=trees))

    artefacts.save_artefact(folder, content, card)


def _file(group: str, index: int) -> str:
    return f"{group}-{index}.ubj"


def _load(folder: Path, fingerprint: str, store: Store | None, note: Callable[[str], None]) -> TimeModel | None:
    """The model kept in `folder` if it was made of these rows with these features; derived data, so never an error.

    Without a `store` only a model that needs no other device's.
    """
    source = DocumentSource(where=f"the time model in `{folder}`", fault="is damaged", hint="it is fitted again")
    try:
        card = _card(folder, fingerprint, source)
    except LatteError as exc:
        note(f"{exc.message}; it is fitted again")
        return None
    if card is None:
        return None
    prior = prior_of(store, card.device, note) if card.prior and store else None
    known = (prior.device.slug, prior.model.card.fingerprint) if prior else ("", "")
    if known != (card.prior, card.prior_fingerprint):
        return None
    try:
        return TimeModel(card, _trees(folder, card, source), prior)
    except Missing:
        return None
    except LatteError as exc:
        note(f"{exc.message}; it is fitted again")
        return None


def _trees(folder: Path, card: TimeModelCard, source: DocumentSource) -> dict[str, list[Any]]:
    names = {_file(group, index): name for group, each in card.trees.items() for index, name in enumerate(each)}
    content = artefacts.read_artefact(folder, names, source)
    columns = feature_count(card.algorithms)
    try:
        return {
            group: [boosters.load_booster(content[_file(group, index)], columns) for index in range(len(each))]
            for group, each in card.trees.items()
        }
    except ValueError as exc:
        raise source.error("its trees are not those of its card") from exc


def _card(folder: Path, fingerprint: str, source: DocumentSource) -> TimeModelCard | None:
    """The card in `folder`; None where no card is of these rows and features, LatteError for a damaged one."""
    try:
        content = documents.read(folder / artefacts.CARD, source, most_bytes=artefacts.MOST_CARD_BYTES)
    except Missing:
        return None
    if not _is_current(content, fingerprint):
        return None
    documents.check(content, SCHEMA, source)
    card = TimeModelCard(**{field.name: content[field.name] for field in fields(TimeModelCard)})
    if not _is_whole(card):
        raise source.error("its parts do not belong together")
    return card


def _is_whole(card: TimeModelCard) -> bool:
    """Whether the parts of a card belong together: kinds have functions, and intervals begin before they end."""
    kinds = {key.partition(" ")[0] for key in card.ranges}
    intervals = [*card.quantiles.values(), *(each for sizes in card.ranges.values() for each in sizes.values())]
    return (
        kinds <= card.functions.keys()
        and ("" in card.offsets or not card.offsets)
        and len(set(card.algorithms)) == len(card.algorithms)
        and all(list(each) == sorted(each) for each in intervals)
    )


def _is_current(content: object, fingerprint: str) -> bool:
    """Whether a card is of this form, of these rows and of these features; what is no card is for its schema to say."""
    if not isinstance(content, dict):
        return True
    wanted = {"schema": SCHEMA, "fingerprint": fingerprint, "feature_version": FEATURE_VERSION}
    return {name: content.get(name) for name in wanted} == wanted and content.get("features") == list(FEATURES)
