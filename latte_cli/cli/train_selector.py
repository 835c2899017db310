"""`latte train-selector`: learn which algorithm is fastest, from the rows of the store."""

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli.cli import console
from latte_cli.cli.options import FormatOption, LearnedDeviceOption, StoreOption, asked_of, parse_size
from latte_cli.cli.request import Request, from_options
from latte_cli.cli.training import learned_from, models_folder
from latte_cli.errors import unknown
from latte_cli.report import Format, duration, percent

if TYPE_CHECKING:
    from latte_cli.selector import Decision, Evaluation, SelectionScore, Selector
    from latte_cli.selector.decisions import DecisionKey
    from latte_cli.store import Store


@dataclass(frozen=True, kw_only=True)
class TrainSelectorRequest(Request):
    """What `latte train-selector` is asked."""

    device: LearnedDeviceOption = None
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the selector. [default: in the store]")
    ] = None
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and of the trees.")] = 0
    kind: Annotated[
        str, typer.Option(metavar="NAME", help="xgboost, or mlp for the perceptron of the LATTE paper.")
    ] = "xgboost"
    workspace_limit: Annotated[
        list[int] | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            help="Also judge it where no call may have more workspace, as in 256MiB. Repeatable.",
        ),
    ] = None
    form: FormatOption = Format.TABLE
    store: StoreOption = None


@from_options
def train_selector(request: TrainSelectorRequest) -> None:
    """Learn to choose the fastest algorithm of a convolution.

    A selector chooses for convolutions that were not measured. It is judged on layers whose shapes it has not seen.
    The table shows its regret, which is the time of a choice over the best time: the geometric mean, the 95 % and 99 %
    quantiles, and that of all times added up. A selector of the same devices is replaced.
    """
    from latte_cli.selector import KINDS, prediction_s, save_selector, selector_name
    from latte_cli.store import open_store

    if request.kind not in KINDS:
        raise unknown("kind of selector", request.kind, KINDS)
    store = open_store(request.store, skip=console.left_out)
    slugs = learned_from(store, request.device)
    folder = models_folder(store, request.output) / selector_name(slugs, all_devices=not request.device)
    known, first, later = _decisions(store, slugs)
    judged, selector = _learn(request, known, first, later)
    _write(request, judged, selector, prediction_s(selector, known), later=len(later))
    _warn(judged.scores)
    save_selector(selector, folder)
    console.note(f"selector in `{folder}`")
    if request.output is None:
        console.note(f"next: `latte estimate MODEL.onnx {asked_of(store.device(slugs[0]))} --strategy latte`")


def _decisions(
    store: "Store", slugs: Sequence[str]
) -> "tuple[list[Decision], list[Decision], dict[DecisionKey, Decision]]":
    """The choices by all passes, by those that teach, and by those that judge; one phase's rows are held at a time."""
    from latte_cli.layers import Convolution
    from latte_cli.selector import by_pass_and_part

    kinds, phases = {Convolution.kind}, Convolution.phases
    gc.disable()  # rows and choices hold no cycles; looking for some in a million of them doubles the time
    try:
        parts = (store.measurements(slug, kinds=kinds, phases={phase}) for slug in slugs for phase in phases)
        return by_pass_and_part(parts)
    finally:
        gc.freeze()
        gc.enable()


def _learn(
    request: TrainSelectorRequest,
    known: "Sequence[Decision]",
    first: "Sequence[Decision]",
    later: "Mapping[DecisionKey, Decision]",
) -> "tuple[Evaluation, Selector]":
    """The selector of all that is `known`, and how well those choose that are fitted on parts of the `first` pass."""
    from latte_cli.selector import Lesson, evaluate, fit_selector

    taught = Lesson.of(first)
    with console.progress("fitting", request.folds + 1) as bar:
        judged = evaluate(
            taught,
            later=later or None,
            kind=request.kind,
            seed=request.seed,
            folds=request.folds,
            limits=request.workspace_limit or (),
            curve=request.kind == "xgboost",
            done=bar.advance,
        )
        selector = fit_selector(
            taught if known is first else Lesson.of(known),
            kind=request.kind,
            seed=request.seed,
            softness=judged.softness,
            calibration_error=judged.calibration_error,
            scores=judged.scores,
            made_at=time.time(),
        )
    return judged, selector


def _write(
    request: TrainSelectorRequest, judged: "Evaluation", selector: "Selector", took_s: float, *, later: int
) -> None:
    """Write how well it chooses; of the choices `later` ones judged, and choosing takes `took_s`."""
    from latte_cli.report.selectors import write_evaluation

    took = f"choosing for 53 convolutions in 3 phases takes {duration(took_s)}"
    how = f"judged on layers of other shapes than those learned from, in {request.folds} parts"
    by = [f"learned from the first pass, judged by later ones ({later} choices)"] if later else []
    some = [f"judged and learned from on {percent(judged.judged_share)} of the choices; the selector learned from all"]
    importance = selector.card.importance
    footer = (how, *by, *(some if judged.judged_share < 1 else ()), took)
    write_evaluation(judged, request.form, importance=importance, prediction_s=took_s, footer=footer)
    if request.form is not Format.TABLE:
        for line in footer[1 + len(by) :]:
            console.note(line)


def _warn(scores: Sequence["SelectionScore"]) -> None:
    """Say where it would be better not to choose at all."""
    regrets = {
        (each.device, each.precision, each.method): each.regret_geomean
        for each in scores
        if each.phase == "all" and each.limit_bytes is None
    }
    for (slug, precision, method), regret in regrets.items():
        default = regrets.get((slug, precision, "framework_default"))
        if method == "selector" and default is not None and regret >= default:
            console.warn(
                f"on `{slug}` in {precision} the choices are no better than the framework's own; "
                f"`latte profile --suite standard` measures more to learn from"
            )
