"""Thresholds: limits that estimates must keep to, and how far they may be from those of an earlier run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, inf, sqrt
from pathlib import Path
from typing import Any, TypeAlias

from latte_cli import documents
from latte_cli.documents import DocumentSource
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.printable import without_secrets
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
    doubt_s: tuple[float, float] = (0.0, 0.0)
    """How far below and above `difference_s` the ends of its 80 % interval are."""

    @property
    def difference_s(self) -> float:
        """Seconds that it takes more than before."""
        return (self.after_s or 0.0) - (self.before_s or 0.0)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An estimate next to the one of the same device, strategy and settings in an earlier run; seconds of a step.

    `waiting_doubt_s` is how far below and above the difference of the steps the ends of its 80 % interval are for that
    part of it which no phase's time on the device explains: where a GPU waits for its host.
    """

    device: str
    strategy: str
    before_s: float
    after_s: float
    changes: tuple[PhaseChange, ...]
    waiting_doubt_s: tuple[float, float] = (0.0, 0.0)

    @property
    def growth(self) -> float:
        """The share by which the step has become longer; negative where it is shorter."""
        return self.after_s / self.before_s - 1 if self.before_s else inf

    @property
    def growth_80(self) -> tuple[float, float]:
        """The ends of the 80 % interval of the growth.

        Phases that are estimated as before have the same error twice, which cancels. The errors of the others, and of
        the waiting for the host, are taken for independent of each other.
        """
        if not self.before_s:
            return inf, inf
        doubts_s = [*(each.doubt_s for each in self.changes), self.waiting_doubt_s]
        low_s, high_s = (sqrt(sum(doubt_s[end] ** 2 for doubt_s in doubts_s)) for end in (0, 1))
        return self.growth - low_s / self.before_s, self.growth + high_s / self.before_s


@dataclass(frozen=True, kw_only=True)
class ThresholdCheck:
    """One thing that was asked of one estimate: `value` may be `most`.

    `quantity` is one of QUANTITIES, `regression`, whose numbers are shares of the step, or `fits`, with the least bytes
    of a process and the limit. `low` and `high` are the 80 % interval of a regression.
    """

    device: str
    strategy: str
    quantity: str
    value: float
    most: float
    low: float | None = None
    high: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the value is within what was asked, or may be."""
        return self.value <= self.most or self.doubtful

    @property
    def doubtful(self) -> bool:
        """Whether a value over the limit may be within it: its interval reaches there, and it is not twice the limit.

        Otherwise a layer that nobody measured could grow without end, since its interval grows with it.
        """
        reaches = self.low is not None and self.low <= self.most
        return reaches and self.most < self.value <= _MOST_EXCUSED * self.most


_MOST_EXCUSED = 2.0  # chosen: doubt may excuse as much again as the limit

REGRESSION, FITS = "regression", "fits"


def parse_threshold(text: str) -> Threshold:
    """The limit in `50ms`, which is one of the step, `backward=30ms` or `memory=2GiB`.

    Raises LatteError (exit code 2) for other text.
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
        ThresholdCheck(
            device=each.device,
            strategy=each.strategy,
            quantity=REGRESSION,
            value=each.growth,
            most=most,
            low=each.growth_80[0],
            high=each.growth_80[1],
        )
        for each in comparisons
    ]


def compare_estimates(before: Document, after: Document) -> list[Comparison]:
    """Each estimate of `after` next to its like in `before`.

    Raises LatteError that names what differs for one that was asked otherwise: of another batch, device or strategy,
    with other settings, limits or shapes. The models may differ, since that is what is compared.
    """
    return [compare_entries(baseline_entry([before], after, entry), entry) for entry in after["estimates"]]


def compare_entries(other: Document, entry: Document) -> Comparison:
    """An estimate of a document next to an earlier one, however that was asked."""
    changes = tuple(_changes(other["layers"], entry["layers"]))
    before, after = other["totals"], entry["totals"]
    waiting_s = after["step_s"] - before["step_s"] - sum(each.difference_s for each in changes)
    return Comparison(
        device=entry["device"],
        strategy=entry["strategy"],
        before_s=before["step_s"],
        after_s=after["step_s"],
        changes=changes,
        waiting_doubt_s=_waiting_doubt(waiting_s, before, after),
    )


def _waiting_doubt(waiting_s: float, before: Document, after: Document) -> tuple[float, float]:
    """How far below and above `waiting_s` more of waiting for the host its 80 % interval reaches.

    It is as uncertain, in proportion, as the less certain of the two steps as a whole. 0 on a CPU, whose steps are the
    sums of their calls, but for rounding; and for documents of versions that do not state the step's interval.
    """
    if abs(waiting_s) < _ROUNDING * after["step_s"]:
        return 0.0, 0.0
    below, above = (
        max(abs(step[key] / step["step_s"] - 1) if step["step_s"] and key in step else 0.0 for step in (before, after))
        for key in ("step_low_80_s", "step_high_80_s")
    )
    return abs(waiting_s) * below, abs(waiting_s) * above


_ROUNDING = 1e-6  # chosen: far over what adding up thousands of numbers rounds, far below what matters


