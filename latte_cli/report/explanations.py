"""Explanations: what each rule takes for every call, what would be best, and what the difference costs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, TextIO

from latte_cli.estimator import Estimate, LayerTime
from latte_cli.layers import Convolution, Phase
from latte_cli.report import Cell, Format, Table, duration, percent, shorten, size, write_csv, write_json, write_table
from latte_cli.report.estimates import left_out_line
from latte_cli.report.layers import layer_figures, module_paths

_NAME_WIDTH, _NARROW = 22, 14  # chosen: leaves room for the other columns
_PHASES = {Phase.BACKWARD_DATA: "data", Phase.BACKWARD_FILTER: "filter"}
_COLUMNS = (
    *("what_if", "device", "strategy", "name", "kind", "phase", "algorithm", "time_s", "workspace_bytes"),
    *("best_algorithm", "best_time_s", "best_workspace_bytes", "lost_s"),
)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The same step under several rules, and with the `best` of what there is; `what_if` says how it was asked."""

    best: Estimate
    others: Sequence[Estimate]
    what_if: str = ""

    def calls(self) -> Iterator[tuple[LayerTime, list[LayerTime]]]:
        """Every call of a convolution that all can price, as it is best, and as each of the others has it."""
        by_call = [{(part.name, part.phase): part for part in each.parts} for each in self.others]
        for part in self.best.parts:
            key = (part.name, part.phase)
            if isinstance(part.layer, Convolution) and all(key in parts for parts in by_call):
                yield part, [parts[key] for parts in by_call]


def _lost_s(part: LayerTime, best: LayerTime) -> float:
    return part.count * (part.device_s - best.device_s)


def _largest_workspace(estimate: Estimate) -> int:
    return max((part.workspace_bytes or 0 for part in estimate.parts), default=0)


def write_explanations(explanations: Sequence[Explanation], form: Format, out: TextIO | None = None) -> None:
    """Write explanations of one network on one device, one for each way in which it was asked."""
    if form is Format.JSON:
        write_json(explanations_document(explanations), out)
    elif form is Format.CSV:
        write_csv(_COLUMNS, [line for each in explanations for line in _lines(each)], out)
    else:
        for each in explanations:
            write_table(_table(each), out)
        write_table(_totals(explanations), out)


