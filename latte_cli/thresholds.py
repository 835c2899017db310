"""Thresholds: limits that estimates must keep to, and how far they may be from those of an earlier run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

from latte_cli import documents
from latte_cli.documents import DocumentSource
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.quantities import duration_s, size_bytes

ESTIMATES = "latte.estimate/1"
"""The schema of the documents that are compared."""

_SECONDS = ("step", "forward", "backward", "update", "epoch", "round")
QUANTITIES = {**{name: f"{name}_s" for name in _SECONDS}, "memory": "memory_bytes"}
"""What can be limited, and its key among the totals of an estimate."""

Document: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The `most` that a quantity may be: seconds, or bytes of memory."""

    quantity: str
    most: float


@dataclass(frozen=True, kw_only=True)
class PhaseChange:
    """One phase of a layer in two runs: seconds and algorithms; None where a run does not have it."""

    name: str
    phase: str
    before_s: float | None
    after_s: float | None
    before_algorithm: str | None
    after_algorithm: str | None

    @property
    def difference_s(self) -> float:
        """Seconds that it takes more than before."""
        return (self.after_s or 0.0) - (self.before_s or 0.0)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An estimate next to the one of the same device, strategy and settings in an earlier run; seconds of a step."""

    device: str
    strategy: str
    before_s: float
    after_s: float
    changes: tuple[PhaseChange, ...]

    @property
    def growth(self) -> float:
        """The share by which the step has become longer; negative where it is shorter."""
        return self.after_s / self.before_s - 1 if self.before_s else inf


@dataclass(frozen=True, kw_only=True)
class ThresholdCheck:
    """One thing that was asked of one estimate: `value` may be `most`.

    `quantity` is one of QUANTITIES, `regression`, whose numbers are shares of the step, or `fits`, with the least bytes
    of a process and the limit.
    """

    device: str
    strategy: str
    quantity: str
    value: float
    most: float

    @property
    def passed(self) -> bool:
        """Whether the value is within what was asked."""
        return self.value <= self.most


REGRESSION, FITS = "regression", "fits"


def parse_threshold(text: str) -> Threshold:
    """The limit in `50ms`, which is one of the step, `backward=30ms` or `memory=2GiB`.

    Raises LatteError (exit code 2) for what is none.
    """
    name, equals, value = text.rpartition("=")
    quantity = name.strip() if equals else "step"
    if quantity not in QUANTITIES:
        raise unknown("quantity", quantity, QUANTITIES)
    parse = size_bytes if quantity == "memory" else duration_s
    return Threshold(quantity=quantity, most=parse(value, before=f"{quantity}=" if equals else ""))


def read_estimates(path: Path) -> Document:
    """The document that `latte estimate --format json` wrote to `path`; raises LatteError for another file."""
    hint = "`latte estimate MODEL --format json > FILE` writes one"
    source = DocumentSource(where=f"`{path}`", fault="holds no estimates", kind="baseline", hint=hint)
    return documents.load_document(path, ESTIMATES, source)


def check_thresholds(document: Document, limits: Sequence[Threshold]) -> list[ThresholdCheck]:
    """What every estimate of the document has of each limited quantity.

    Raises LatteError (exit code 2) for the time of an epoch or a round without a schedule of one.
    """
    found = []
    for entry in document["estimates"]:
        for each in limits:
            value = entry["totals"].get(QUANTITIES[each.quantity])
            if value is None:
                raise LatteError(
                    f"there is no {each.quantity} to hold to a limit",
                    hint="`--samples N` says how long one is",
                    exit_code=ExitCode.USAGE,
                )
            names = {"device": entry["device"], "strategy": entry["strategy"]}
            found.append(ThresholdCheck(**names, quantity=each.quantity, value=value, most=each.most))
    return found


def check_regressions(comparisons: Sequence[Comparison], most: float) -> list[ThresholdCheck]:
    """Every comparison's growth of the step as a check against the share `most`."""
    return [
        ThresholdCheck(device=each.device, strategy=each.strategy, quantity=REGRESSION, value=each.growth, most=most)
        for each in comparisons
    ]


def compare_estimates(before: Document, after: Document) -> list[Comparison]:
    """Each estimate of `after` next to its like in `before`.

    Raises LatteError for one without its like: another device, strategy, estimator, precision, layout or limit.
    """
    known = {_identity(entry): entry for entry in before["estimates"]}
    found = []
    for entry in after["estimates"]:
        other = known.get(_identity(entry))
        if other is None:
            there = "; ".join(dict.fromkeys(_identity_text(each) for each in known))
            raise LatteError(
                f"the baseline has no estimate for {_identity_text(_identity(entry))}", hint=f"it has those for {there}"
            )
        found.append(
            Comparison(
                device=entry["device"],
                strategy=entry["strategy"],
                before_s=other["totals"]["step_s"],
                after_s=entry["totals"]["step_s"],
                changes=tuple(_changes(other["layers"], entry["layers"])),
            )
        )
    return found


_Identity: TypeAlias = tuple[str, ...]


def _identity(entry: Mapping[str, Any]) -> _Identity:
    settings, limits = entry["settings"], entry["limits"]
    named = (entry["device"], entry["strategy"], entry["estimator"])
    chosen = (settings[key] for key in ("precision", "layout", "threads", "optimizer"))
    return tuple(map(str, (*named, *chosen, limits["workspace_bytes"], limits["memory_bytes"])))


def _identity_text(identity: _Identity) -> str:
    return " ".join(part for part in identity if part != "None")


def _changes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[PhaseChange]:
    """Every phase of every layer of either run, in the order of the later one, and what it no longer has at the end."""
    earlier = {(layer["name"], layer["phase"]): layer for layer in before}
    later = {(layer["name"], layer["phase"]): layer for layer in after}
    return [
        PhaseChange(
            name=name,
            phase=phase,
            before_s=_seconds(earlier.get((name, phase))),
            after_s=_seconds(later.get((name, phase))),
            before_algorithm=earlier.get((name, phase), {}).get("algorithm"),
            after_algorithm=later.get((name, phase), {}).get("algorithm"),
        )
        for name, phase in dict.fromkeys([*later, *earlier])
    ]


def _seconds(layer: Mapping[str, Any] | None) -> float | None:
    return None if layer is None else float(layer["count"] * layer["time_s"])
