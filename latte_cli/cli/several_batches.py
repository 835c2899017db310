"""`latte estimate` at several batches, and at the largest one that fits."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from latte_cli import files
from latte_cli.cli import console
from latte_cli.cli.batches import Batches, Room
from latte_cli.cli.fits import Fits, no_fit
from latte_cli.cli.request import check_apart
from latte_cli.cli.thresholds import EstimateFormat
from latte_cli.errors import ExitCode, LatteError
from latte_cli.report import Format, size

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest
    from latte_cli.estimator import Estimate, Occupancy

_APART = (("--effective-batch", ("--accumulate",), "the one decides the other"),)
_OF_ONE = ("--fail-above", "--baseline", "--max-regression", "--annotate", "--memory", "--measure-below")
"""Options that say something of one batch."""

Estimates: TypeAlias = "Callable[[EstimateRequest, Callable[[str], None]], list[Estimate]]"
"""What estimates a request, and hears what there is to note."""


def settle_batches(request: "EstimateRequest", estimates: Estimates) -> "EstimateRequest":
    """The request with the batch and the accumulation that `max` and an effective batch mean.

    Raises LatteError where no batch fits (exit code 3), and where batches do not make up the effective one.
    """
    check_apart(request.given, _APART)
    if request.picture:
        message = "`--picture` draws throughput against several batch sizes"
        raise LatteError(message, hint="as in `--batch-size 8,16,32`", exit_code=ExitCode.USAGE)
    wanted = request.batch_size or Batches()
    if wanted.sizes:
        return _at(request, wanted.sizes[0])
    if wanted.room is None and request.effective_batch is None:
        return request
    return _largest(request, wanted.room or request.fits or Room(), estimates)


def write_several(request: "EstimateRequest", estimates: Estimates) -> None:
    """Write a table of steps at several batches; raises LatteError as `settle_batches` does."""
    from latte_cli.estimator.batches import levels_off_at
    from latte_cli.report import pictures
    from latte_cli.report.batches import BatchRow, write_batches

    _check_several(request)
    if request.picture:
        pictures.check_suffix(request.picture)
        files.check_free(request.picture, force=request.force)
    wanted = request.batch_size or Batches()
    asked = [_at(request, batch) for batch in wanted.sizes]
    if wanted.room:
        asked.append(_largest(request, wanted.room, estimates))
    room, rows = request.fits or wanted.room, dict[int, BatchRow]()
    for at, each in enumerate(asked):
        estimate, found = _step_at(each, estimates, _unsaid if at else console.note)
        limit = room.on(estimate.device) if room else None
        rows[estimate.network.batch_size] = BatchRow(estimate=estimate, occupancy=found, limit_bytes=limit)
    shown = [rows[batch] for batch in sorted(rows)]
    write_batches(shown, Format(request.form))
    said = {warning.code: warning.message for row in shown for warning in row.estimate.warnings}
    for message in said.values():
        console.warn(message)
    if request.picture:
        pictures.save_figure(pictures.batches_figure(shown), request.picture)
        console.note(f"wrote `{request.picture}`")
    if request.form is EstimateFormat.TABLE:
        best = levels_off_at([row.estimate for row in shown]) or shown[-1].estimate.network.batch_size
        console.note(f"next: `latte estimate {request.model} --batch-size {best}` shows that step layer by layer")
    Fits([(row.estimate, row.occupancy, row.limit_bytes) for row in shown if row.limit_bytes]).enforce()


def _check_several(request: "EstimateRequest") -> None:
    check_apart(request.given, _APART)
    check_apart(request.given, [(each, ("--batch-size",), "it is of one batch") for each in _OF_ONE])
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
    from latte_cli.estimator.batches import divisors, largest_batch

    tried: dict[int, tuple[Estimate, Occupancy]] = {}

    def needed_bytes(batch: int) -> int:
        if batch not in tried:
            tried[batch] = _step_at(_at(request, batch), estimates, _unsaid)
        return tried[batch][1].high_bytes

    needed_bytes(1)
    least, found = tried[1]
    limit = room.on(least.device)
    if request.effective_batch:
        batch = next((each for each in divisors(request.effective_batch) if needed_bytes(each) <= limit), 0)
    else:
        batch = largest_batch(needed_bytes, limit)
    if not batch:
        raise no_fit(least, found, limit)
    console.note(f"the largest batch that fits {size(limit)} is {batch}: at most {size(needed_bytes(batch))}")
    return _at(request, batch)


def _step_at(
    request: "EstimateRequest", estimates: Estimates, note: Callable[[str], None]
) -> "tuple[Estimate, Occupancy]":
    """The one step that is asked for, and the memory of its process."""
    from latte_cli.estimator import occupancy_of

    found = estimates(request, note)
    if len(found) != 1:
        message = "batches are compared on one device under one strategy"
        raise LatteError(message, hint="give one `--device` and one `--strategy`", exit_code=ExitCode.USAGE)
    return found[0], occupancy_of(found[0], map_from=request.mmap_threshold)


def _unsaid(text: str) -> None:
    """Leave out what was said before."""
