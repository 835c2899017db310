"""Selectors, time models and rounds that are odd, as a seed decides, and what reads them."""

import io
import json
import os
import random
import tempfile
import zipfile
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import mutations

from latte_cli import selector
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.allocator import RoundsFile, catalogue, pricer_of, read_before
from latte_cli.allocator.plan import Priced
from latte_cli.fleet import Fleet, parse_fleet
from latte_cli.network import Network, load
from latte_cli.selector import mlp
from latte_cli.store import Store, open_store
from latte_cli.tasks import Settings, Task
from latte_cli.time_model import folder_name, time_model

DEVICE = "reference-amd-epyc-family-26-model-2-2c-2t"
_DECISIONS = 120  # of the shipped CPU, enough for trees
_LIMIT_BYTES = 1 << 20

_EXTREMES = (5e-324, 1e-300, 1e-9, 0.01, 1.0, 1e10, 1e30)  # seconds that a step may take, by the schema

Folder = dict[str, bytes]


class Odd(Exception):
    """What was read cannot be."""


def packed(folder: Folder) -> bytes:
    """The files of a folder in one."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for name, content in folder.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return found.getvalue()


def unpack(path: Path, folder: Path) -> None:
    """Write the files in `path` to `folder`."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            (folder / name).write_bytes(archive.read(name))


def _files(folder: Path) -> Folder:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def damaged(draw: random.Random, folder: Folder) -> bytes:
    """A folder with a card or a file odd, gone, or in the place of another."""
    found = dict(folder)
    others = [name for name in folder if name != "card.json"]
    way = draw.random()
    if way < 0.7:
        found["card.json"] = _card_damaged(draw, json.loads(folder["card.json"]))
    elif way < 0.9:
        name = draw.choice(others)
        found[name] = mutations.bytes_damaged(draw, found[name])
    elif way < 0.95:
        del found[draw.choice([*folder])]
    else:
        found[draw.choice(others)] = draw.choice((b"", *(folder[name] for name in others)))
    return packed(found)


def _card_damaged(draw: random.Random, card: dict[str, Any]) -> bytes:
    """A damaged card, in half of the cases under one of its keys, since most places are under a few."""
    if draw.random() < 0.5:
        return mutations.json_text(draw, card)
    name = draw.choice([*card])
    part = mutations.json_damaged(draw, {name: card.pop(name)})
    return json.dumps({**card, **(part if isinstance(part, dict) else {})}).encode("utf-8", "surrogatepass")


# Selectors


@cache
def selectors() -> tuple[Folder, ...]:
    """A selector of each kind, of some of the rows of the shipped CPU."""
    with tempfile.TemporaryDirectory() as folder:
        rows = open_store(f"{folder}/store").measurements(DEVICE, kinds={"convolution"})
        known = selector.decisions(rows)[:_DECISIONS]
        trees = selector.fit_selector(known)
        perceptrons = mlp.fit_perceptrons(known, trees.card.algorithms, seed=0, epochs=1)
        selector.save_selector(trees, Path(folder) / "trees")
        card = selector.SelectorCard(**{**vars(trees.card), "kind": "mlp", "classes": {}})
        selector.save_selector(selector.Selector(card, perceptrons, trees.workspaces), Path(folder) / "mlp")
        return _files(Path(folder) / "trees"), _files(Path(folder) / "mlp")


def damaged_selector(draw: random.Random) -> bytes:
    """A selector that is no longer what it was."""
    return damaged(draw, draw.choice(selectors()))


def store_with_selector(path: Path, folder: Path) -> Store:
    """A store in `folder` with the selector in `path`, for the shipped CPU."""
    unpack(path, folder / ".models" / selector.selector_name([DEVICE]))
    return open_store(str(folder))


def use_selector(store: Store, network: Network) -> None:
    """Choose for each convolution; raises LatteError, and Odd for a choice that cannot be."""
    found = selector.find(store, DEVICE)
    if found is None:
        raise Odd("no selector is found, not even the shipped one")
    pairs = [(layer, phase) for layer in network.layers for phase in layer.phases]
    for limit in (None, _LIMIT_BYTES):
        for each in found.choose(pairs, Settings(threads=2), store.device(DEVICE), limit):
            if not 0 <= each.confidence <= 1:
                raise Odd(f"a confidence of {each.confidence}")


# Time models