def explanations_document(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """Explanations as the document `latte.explanation/1`."""
    network = explanations[0].best.network
    return {
        "schema": "latte.explanation/1",
        "model": {"name": network.name, "sha256": network.sha256},
        "device": explanations[0].best.device.slug,
        "cases": [_case(each) for each in explanations],
    }


def _case(explanation: Explanation) -> dict[str, Any]:
    best = explanation.best
    paths = module_paths(best.network)
    return {
        "what_if": explanation.what_if,
        "batch_size": best.network.batch_size,
        "precision": best.settings.precision,
        "threads": best.settings.threads,
        "workspace_limit_bytes": best.limits.workspace_bytes,
        "memory_limit_bytes": best.limits.memory_bytes,
        "best": {"strategy": best.strategy, **_sums(best)},
        "strategies": [
            {"strategy": each.strategy, **_sums(each), "lost_s": each.step_s - best.step_s}
            for each in explanation.others
        ],
        "missing": list(dict.fromkeys(name for each in (best, *explanation.others) for name in each.missing)),
        "calls": [
            {
                "name": part.name,
                "kind": part.layer.kind,
                "phase": part.phase,
                **layer_figures(part.layer, (part.phase,), paths.get(part.name)),
                "best": _call(part),
                "choices": [
                    {"strategy": each.strategy, **_call(other), "lost_s": _lost_s(other, part)}
                    for each, other in zip(explanation.others, others, strict=True)
                ],
            }
            for part, others in explanation.calls()
        ],
    }


def _sums(estimate: Estimate) -> dict[str, Any]:
    return {
        "layout": estimate.settings.layout,
        "step_s": estimate.step_s,
        "memory_bytes": estimate.memory_bytes,
        "largest_workspace_bytes": _largest_workspace(estimate),
    }


def _call(part: LayerTime) -> dict[str, Any]:
    return {
        "algorithm": part.algorithm.name,
        "family": part.family,
        "time_s": part.count * part.device_s,
        "workspace_bytes": part.workspace_bytes,
        "source": part.source,
    }


def _lines(explanation: Explanation) -> Iterator[tuple[Cell, ...]]:
    for best, others in explanation.calls():
        for each, part in zip(explanation.others, others, strict=True):
            yield (
                *(explanation.what_if, each.device.slug, each.strategy, part.name, part.layer.kind, part.phase),
                *(part.algorithm.name, part.count * part.device_s, part.workspace_bytes),
                *(best.algorithm.name, best.count * best.device_s, best.workspace_bytes, _lost_s(part, best)),
            )


def _table(explanation: Explanation) -> Table:
    return _one(explanation) if len(explanation.others) == 1 else _several(explanation)


def _title(explanation: Explanation) -> tuple[str, ...]:
    best = explanation.best
    asked = (f"what if {explanation.what_if}",) if explanation.what_if else ()
    return f"{best.network.name}, batch {best.network.batch_size}, on {best.device.slug}", *asked


def _one(explanation: Explanation) -> Table:
    """What one rule takes, next to what is best, what that would save and the workspace that it would take more."""
    strategy = explanation.others[0].strategy
    rows = []
    for best, [part] in explanation.calls():
        same = part.algorithm == best.algorithm
        more = "" if same else _with_sign(size, (best.workspace_bytes or 0) - (part.workspace_bytes or 0))
        changes = ("", "", "") if same else (best.algorithm.name, _lost_text(part, best), more)
        rows.append((shorten(part.name, _NARROW), _phase(part), part.algorithm.name, *changes))
    columns = ("layer", "phase", strategy, "best", ">lost", ">workspace")
    return Table(
        title=_title(explanation),
        columns=columns,
        rows=rows,
        footer=["workspace: what the best takes more of it than the rule's choice"],
    )


def _several(explanation: Explanation) -> Table:
    """The calls on which the rules differ from what is best: a letter for each rule, under it what it loses."""
    letters = _letters(explanation.others)
    rows, agreed = [], 0
    for best, others in explanation.calls():
        if all(part.algorithm == best.algorithm for part in others):
            agreed += 1
            continue
        lost = ("=" if part.algorithm == best.algorithm else _lost_text(part, best) for part in others)
        rows.append((shorten(best.name, _NAME_WIDTH), _phase(best), best.algorithm.name, _spent_text(best), *lost))
    footer = [f"all take the best for {agreed} more calls of convolutions"] if agreed else []
    footer += [f"{letter}: {each.strategy}" for letter, each in zip(letters, explanation.others, strict=True)]
    columns = ("layer", "phase", "best", ">time", *(f">{letter}" for letter in letters))
    return Table(title=_title(explanation), columns=columns, rows=rows, footer=footer)


def _letters(others: Sequence[Estimate]) -> Sequence[str]:
    return ascii_uppercase[: len(others)]


def _phase(part: LayerTime) -> str:
    return _PHASES.get(part.phase, part.phase)


def _spent_text(part: LayerTime) -> str:
    return duration(part.count * part.device_s)


def _lost_text(part: LayerTime, best: LayerTime) -> str:
    return _with_sign(duration, _lost_s(part, best))


def _with_sign(shown: Callable[[float], str], value: float) -> str:
    return ("-" if value < 0 else "+") + shown(abs(value))


def _totals(explanations: Sequence[Explanation]) -> Table:
    """A line for each rule and way of asking: its step, and what that loses."""
    asked = len(explanations) > 1
    rows = [
        (*([explanation.what_if or "as it is"] if asked else []), *_total(each, explanation.best))
        for explanation in explanations
        for each in (*explanation.others, explanation.best)
    ]
    footer = [line for each in explanations for line in left_out_line((each.best, *each.others))]
    columns = (*(["what if"] if asked else []), "strategy", ">step", ">lost", ">of the step", ">largest workspace")
    return Table(columns=columns, rows=rows, title="the whole step", footer=list(dict.fromkeys(footer)))


def _total(estimate: Estimate, best: Estimate) -> tuple[str, ...]:
    lost_s = estimate.step_s - best.step_s
    layout = "" if estimate.settings.layout == best.settings.layout else f" ({estimate.settings.layout})"
    return (
        f"{estimate.strategy}{layout}",
        duration(estimate.step_s),
        "" if estimate is best else ("-" if lost_s < 0 else "") + duration(abs(lost_s)),
        "" if estimate is best else percent(lost_s / estimate.step_s if estimate.step_s else 0.0),
        size(_largest_workspace(estimate)),
    )
