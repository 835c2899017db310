"""Verifications: estimated times next to those of real steps, layer by layer and in total."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TextIO

from latte_cli.backends.torch.whole import Steps
from latte_cli.estimator import BESIDE, Estimate
from latte_cli.layers import Checkpoint, Phase
from latte_cli.network import Node
from latte_cli.report import (
    Cell,
    Format,
    Table,
    duration,
    percent,
    ratio,
    shorten,
    write_csv,
    write_json,
    write_table,
)
from latte_cli.report.layers import layer_figures

_COLUMNS = ("name", "kind", "phase", "estimated_s", "measured_s", "ratio")


@dataclass(frozen=True, kw_only=True)
class Verification:
    """An estimate, and real steps of the same network in several processes; the first one timed each call."""

    estimate: Estimate
    runs: Sequence[Steps]

    def measured_s(self, part: str) -> float:
        """The median over the runs of a part's seconds: `forward_s`, `backward_s`, `update_s` or `step_s`."""
        return median(run.median(part) for run in self.runs)

    @property
    def error(self) -> float:
        """The estimated step over the measured one, less 1."""
        return self.estimate.step_s / self.measured_s("step_s") - 1

    @property
    def repeats(self) -> float:
        """The slowest run's step over the quickest one's, less 1."""
        steps = [run.median("step_s") for run in self.runs]
        return max(steps) / min(steps) - 1


@dataclass(frozen=True, kw_only=True)
class _Layer:
    name: str
    kind: str
    estimated_s: tuple[float, float]
    measured_s: tuple[float, float]


def _layers(found: Verification) -> Iterator[_Layer]:
    """Every node that takes time, with its seconds forward and backward."""
    parts: dict[str, list[float]] = {}
    kinds = {}
    for part in found.estimate.parts:
        if part.name in BESIDE or part.layer.free or isinstance(part.layer, Checkpoint):
            continue
        spent = parts.setdefault(part.name, [0.0, 0.0])
        spent[part.phase is not Phase.FORWARD] += part.count * part.device_s
        kinds[part.name] = part.layer.kind
    for name, (forward_s, backward_s) in parts.items():
        measured = found.runs[0].calls.get(name, (0.0, 0.0))
        yield _Layer(name=name, kind=kinds[name], estimated_s=(forward_s, backward_s), measured_s=measured)


def _totals(found: Verification) -> dict[str, tuple[float, float]]:
    """Seconds estimated and measured of each part of the step."""
    estimate = found.estimate
    values = {"forward": estimate.forward_s, "backward": estimate.backward_s, "update": estimate.update_s}
    return {
        **{name: (time_s, found.measured_s(f"{name}_s")) for name, time_s in values.items()},
        "step": (estimate.step_s, found.measured_s("step_s")),
    }


def write_verification(found: Verification, form: Format, out: TextIO | None = None) -> None:
    """Write the times side by side."""
    if form is Format.JSON:
        write_json(verification_document(found), out)
    elif form is Format.CSV:
        write_csv(_COLUMNS, list(_lines(found)), out)
    else:
        write_table(_table(found), out)


def verification_document(found: Verification) -> dict[str, Any]:
    """A verification as the document `latte.verification/1`."""
    estimate = found.estimate
    nodes = {node.name: node for node in estimate.network.nodes}
    return {
        "schema": "latte.verification/1",
        "model": {
            "name": estimate.network.name,
            "sha256": estimate.network.sha256,
            "batch_size": estimate.network.batch_size,
        },
        "device": estimate.device.slug,
        "strategy": estimate.strategy,
        "settings": {
            "precision": estimate.settings.precision,
            "layout": estimate.settings.layout,
            "threads": estimate.settings.threads,
            "optimizer": estimate.optimizer,
        },
        "totals": {
            name: {"estimated_s": estimated_s, "measured_s": measured_s}
            for name, (estimated_s, measured_s) in _totals(found).items()
        },
        "runs": [{"step_s": run.median("step_s"), "steps": len(run.step_s)} for run in found.runs],
        "error": found.error,
        "repeatability": found.repeats,
        "step_low_s": estimate.step_low_s,
        "step_high_s": estimate.step_high_s,
        "layers": [
            dict(zip(_COLUMNS, line, strict=True)) | _figures(nodes[str(line[0])], forward=line[2] == Phase.FORWARD)
            for line in _lines(found)
            if line[1]
        ],
    }


def _figures(node: Node, *, forward: bool) -> dict[str, Any]:
    """What the document says of a layer, whose backward pass is one line."""
    phases = [each for each in node.layer.phases if (each is Phase.FORWARD) is forward]
    return layer_figures(node.layer, phases, node.module)


def _lines(found: Verification) -> Iterator[tuple[Cell, ...]]:
    for layer in _layers(found):
        for at, phase in enumerate(("forward", "backward")):
            estimated_s, measured_s = layer.estimated_s[at], layer.measured_s[at]
            if estimated_s or measured_s:
                yield layer.name, layer.kind, phase, estimated_s, measured_s, _quotient(estimated_s, measured_s)
    for name, (estimated_s, measured_s) in _totals(found).items():
        yield name, "", "total", estimated_s, measured_s, _quotient(estimated_s, measured_s)


def _quotient(estimated_s: float, measured_s: float) -> float | None:
    return estimated_s / measured_s if measured_s else None


def _table(found: Verification) -> Table:
    rows = [
        (
            shorten(layer.name),
            *(duration(seconds) for seconds in (layer.estimated_s[0], layer.measured_s[0])),
            *(duration(seconds) for seconds in (layer.estimated_s[1], layer.measured_s[1])),
            ratio(_quotient(sum(layer.estimated_s), sum(layer.measured_s))),
        )
        for layer in _layers(found)
    ]
    estimate = found.estimate
    title = (
        f"{estimate.network.name}, batch {estimate.network.batch_size}: estimated and measured",
        f"on {estimate.device.slug}, {estimate.settings.precision} {estimate.settings.layout}",
    )
    columns = ("layer", ">forward", ">measured", ">backward", ">measured", ">ratio")
    return Table(title=title, columns=columns, rows=rows, footer=list(_footer(found)))


def _footer(found: Verification) -> Iterator[str]:
    for name, (estimated_s, measured_s) in _totals(found).items():
        quotient = ratio(_quotient(estimated_s, measured_s))
        yield f"{name} {duration(estimated_s)} estimated, {duration(measured_s)} measured: {quotient}"
    steps = " and ".join(duration(run.median("step_s")) for run in found.runs)
    low, high = duration(found.estimate.step_low_s), duration(found.estimate.step_high_s)
    yield f"the step off by {100 * found.error:+.1f} %; 95 % of steps were expected between {low} and {high}"
    yield f"measured in {len(found.runs)} processes: {steps}, which are {percent(found.repeats)} apart"