@cache
def measured() -> tuple[Folder, Folder]:
    """The parts of a small store, and the time model of its rows."""
    import made_rows

    from latte_cli.layers import Activation, Linear
    from latte_cli.lookup import combine_passes

    layers = [
        *(made_rows.convolution(n, c, 8, 16) for n in (1, 8) for c in (4, 32)),
        *(Activation(shape=(n, 4, 16, 16), function="relu") for n in (1, 2, 4, 8)),
        *(Linear(rows=n, in_features=64, out_features=10) for n in (1, 8)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, shipped=False)
        made_rows.profile(store, layers)
        slug = made_rows.DEVICE.slug
        time_model(store, slug, lambda: combine_passes(store.measurements(slug)))
        return _files(Path(folder) / f"device={slug}"), _files(Path(folder) / ".models" / folder_name(slug))


def damaged_times(draw: random.Random) -> bytes:
    """A time model that is no longer what it was."""
    return damaged(draw, measured()[1])


def store_with_times(path: Path, folder: Path) -> tuple[Store, str]:
    """A store in `folder` with a few rows and the time model in `path`, and the slug of its device."""
    import made_rows

    slug = made_rows.DEVICE.slug
    unpack(path, folder / ".models" / folder_name(slug))
    (folder / f"device={slug}").mkdir()
    for name, content in measured()[0].items():
        (folder / f"device={slug}" / name).write_bytes(content)
    return open_store(str(folder), shipped=False), slug


def use_times(store: Store, slug: str, network: Network) -> bool:
    """Whether the time model is read, and predicts; raises Odd for a time that cannot be."""
    model = time_model(store, slug, list)
    if model is None:
        return False
    pairs = dict.fromkeys((layer, phase) for layer in network.layers for phase in layer.phases)
    settings = Settings(threads=2)
    tasks = [
        Task(layer=layer, phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=settings)
        for layer, phase in pairs
        if not layer.free
    ]
    for each in model.predict(tasks, store.device(slug)).values():
        times = (each.low_s, each.low_80_s, each.device_s, each.high_80_s, each.high_s)
        if not all(map(isfinite, times)) or list(times) != sorted(times):
            raise Odd(f"times of {times}")
        if each.host_s is not None and not isfinite(each.host_s):
            raise Odd(f"a host's time of {each.host_s}")
    return True


# Rounds


@cache
def rounds(model: Path) -> dict[str, Any]:
    """What a federation of the `model` wrote of three rounds of its devices."""
    from test_rounds_file import document, trained

    network = load(model, batch_size=8)
    devices = [(f"phone-{at}", DEVICE) for at in range(3)] + [("board-0", DEVICE)]
    each = [[trained(name, 1.2 + 0.1 * at, sub_model="w0.5") for name, _ in devices] for at in range(3)]
    found = document(network, each, devices)
    counts = {name: [float(at % 5) for at in range(len(own))] for name, own in found["frequencies"].items()}
    return json.loads(json.dumps({**found, "frequencies": counts}))  # type: ignore[no-any-return]


def damaged_rounds(draw: random.Random, model: Path) -> bytes:
    """Rounds that are no longer what they were, or whose numbers are as small or large as they may be."""
    if draw.random() < 0.6:
        return mutations.json_text(draw, rounds(model))
    found = json.loads(json.dumps(rounds(model)))
    trained = [each for one in found["rounds"] for each in one["trained"]]
    for each in draw.sample(trained, draw.choice((1, 3, len(trained)))):
        low_s, step_s, high_s = sorted(draw.choice(_EXTREMES) for _ in range(3))
        each["price"] = {"step_s": step_s, "low_s": draw.choice((0.0, low_s)), "high_s": high_s}
        each["step_s"] = draw.choice((each["step_s"], *(one for one in _EXTREMES if one <= 1e10)))
        each["step_spread_s"] = draw.choice((0.0, each["step_s"], 5e-324))
        each["steps"] = draw.choice([1, *(one for one in mutations.INTEGERS if one > 0)])
        each["parameters"] = draw.choice([one for one in mutations.INTEGERS if one >= 0])
    for counts in found["frequencies"].values():
        counts[draw.randrange(len(counts))] = draw.choice((5e-324, 0.5, 2.0**53))
    return json.dumps(found).encode()


@cache
def _priced(model: Path, fleet: str) -> tuple[Network, Fleet, Priced]:
    read = parse_fleet(fleet.encode(), source="`fleet`")
    price = pricer_of(model, open_store(os.devnull + "-none"))
    network = load(model, batch_size=8)
    sub_models = catalogue(network, (1.0, 0.5))
    return network, read, [(each, tuple(price(one, each) for one in sub_models)) for each in read.classes]


def use_rounds(path: Path, model: Path, fleet: str) -> None:
    """Correct a fleet's prices by the rounds in `path`; raises LatteError, and Odd for a price that cannot be."""
    network, read, priced = _priced(model, fleet)
    found = read_before(path)
    found.check_model(network)
    if not isinstance(found, RoundsFile):
        return
    list(found.summaries(read.classes))
    for _, corrected in found.correct(priced):
        for each in corrected:
            times = (each.low_s, each.round_s, each.high_s)
            if not all(one is not None and isfinite(one) for one in times) or list(times) != sorted(times):  # type: ignore[type-var]
                raise Odd(f"a round of {times}")
