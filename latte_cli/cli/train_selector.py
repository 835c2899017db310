"""`latte train-selector`: learn which algorithm is fastest, from the rows of the store."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli.cli import console
from latte_cli.cli.options import DeviceOption, FormatOption, StoreOption, asked_of, parse_size
from latte_cli.cli.training import learned_from, models_folder
from latte_cli.errors import unknown
from latte_cli.report import Format, duration

if TYPE_CHECKING:
    from latte_cli.selector import Decision, Score
    from latte_cli.selector.decisions import Key
    from latte_cli.store import Store


def train_selector(
    device: DeviceOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the selector. [default: beside the store's rows]")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the layers to judge on in turn.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and of the trees.")] = 0,
    kind: Annotated[
        str, typer.Option(metavar="NAME", help="xgboost, or mlp: the perceptron of the LATTE paper.")
    ] = "xgboost",
    workspace_limit: Annotated[
        list[int] | None,
        typer.Option(
            parser=parse_size, metavar="SIZE", help="Judge under this limit of each call's workspace too. Repeatable."
        ),
    ] = None,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Learn to choose the fastest algorithm of a convolution.

    The choices serve convolutions that were not measured. Each choice is judged on layers of shapes that were not
    learned from. Regret is the time of the choice over the best time: its geometric mean, 95 % and 99 % quantiles, and
    that of the total time. A selector of the same devices is replaced.
    """
    from latte_cli.report.selectors import write_evaluation
    from latte_cli.selector import KINDS, evaluate, fit, name, prediction_s, save
    from latte_cli.store import open_store

    if kind not in KINDS:
        raise unknown("kind of selector", kind, KINDS)
    opened = open_store(store)
    slugs = learned_from(opened, device)
    folder = models_folder(opened, output) / name(slugs, all_devices=not device)
    known, first, later = _decisions(opened, slugs)
    with console.progress("fitting", folds + 1) as bar:
        judged = evaluate(
            first,
            later=later or None,
            kind=kind,
            seed=seed,
            folds=folds,
            limits=workspace_limit or (),
            curve=kind == "xgboost",
            done=bar.advance,
        )
        selector = fit(
            known,
            kind=kind,
            seed=seed,
            softness=judged.softness,
            calibration_error=judged.calibration_error,
            scores=judged.scores,
            made_at=time.time(),
        )
    took_s = prediction_s(selector, known)
    took = f"choosing for 53 convolutions in 3 phases takes {duration(took_s)}"
    how = f"judged on layers of other shapes than those learned from, in {folds} parts"
    by = [f"learned from the first pass, judged by later ones ({len(later)} choices)"] if later else []
    write_evaluation(judged, form, importance=selector.card.importance, prediction_s=took_s, footer=(how, *by, took))
    if form is not Format.TABLE:
        console.note(took)
    _warn(judged.scores)
    save(selector, folder)
    console.note(f"selector in `{folder}`")
    if output is None:
        console.note(f"next: `latte estimate MODEL.onnx {asked_of(opened.device(slugs[0]))} --strategy latte`")


def _decisions(store: "Store", slugs: Sequence[str]) -> "tuple[list[Decision], list[Decision], dict[Key, Decision]]":
    """The choices by all passes, by those that teach, and by those that judge."""
    from latte_cli.layers import Convolution
    from latte_cli.selector import by_pass, decisions

    rows = [row for slug in slugs for row in store.measurements(slug, kinds={Convolution.kind})]
    return decisions(rows), *by_pass(rows)


def _warn(scores: Sequence["Score"]) -> None:
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
