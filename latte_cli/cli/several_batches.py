"""`latte estimate` at several batches, and at the largest one that fits."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import ceil, inf
from typing import TYPE_CHECKING, TypeAlias

from latte_cli import files
from latte_cli.cli import console
from latte_cli.cli.batches import Batches, Room
from latte_cli.cli.fits import Fits, no_fit, occupancy_with
from latte_cli.cli.mixtures import shape_options
from latte_cli.cli.next_steps import same_step
from latte_cli.cli.request import check_apart, check_needed
from latte_cli.cli.thresholds import EstimateFormat
from latte_cli.errors import ExitCode, LatteError
from latte_cli.report import Format, size

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest
    from latte_cli.estimator import Estimate, EstimatorsByLayout, Occupancy

_APART = (
    ("--effective-batch", ("--accumulate",), "the one decides the other"),
    ("--local-steps", ("--epochs",), "either counts the steps"),
)
_OF_ONE = (
    *("--fail-above", "--baseline", "--max-regression", "--annotate", "--memory", "--all", "--measure-below"),
    "--measure",
    *("--gpus", "--link", "--data-parallel"),
    *("--samples", "--epochs", "--local-steps", "--upload", "--download", "--loading-rate", "--prices"),
)
"""Options that say something of one batch."""

_NEEDS = (("--link", "--gpus"), ("--data-parallel", "--gpus"), ("--force", "--picture"), ("--epochs", "--samples"))

KeptEstimators: TypeAlias = "dict[str, EstimatorsByLayout]"
"""The estimators of requests that differ in the batch alone, by the name of the device."""

Estimates: TypeAlias = "Callable[[EstimateRequest, Callable[[str], None], KeptEstimators], list[Estimate]]"
"""What estimates a request, hears what there is to note, and keeps estimators for the next batch."""


def settle_batches(request: "EstimateRequest", estimates: Estimates) -> "EstimateRequest":
    """The request with the batch and the accumulation that `max` and an effective batch mean.

    Raises LatteError where no batch fits (exit code 3), and where batches do not make up the effective one.
    """
    check_given(request)
    if request.picture:
        message = "`--picture` draws throughput against several batch sizes"
        raise LatteError(message, hint="as in `--batch-size 8,16,32`", exit_code=ExitCode.USAGE)
    wanted = request.batch_size or Batches()
    if wanted.sizes:
        return _at(request, wanted.sizes[0])
    if wanted.room is None and request.effective_batch is None:
        return request
    return _largest(request, _room(request), estimates)


def write_several(request: "EstimateRequest", estimates: Estimates) -> None:
    """Write a table of steps at several batches; raises LatteError as `settle_batches` does."""
    from latte_cli.estimator.batches import levels_off_at
    from latte_cli.report import pictures
    from latte_cli.report.batches import BatchRow, write_batches

    _check_several(request)
    if request.picture:
        pictures.check_suffix(request.picture)
        files.check_free(request.picture, force=request.force)
    room, rows = request.fits or (request.batch_size or Batches()).room, dict[int, BatchRow]()
    for estimate, found in steps_found(requests_at(request, estimates), estimates):
        limit = room.on(estimate.device) if room else None
        rows[estimate.network.batch_size] = BatchRow(estimate=estimate, occupancy=found, limit_bytes=limit)
    shown = [rows[batch] for batch in sorted(rows)]
    write_batches(shown, Format(request.form))
    said = {warning.code: warning for row in shown for warning in row.estimate.warnings}
    for warning in said.values():
        console.warn(warning.message, urgent=warning.urgent)
    if request.picture:
        pictures.save_figure(pictures.batches_figure(shown), request.picture)
        console.note(f"wrote `{request.picture}`")
    if request.form is EstimateFormat.TABLE:
        best = levels_off_at([row.estimate for row in shown]) or shown[-1].estimate.network.batch_size
        shapes = "".join(f" {each}" for each in shape_options(request.shape or ()))
        command = f"latte estimate {request.pasted_model} --batch-size {best}{shapes}{same_step(request)}"
        console.note(f"next: `{command}` shows that step layer by layer")
    Fits([(row.estimate, row.occupancy, row.limit_bytes) for row in shown if row.limit_bytes]).enforce()


def requests_at(request: "EstimateRequest", estimates: Estimates) -> "list[EstimateRequest]":
    """A request for each batch that one asks for, the largest that fits among them; raises as `settle_batches` does."""
    if not request.batch_size:
        return [request]
    asked = [_at(request, batch) for batch in request.batch_size.sizes]
    if request.batch_size.room:
        asked.append(_largest(request, _room(request), estimates))
    return asked


def steps_found(
    asked: "Sequence[EstimateRequest]", estimates: Estimates, note: Callable[[str], None] = console.note
) -> "list[tuple[Estimate, Occupancy]]":
    """The step of each request, which differ in the batch alone, and the memory of its process.

    `note` hears what there is to note of the first. Those that no `--memory-limit` allows, or that torch refuses, are
    named; raises LatteError where none is left.
    """
    from latte_cli.estimator import DoesNotFit, Untrainable

    kept: KeptEstimators = {}
    refused: list[DoesNotFit | Untrainable] = []
    steps = []
    for at, each in enumerate(asked):
        try:
            steps.append(step_at(each, estimates, unsaid if at else note, kept))
        except (DoesNotFit, Untrainable) as exc:
            refused.append(exc)
    if refused and not steps:
        raise refused[0]
    for one in refused:
        console.warn(f"left out: {one.message}")
    return steps


def _room(request: "EstimateRequest") -> Room:
    """What the largest batch has to fit: the size at `max`, else that of `--fits`, else the device's memory."""
    named = request.batch_size.room if request.batch_size else None
    return named if named and named.limit_bytes else request.fits or Room()