def baseline_entry(befores: Sequence[Document], after: Document, entry: Document) -> Document:
    """The estimate of the baselines that was asked as `entry`; raises LatteError that names how the nearest differs."""
    asked = _request_of(after, entry)
    others = [(before, other) for before in befores for other in before["estimates"]]
    differences = [_differences(_request_of(before, other), asked) for before, other in others]
    nearest = min(range(len(differences)), key=lambda at: len(differences[at]))
    if not differences[nearest]:
        found: Document = others[nearest][1]
        return found
    message = f"the baseline has no estimate for this: its {', its '.join(differences[nearest])}"
    hint = "give the options that it has, or write a new one: `latte estimate MODEL --format json > FILE`"
    raise LatteError(message, hint=hint)


def _request_of(document: Document, entry: Document) -> dict[str, Any]:
    """What an estimate was asked, by the names that options have; what a document of an older version says of it."""
    settings = {name.replace("_", "-"): value for name, value in entry["settings"].items() if name not in _NOT_ASKED}
    limits = {name.replace("_bytes", "-limit"): value for name, value in entry["limits"].items()}
    more = {name.replace("_", "-"): value for name, value in document.get("asked", {}).items()}
    return {
        "batch-size": document["model"]["batch_size"],
        **{name: entry[name] for name in ("device", "strategy", "estimator")},
        **settings,
        **limits,
        "compile": entry.get("compiled") is not None,
        **more,
    }


_NOT_ASKED = ("library_versions",)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """How `before` was asked otherwise, in words; what it does not say is taken for the same."""
    return [
        f"{name} is {_value_text(name, before[name])}, not {_value_text(name, value)}"
        for name, value in after.items()
        if name in before and before[name] != value
    ]


def _value_text(name: str, value: Any) -> str:
    if value is None or value == [] or value is False:
        return "none" if value is not False else "off"
    if value is True:
        return "on"
    unit = " B" if name.endswith("-limit") else ""
    return f"`{', '.join(map(str, value)) if isinstance(value, list) else value}{unit}`"


def baseline_doubts(before: Document, after: Document) -> list[str]:
    """What changed beside the model between two documents that are compared, in sentences."""
    found = []
    versions = before.get("version"), after.get("version")
    if None not in versions and versions[0] != versions[1]:
        found.append(f"the baseline is of latte {versions[0]}, this is {versions[1]}: write the baseline again")
    if before["model"]["name"] != without_secrets(after["model"]["name"]):
        found.append(f"the baseline is of the model `{before['model']['name']}`: is that the same network?")
    run = [any("real_steps" in entry for entry in document["estimates"]) for document in (before, after)]
    if run[0] != run[1]:
        one, other = ("the baseline", "this") if run[0] else ("this", "the baseline")
        found.append(
            f"{one} is scaled to real steps of its model, {other} is not: measure both alike, as by `--measure`"
        )
    steps = ([entry["totals"]["step_s"] for entry in document["estimates"]] for document in (before, after))
    if not found and before["model"]["sha256"] == after["model"]["sha256"] and next(steps) != next(steps):
        found.append("the model is that of the baseline, so the profile changed: write the baseline again")
    return found


def _changes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[PhaseChange]:
    """Every phase of every layer of either run, in the order of the later one, and what it no longer has at the end."""
    earlier = {(without_secrets(layer["name"]), layer["phase"]): layer for layer in before}  # as files have names
    later = {(without_secrets(layer["name"]), layer["phase"]): layer for layer in after}
    return [
        PhaseChange(
            name=name,
            phase=phase,
            before_s=_seconds(earlier.get((name, phase))),
            after_s=_seconds(later.get((name, phase))),
            before_algorithm=earlier.get((name, phase), {}).get("algorithm"),
            after_algorithm=later.get((name, phase), {}).get("algorithm"),
            doubt_s=_doubt(earlier.get((name, phase)), later.get((name, phase))),
        )
        for name, phase in dict.fromkeys([*later, *earlier])
    ]


def _seconds(layer: Mapping[str, Any] | None) -> float | None:
    return None if layer is None else float(layer["count"] * layer["time_s"])


def _doubt(before: Document | None, after: Document | None) -> tuple[float, float]:
    """How far below and above the difference of two phases its 80 % interval reaches; 0 where both are the same."""
    if before is not None and after is not None and all(before[key] == after[key] for key in _SAME):
        return 0.0, 0.0
    below, above = _half_widths(after), _half_widths(before)
    return hypot(below[0], above[1]), hypot(below[1], above[0])


_SAME = ("kind", "algorithm", "count", "time_s", "low_80_s", "high_80_s")


def _half_widths(layer: Document | None) -> tuple[float, float]:
    """Seconds from a phase's time down and up to the ends of its 80 % interval."""
    if layer is None:
        return 0.0, 0.0
    ends = [layer["time_s"] if layer[key] is None else layer[key] for key in ("low_80_s", "high_80_s")]
    return layer["count"] * (layer["time_s"] - ends[0]), layer["count"] * (ends[1] - layer["time_s"])
