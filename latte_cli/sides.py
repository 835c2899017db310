"""Sides: estimated steps that are compared with each other, from documents that were made now or earlier."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any

from latte_cli.prices import UNPRICED, DevicePrice, PriceList
from latte_cli.schedule import Schedule
from latte_cli.thresholds import Comparison, Document, compare_entries

NO = "no"
"""The answer of a step that does not fit."""


class EnergySource(StrEnum):
    """Where energy comes from: power that was read while layers were measured, or power that the user states."""

    MEASURED = "measured"
    STATED = "stated"


@dataclass(frozen=True, kw_only=True)
class Training:
    """All steps of a training with their 95 % interval, in seconds; energy in joules, and what both cost."""

    steps: int
    time_s: float
    low_s: float
    high_s: float
    energy_j: float | None
    energy_source: EnergySource | None
    cost: float | None
    currency: str = ""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One step that is compared with others: what was asked, and what was estimated; seconds and bytes.

    `file` is where it was read from, "" where it was estimated now. `fits` is the answer of its document, None where
    that has none. `document` and `entry` are the document that it is from and its part there.
    """

    file: str
    model: str
    sha256: str
    device: str
    batch_size: int
    accumulate: int
    precision: str
    layout: str
    threads: int
    strategy: str
    estimator: str
    optimizer: str
    shape: str
    compiled: bool
    checkpoint: str
    memory_limit_bytes: int | None
    version: str
    libraries: tuple[tuple[str, str], ...]
    step_s: float
    step_low_s: float
    step_high_s: float
    memory_bytes: int | None
    process_bytes: int | None
    fits: str | None
    training: Training | None
    document: Document = field(repr=False)
    entry: Document = field(repr=False)

    @property
    def samples_per_s(self) -> float:
        """Samples per second."""
        return self.batch_size * self.accumulate / self.step_s if self.step_s else inf


ASKED = (
    *("model", "device", "batch_size", "accumulate", "shape", "precision", "layout", "threads", "strategy"),
    *("estimator", "optimizer", "compiled", "checkpoint", "memory_limit_bytes", "version", "libraries", "sha256"),
    "file",
)
"""What may set sides apart, in the order in which it is shown; each of the last two only where nothing else does."""

_LAST = ("sha256", "file")
_OF_DEVICE = ("threads", "libraries")
"""What usually follows from the device, and is shown only where it does not."""


def sides_of(
    document: Document, schedule: Schedule, prices: PriceList | None = None, *, file: str = "", shape: str = ""
) -> list[Side]:
    """A side for each estimate of a document; the `schedule` says what a training is, and `prices` what it costs."""
    return [_side(document, entry, schedule, prices, file, shape) for entry in document["estimates"]]


def _side(
    document: Document, entry: Document, schedule: Schedule, prices: PriceList | None, file: str, shape: str
) -> Side:
    model, settings, totals = document["model"], entry["settings"], entry["totals"]
    fits = entry.get("fits")
    shape = shape or " ".join(document.get("asked", {}).get("shape", ()))
    return Side(
        file=file,
        model=model["name"],
        sha256=model["sha256"],
        device=entry["device"],
        batch_size=model["batch_size"],
        accumulate=settings["accumulate"],
        precision=settings["precision"],
        layout=settings["layout"],
        threads=settings["threads"],
        strategy=entry["strategy"],
        estimator=entry["estimator"],
        optimizer=settings["optimizer"],
        shape=shape,
        compiled=entry.get("compiled") is not None,
        checkpoint=document.get("asked", {}).get("checkpoint", "none"),
        memory_limit_bytes=entry["limits"]["memory_bytes"],
        version=document.get("version", ""),
        libraries=tuple(sorted(settings["library_versions"].items())),
        step_s=totals["step_s"],
        step_low_s=totals["step_low_s"],
        step_high_s=totals["step_high_s"],
        memory_bytes=totals["memory_bytes"],
        process_bytes=fits["expected_bytes"] if fits else None,
        fits=fits["answer"] if fits else None,
        training=_training_of(document, entry, schedule, prices),
        document=document,
        entry=entry,
    )


def _training_of(document: Document, entry: Document, schedule: Schedule, prices: PriceList | None) -> Training | None:
    """What a training of the schedule takes; None where that says no length of one."""
    totals = entry["totals"]
    batch = document["model"]["batch_size"] * entry["settings"]["accumulate"]
    steps = schedule.steps(batch)
    if steps is None:
        return None
    paced_s = totals.get("paced_step_s") or 0.0
    waiting_s = paced_s if paced_s > totals["step_s"] else 0.0  # for data that loads more slowly than a step computes
    low_s, time_s, high_s = (
        schedule.round_s(max(totals[name], waiting_s), batch, document["model"]["parameters"]) or 0.0
        for name in ("step_low_s", "step_s", "step_high_s")
    )
    price = prices.price_of(entry["device"]) if prices else UNPRICED
    energy_j, source = _energy(totals, steps, time_s, price)
    return Training(
        steps=steps,
        time_s=time_s,
        low_s=low_s,
        high_s=high_s,
        energy_j=energy_j,
        energy_source=source,
        cost=price.cost(time_s, energy_j),
        currency=prices.currency if prices else "",
    )


def _energy(
    totals: Mapping[str, Any], steps: int, time_s: float, price: DevicePrice
) -> tuple[float | None, EnergySource | None]:
    """The energy of a training: by the power that its user states, else by that of its steps where it was measured."""
    if price.power_w is not None:
        return price.power_w * time_s, EnergySource.STATED
    if (step_j := totals.get("energy_j")) is not None:
        return step_j * steps, EnergySource.MEASURED
    return None, None


def apart(sides: Sequence[Side]) -> tuple[str, ...]:
    """The names of what was asked that set these sides apart: no two of them share all of it, where that can be."""
    found = [name for name in ASKED if name not in _LAST and _differ(sides, name)]
    devices = {side.device for side in sides}
    for name in _OF_DEVICE:
        if name in found and len({(side.device, getattr(side, name)) for side in sides}) == len(devices):
            found.remove(name)
    for name in _LAST:
        told = {tuple(getattr(side, each) for each in found) for side in sides}
        if len(told) < len(sides) and _differ(sides, name):
            found.append(name)
    return tuple(found)


def _differ(sides: Sequence[Side], name: str) -> bool:
    return len({getattr(side, name) for side in sides}) > 1


def rank(sides: Sequence[Side]) -> list[Side]:
    """The sides by the time of a training, or of a sample without a schedule; those that do not fit come last."""
    return sorted(sides, key=lambda side: (side.fits == NO, _length(side)))


def _length(side: Side) -> float:
    return side.training.time_s if side.training else 1 / side.samples_per_s


def compare_sides(before: Side, after: Side) -> Comparison:
    """Two sides layer by layer, however they were asked."""
    return compare_entries(before.entry, after.entry)


def share_layers(one: Side, other: Side) -> bool:
    """Whether most phases of layers that either has are of both, by their names."""
    names, others = ({(layer["name"], layer["phase"]) for layer in side.entry["layers"]} for side in (one, other))
    return 2 * len(names & others) > len(names | others)