def check_given(request: "EstimateRequest") -> None:
    """Raise LatteError (exit code 2) for options that mean nothing beside, or without, others."""
    check_apart(request.given, _APART)
    check_needed(request.given, _NEEDS)
    if (request.upload or request.download) and not (request.samples or request.local_steps):
        message = "`--upload` and `--download` mean nothing without the steps of a round"
        raise LatteError(message, hint="add `--local-steps 10`, or `--samples 1000`", exit_code=ExitCode.USAGE)
    asks = request.fits or request.effective_batch or (request.batch_size and request.batch_size.room)
    if asks and request.gpus is not None:
        message = "what fits is not known for several GPUs: gradients' buckets and NCCL take memory too"
        raise LatteError(message, hint="ask without `--gpus`, and leave room", exit_code=ExitCode.USAGE)
    if request.mmap_threshold is not None and not (asks or request.several):
        message = (
            "`--mmap-threshold` changes the memory of the process, which only `--fits` and `--batch-size max` report"
        )
        raise LatteError(message, hint="add `--fits 8GiB` or `--batch-size max:8GiB`", exit_code=ExitCode.USAGE)


def _check_several(request: "EstimateRequest") -> None:
    check_given(request)
    check_apart(
        request.given, [(each, ("--batch-size",), "it concerns one batch, and there are several") for each in _OF_ONE]
    )
    if request.form not in (each.value for each in Format):
        message = f"`--format {request.form}` shows one batch"
        raise LatteError(message, hint="give one batch size", exit_code=ExitCode.USAGE)


def _at(request: "EstimateRequest", batch: int) -> "EstimateRequest":
    """The request at one batch, accumulated to the effective one."""
    from latte_cli.estimator.batches import accumulation

    effective = request.effective_batch
    accumulate = accumulation(effective, batch) if effective else request.accumulate
    return replace(request, batch_size=Batches(sizes=(batch,)), accumulate=accumulate)


def _largest(request: "EstimateRequest", room: Room, estimates: Estimates) -> "EstimateRequest":
    """The request at the largest batch that fits."""
    from latte_cli.estimator import DoesNotFit
    from latte_cli.estimator.batches import MOST_TRIED, divisors, largest_batch

    if "--measure" in request.given:
        message = "`--measure` measures one batch, and the largest is not known yet"
        raise LatteError(message, hint="ask for the largest first, then give it", exit_code=ExitCode.USAGE)
    kept: KeptEstimators = {}
    smallest, least, found = _smallest(request, estimates, kept)

    @cache
    def needed_bytes(batch: int) -> float:
        try:
            one = found if batch <= smallest else step_at(_at(request, batch), estimates, unsaid, kept)[1]
            return one.high_bytes
        except DoesNotFit:  # `--memory-limit`
            return inf

    limit = room.on(least.device)
    if request.effective_batch:
        wanted = (each for each in divisors(request.effective_batch) if each >= smallest)
        batch = next((each for each in wanted if needed_bytes(each) <= limit), 0)
    else:
        batch = largest_batch(needed_bytes, limit)
    if not batch:
        enough = ceil(found.high_bytes / 2**20)
        raise no_fit(least, found, limit, hint=f"`--batch-size max:{enough}MiB` is enough")
    if batch == MOST_TRIED:
        console.warn(f"no batch over {MOST_TRIED} was tried")
    kind = " under `--memory-limit`" * bool(request.memory_limit)
    kind += f" and divides {request.effective_batch}" if request.effective_batch else ""
    console.note(f"the largest batch that fits {size(limit)}{kind} is {batch}: at most {size(needed_bytes(batch))}")
    return _at(request, batch)


def _smallest(
    request: "EstimateRequest", estimates: Estimates, kept: "KeptEstimators"
) -> "tuple[int, Estimate, Occupancy]":
    """The smallest batch that torch trains, the first or the second that comes into question, and its step.

    Raises Untrainable where it trains neither: what it refuses is one value to normalise, which two samples cure.
    """
    from latte_cli.estimator import Untrainable
    from latte_cli.estimator.batches import divisors

    first, *others = divisors(request.effective_batch)[::-1] if request.effective_batch else (1, 2)
    try:
        return first, *step_at(_at(request, first), estimates, unsaid, kept)
    except Untrainable:
        if not others:
            raise
        return others[0], *step_at(_at(request, others[0]), estimates, unsaid, kept)


def step_at(
    request: "EstimateRequest",
    estimates: Estimates,
    note: Callable[[str], None],
    kept: "KeptEstimators | None" = None,
) -> "tuple[Estimate, Occupancy]":
    """The one step of the request, and the memory of its process; `kept` as `Estimates` has it."""
    found = estimates(request, note, {} if kept is None else kept)
    if len(found) != 1:
        message = "steps at several sizes are shown for one device, one strategy and one limit of memory"
        hint = "give `--device`, `--strategy` and `--memory-limit` once each"
        raise LatteError(message, hint=hint, exit_code=ExitCode.USAGE)
    return found[0], occupancy_with(found[0], request.mmap_threshold)


def unsaid(text: str) -> None:
    """Leave out what was said before."""
