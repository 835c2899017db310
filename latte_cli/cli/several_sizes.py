"""`latte estimate` of a mixture: the mean step over several sizes of open dimensions."""

from dataclasses import replace
from typing import TYPE_CHECKING

from latte_cli.cli import console
from latte_cli.cli.fits import Fits
from latte_cli.cli.forms import check_shown
from latte_cli.cli.mixtures import Combination, mixture, shape_options, sizes_options
from latte_cli.cli.next_steps import same_layers, same_step
from latte_cli.cli.several_batches import Estimates, check_given, step_at, unsaid
from latte_cli.cli.thresholds import EstimateFormat, Requirements
from latte_cli.errors import ExitCode, LatteError
from latte_cli.report import Format

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest
    from latte_cli.estimator.mixtures import MixedStep
    from latte_cli.report.mixtures import SizeRow

_OF_ONE = {
    "--effective-batch": "it searches for a batch at one size, and `--accumulate` takes several batches together",
    "--memory": "it shows one size call by call",
    "--all": "it lists the layers of one size",
    "--measure-below": "it measures one size",
    "--measure": "it measures one size",
    "--loading-rate": "samples of different sizes load at different rates",
    "--cuda-graph": "a CUDA graph has one size",
    "--gpus": "several GPUs wait for the one with the largest batch",
    "--link": "several GPUs wait for the one with the largest batch",
    "--data-parallel": "several GPUs wait for the one with the largest batch",
    "--compile": "the memory of a compiled step is not known",
    "--baseline": "it compares one size layer by layer",
    "--max-regression": "it compares one size layer by layer",
    "--picture": "it draws several batch sizes",
    "--force": "it is for `--picture`",
    "--prices": "it ranks devices at one size",
}
"""Options that say something of one size, and why."""
_UNMEASURED = {"predicted_share", "extrapolated", "missing"}
"""Codes of warnings that measuring the model's layers cures."""


def write_mixture(request: "EstimateRequest", estimates: Estimates) -> None:
    """Write the mean step of a mixture, with a line for each size.

    Raises LatteError (exit code 2) for options that are of one size, and (code 3) where a size does not fit.
    """
    from latte_cli.estimator.mixtures import MixedStep
    from latte_cli.report import mixtures

    combinations = mixture(request.shape)
    _check(request)
    requirements = Requirements.of(
        request.fail_above, None, None, request.annotate, request.form, room=request.fits is not None
    )
    rows = [_row(request, estimates, each, first=each is combinations[0]) for each in combinations]
    _check_batch(rows)
    mixed = MixedStep([row.step for row in rows])
    document = mixtures.mixture_document(mixed, rows, request.schedule)
    results = requirements.check({"estimates": [document]})
    if request.form is EstimateFormat.JSON:
        document |= results.as_json()
    if not requirements.replaces_the_table:
        mixtures.write_mixture(mixed, rows, document, Format(request.form), request.schedule)
    for warn in mixed.warnings:
        console.warn(warn.message, urgent=warn.urgent)
    at = next(at for at, row in enumerate(rows) if row.step is mixed.largest)
    fits = Fits.of(request.fits, [mixed.largest.estimate], request.mmap_threshold)
    results.write(request.model.name, request.form, fits.checks)
    if requirements.replaces_the_table:
        fits.say()
    _say_next(request, mixed, combinations[at])
    _enforce_room(fits, combinations[at])
    results.enforce()


def _check(request: "EstimateRequest") -> None:
    """Raise LatteError (exit code 2) for options that a mixture has no answer to."""
    check_given(request)
    check_shown(request)
    for option, why in _OF_ONE.items():
        if option in request.given:
            raise _refusal(f"`{option}`", why, option)
    if request.form in (EstimateFormat.TRACE, EstimateFormat.MARKDOWN):
        raise _refusal(f"`--format {request.form}`", "it shows one step", "--format")
    if request.layout == "auto":
        raise _refusal("`--layout auto`", "the faster layout may differ from size to size", "--layout")
    if request.checkpoint == "auto":
        raise _refusal("`--checkpoint auto`", "it chooses for one size; name the parts instead", "--checkpoint")
    if request.batch_size and (request.batch_size.room or len(request.batch_size.sizes) > 1):
        raise _refusal("`--batch-size` with several batches or `max`", "only one thing varies", "--batch-size")


def _refusal(what: str, why: str, option: str) -> LatteError:
    message = f"{what} does not go with several sizes in `--shape`: {why}"
    hint = f"give `--shape` one size of each dimension, or change `{option}`"
    return LatteError(message, hint=hint, exit_code=ExitCode.USAGE)


def _row(request: "EstimateRequest", estimates: Estimates, one: Combination, *, first: bool) -> "SizeRow":
    """The step at one combination of sizes; what is noted is said of the first alone."""
    from latte_cli.estimator import DoesNotFit, Untrainable
    from latte_cli.estimator.mixtures import SizedStep, sizes_text
    from latte_cli.report.mixtures import SizeRow

    try:
        asked = replace(request, shape=list(one.shape))
        estimate, found = step_at(asked, estimates, console.note if first else unsaid)
    except (DoesNotFit, Untrainable) as exc:
        message = f"{sizes_text(one.mixed)}: {exc.message}"
        raise LatteError(message, hint=exc.hint, exit_code=exc.exit_code) from exc
    limit = request.fits.on(estimate.device) if request.fits else None
    step = SizedStep(sizes=one.mixed, share=one.share, estimate=estimate)
    return SizeRow(step=step, occupancy=found, limit_bytes=limit)


def _check_batch(rows: "list[SizeRow]") -> None:
    if len({row.step.estimate.network.batch_size for row in rows}) > 1:
        message = "`--shape` mixes sizes of the batch, and epochs count samples"
        hint = "`--batch-size 8,16` compares batches; mix sizes of other dimensions"
        raise LatteError(message, hint=hint, exit_code=ExitCode.USAGE)


def _say_next(request: "EstimateRequest", mixed: "MixedStep", largest: Combination) -> None:
    """Name the command that measures what is not known of these sizes, or the one that shows the largest."""
    if request.form is not EstimateFormat.TABLE:
        return
    batch = f" --batch-size {request.batch}" if request.batch else ""
    if _UNMEASURED & {warn.code for warn in mixed.warnings}:
        shapes = " ".join(sizes_options(mixture(request.shape)))
        command = f"latte profile {request.pasted_model}{batch} {shapes}{same_layers(request)}"
        console.note(f"next: `{command}` measures every size on this machine")
        return
    shapes = " ".join(shape_options(largest.shape))
    command = f"latte estimate {request.pasted_model}{batch} {shapes}{same_step(request)}"
    console.note(f"next: `{command}` shows the largest of these steps layer by layer")


def _enforce_room(fits: Fits, one: Combination) -> None:
    """Raise LatteError (exit code 3) where the largest size does not fit; say what a yes leaves out."""
    if not fits.found:
        return
    console.warn(
        "`--fits` looks at the largest size alone; an allocator holds more where sizes change, so leave room, and "
        "train the largest size first"
    )
    try:
        fits.enforce()
    except LatteError as exc:
        hint = f"`{' '.join(shape_options(one.shape))} --batch-size max:SIZE` finds the largest batch that fits"
        raise LatteError(exc.message, hint=hint, exit_code=exc.exit_code) from exc
