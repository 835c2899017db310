"""`latte simulate`: methods of federated learning compared by the time they take to an accuracy."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli import files
from latte_cli.cli import console
from latte_cli.cli.options import FormatOption, StoreOption
from latte_cli.cli.request import Request, from_options
from latte_cli.cli.stores import store_to_read
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.report import Format

if TYPE_CHECKING:
    from latte_cli.federated.study import Result, Study


@dataclass(frozen=True, kw_only=True)
class SimulateRequest(Request):
    """What `latte simulate` is asked."""

    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="What is compared, in YAML: see above.", show_default=False)
    ]
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for the runs. [default: STUDY without its ending]"),
    ] = None
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds to run. [default: all]")] = None
    only: Annotated[str | None, typer.Option(metavar="LIST", help="Run only these methods, as in `fedavg,latte`.")] = (
        None
    )
    form: FormatOption = Format.TABLE
    store: StoreOption = None


@from_options
def simulate(request: SimulateRequest) -> None:
    """Compare methods of federated learning by virtual time.

    The result is the time that each takes to an accuracy. Devices train as in a federation. The clock counts rounds as
    estimated on the profiles. The seeds that tune a method are not those that judge it. Every training and every run
    is a file in DIR and is not made again, so an interrupted study goes on where it stopped. Two processes may share a
    folder. DIR also gets the curves, as PNG and SVG.

    \b
    The study file (docs/study.yaml is a whole one):
      model: custom_cnn         # or an ONNX file; with image-size, classes
      data: mnist               # or digits, watch, mnist1d, or a folder
      partition: dirichlet      # alpha: 0.5; or iid, pathological, natural
      rounds: 100
      devices-per-round: 10     # all, unless given
      evaluate-every: 2         # rounds
      least-share: 0.5          # optional: of devices that must return
      recipe: {batch: 32, epochs: 1, learning-rate: 0.05, momentum: 0.9}
      seeds: [1, 2, 3]
      targets: [0.8, 0.9]       # accuracies
      tuning:
        seed: 0               # or several
        round-durations: [0.2, 0.5, 1]  # of the full model's slowest round
        levels: [0.25, 0.5]             # widths of a small global model
                # optional: deadlines, latte-widths, tier-widths, tiers,
                # proximal, buffers, over-selections (docs/study.yaml)
      methods: [fedavg, heterofl, latte]     # all of them, unless given
      latte: {widths: [1, 0.5], channels: rolling}   # or widths: fine
      scenarios:
        - scenario: two-kinds
          noise: 0.3            # optional: of the logarithm of a round
          dropout: 0.05         # optional: devices lost, of each round
          available: {on: 20s, off: 10s}   # optional: mean lengths
          classes:
            - class: slow
              device: NAME      # one of `latte devices`
              count: 10
              slower: 8         # optional: a stand-in, 8 times slower
              bandwidth: {up: 50Mbit, down: 100Mbit}
                                # optional: threads, strategy, memory,
                                # overhead
    """
    from latte_cli.federated.study import Workshop, read_study, results
    from latte_cli.report.studies import write_study

    study = read_study(request.study)
    part = _part(request, study)
    folder = _folder(request.study, request.output)
    workshop = Workshop(study, store_to_read(request.store), folder)
    with ExitStack() as stack:
        found = results(workshop, seeds=part.seeds, methods=part.methods, report=_Progress(stack).report)
    write_study(part, found, request.form)
    _draw(study, found, folder)
    _doubt(found, part.seeds)
    console.note(
        f"next: `latte simulate {console.shell_word(request.study)} --format csv` shows it from the files again"
    )


def _part(request: SimulateRequest, study: "Study") -> "Study":
    """The study with the methods and the seeds of the options."""
    seeds = request.seeds
    if seeds is not None and seeds > len(study.seeds):
        raise LatteError(
            f"`{request.study}` has {len(study.seeds)} seeds, not {seeds}",
            hint="add some to it",
            exit_code=ExitCode.USAGE,
        )
    return replace(study, methods=_methods(study, request.only), seeds=study.seeds[:seeds])


def _methods(study: "Study", only: str | None) -> tuple[str, ...]:
    if only is None:
        return study.methods
    names = tuple(dict.fromkeys(part.strip() for part in only.split(",")))
    for name in names:
        if name not in study.methods:
            raise unknown("method", name[:40], study.methods)
    return names


def _folder(study: Path, output: Path | None) -> Path:
    """Where the study's runs are kept; raises LatteError for a folder that holds something else."""
    folder = output or study.with_suffix("")
    if folder == study or (folder.exists() and not folder.is_dir()):
        raise LatteError(f"`{folder}` is no folder", hint="`-o DIR` names one for the runs")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "trainings").is_dir():
        raise LatteError(f"`{folder}` is not empty and holds no study", hint="`-o DIR` names another folder")
    files.make_folder(folder)
    return folder


def _draw(study: "Study", results: "Sequence[Result]", folder: Path) -> None:
    from latte_cli.federated.study import bands
    from latte_cli.report import pictures

    for suffix in (".png", ".svg"):
        path = folder / f"curves{suffix}"
        pictures.save_figure(pictures.accuracies_figure(bands(results), study.targets, _title(study)), path)
        console.note(f"wrote `{path}`")


def _title(study: "Study") -> str:
    return f"{study.settings.model} on {study.settings.data}: accuracy over virtual time"


def _doubt(results: "Sequence[Result]", seeds: Sequence[int]) -> None:
    failing = [run for result in results for run in result.runs if run.failed]
    if failing:
        count = sum(run.failed for run in failing)
        reason = failing[0].reason
        console.warn(f"{count} trainings of devices came to nothing: {reason}; is `learning-rate` too large?")
    for result in results:
        if not result.runs:
            console.warn(
                f"`{result.method}` in `{result.scenario}`: no device can take part; add longer `round-durations`"
            )
    if len(seeds) < _ENOUGH:
        console.warn(f"{len(seeds)} seeds say little about chance; take at least {_ENOUGH}")


_ENOUGH = 3  # the fewest whose spread says anything: two have only a difference
_NOTE_EVERY_S = 300.0  # chosen: a log of a day has under 300 lines of it


class _Progress:
    """A bar for the tuning and one for the runs, and every few minutes a line with the time that is left.

    Whoever opened `stack` closes the last bar.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._what = stack, ""
        self._bar: console.ProgressBar | None = None
        self._began_s = self._noted_s = self._first = 0.0

    def report(self, what: str, done: int, of: int, share: float) -> None:
        """Show that `done` of `of` runs are made, and the share of the next one."""
        now_s, at = time.monotonic(), done + share
        if self._bar is None or what != self._what:
            self._stack.close()
            self._bar = self._stack.enter_context(console.progress(what, of))
            self._what, self._began_s, self._noted_s, self._first = what, now_s, now_s, at
        self._bar.advance(at)
        if now_s - self._noted_s > _NOTE_EVERY_S and at > self._first:
            left_s = (now_s - self._began_s) / (at - self._first) * (of - at)
            console.note(f"{what}: {done} of {of}, about {max(1, round(left_s / 60))} min left")
            self._noted_s = now_s
