"""`latte compare`: models, devices, batches, precisions and earlier estimates side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latte_cli.cli import console
from latte_cli.cli.compare_request import CompareFormat, CompareRequest, check_compared, estimate_request, is_document
from latte_cli.cli.estimate import EstimateRequest
from latte_cli.cli.estimating import request_estimates
from latte_cli.cli.options import names_among, parse_precision
from latte_cli.cli.request import from_options
from latte_cli.cli.thresholds import CheckResults, EstimateFormat
from latte_cli.errors import ExitCode, LatteError
from latte_cli.precisions import Precision
from latte_cli.printable import few
from latte_cli.report import Format
from latte_cli.report.thresholds import Annotate
from latte_cli.schedule import Schedule

if TYPE_CHECKING:
    from latte_cli.prices import PriceList
    from latte_cli.report.sides import SidePair
    from latte_cli.sides import Side
    from latte_cli.thresholds import Document, ThresholdCheck

_MOST_SIDES = 256  # chosen: each is a step to price, and a line to read


@from_options
def compare(request: CompareRequest) -> None:
    """Compare models, devices, batches or precisions.

    Each file is a model, or a document of `latte estimate --format json`. Models are estimated at every combination of
    --device, --strategy, --precision, --shape and --batch-size. With --samples or --local-steps the sides are ranked by
    the time of the training. Two sides are compared layer by layer.

    \b
    latte compare before.json after.json --max-regression 5%
    latte compare a.onnx b.onnx --device h200 --batch-size 8,16
    latte compare a.onnx --device h200,reference --samples 1.2M --epochs 90
    """
    from latte_cli.cli.ranking import prices_for, say_unpriced

    check_compared(request)
    prices = prices_for(request.prices, request.schedule)
    found = [list(_sides(request, path, prices)) for path in request.files]
    sides = [side for of_file in found for side in of_file]
    if len(sides) < 2 and not is_document(request.files[0]):
        hint = "name another model or document, or several of `--device`, `--batch-size` or `--precision`"
        raise LatteError("there is one step, and nothing to compare it with", hint=hint, exit_code=ExitCode.USAGE)
    pairs = _pairs(request, found)
    limited = sides if request.max_regression is None else sides[len(found[0]) :]
    checks = _checks(request, limited, pairs)
    _write(request, sides, pairs, checks)
    for text in _doubts(request, sides, found):
        console.warn(text)
    say_unpriced(sides, prices)
    results = CheckResults(checks=checks, comparisons=(), annotate=request.annotate)
    results.write(" ".join(path.name for path in request.files), EstimateFormat.CSV)
    if request.form is CompareFormat.TABLE and request.annotate is not Annotate.JUNIT:
        _say_next(request, sides)
    _enforce_room(request, sides)
    results.enforce()


def _requests(request: CompareRequest, model: Path) -> list[EstimateRequest]:
    """One for each device, strategy, precision, shape and limit of memory; the batches are in each.

    Raises LatteError (exit code 2) for too many.
    """
    from latte_cli.cli.mixtures import all_sizes

    one = estimate_request(request, model)
    precisions = [parse_precision(name) for name in names_among([request.precision])]
    devices: list[Any] = one.devices or [None]
    limits: list[Any] = request.memory_limit or [None]
    lists = (devices, one.strategies, precisions, all_sizes(request.shape), limits)
    found = [
        replace(
            one,
            device=device and [device],
            strategy=[strategy],
            precision=precision,
            shape=list(shape),
            memory_limit=limit and [limit],
        )
        for device, strategy, precision, shape, limit in product(*lists)
    ]
    each = len(request.batch_size.sizes) + (request.batch_size.room is not None) if request.batch_size else 1
    if len(found) * each * len(request.files) > _MOST_SIDES:
        message = f"these make {len(found) * each * len(request.files)} sides, more than {_MOST_SIDES}"
        raise LatteError(message, hint="give fewer of each", exit_code=ExitCode.USAGE)
    return found


# What is found


def _sides(request: CompareRequest, path: Path, prices: "PriceList | None") -> "Iterator[Side]":
    """The sides of one file: those in a document, or those that a model is estimated at; what fits nowhere is named.

    Raises LatteError (exit code 3) where none fits.
    """
    from latte_cli.cli.several_batches import unsaid
    from latte_cli.sides import sides_of
    from latte_cli.thresholds import read_estimates

    if is_document(path):
        yield from sides_of(read_estimates(path), request.schedule, prices, file=str(path))
        return
    refused: list[LatteError] = []
    estimated: list[Side] = []
    for at, one in enumerate(_requests(request, path)):
        try:
            estimated += _estimated_sides(one, request.schedule, prices, unsaid if at else console.note)
        except LatteError as exc:
            if exc.exit_code is not ExitCode.EXCEEDED:
                raise
            refused.append(exc)
    if refused and not estimated:
        raise refused[0]
    for each in refused:
        console.warn(f"left out: {each.message}")
    yield from estimated


def _estimated_sides(
    one: EstimateRequest, schedule: Schedule, prices: "PriceList | None", note: Callable[[str], None]
) -> "Iterator[Side]":
    """A side for each batch of a request; raises LatteError (exit code 3) where none fits."""
    from latte_cli.cli.ranking import fits_within
    from latte_cli.cli.several_batches import requests_at, steps_found
    from latte_cli.report.estimates import estimates_document
    from latte_cli.sides import sides_of

    room = one.fits or (one.batch_size.room if one.batch_size else None)
    for estimate, _ in steps_found(requests_at(one, request_estimates), request_estimates, note):
        document = estimates_document([estimate], schedule) | {"asked": one.asked}
        if not one.compiled:  # its memory is not known
            fits_within(room, estimate).add_to(document)
        yield from sides_of(document, schedule, prices, file=str(one.model))


def _pairs(request: CompareRequest, found: "Sequence[Sequence[Side]]") -> "list[SidePair]":
    """The sides to show layer by layer: each with its like of the first file where growth is limited, else both of two
    that share most layers.

    Raises LatteError as `baseline_entry` does where a side has no like.
    """
    from latte_cli.report.sides import SidePair, letters
    from latte_cli.sides import compare_sides, share_layers
    from latte_cli.thresholds import baseline_entry

    sides = [side for of_file in found for side in of_file]
    names = letters(len(sides))
    if request.max_regression is None:
        likes = [(sides[0], sides[1])] if len(sides) == 2 and share_layers(*sides) else []
    else:
        first = {id(side.entry): side for side in found[0]}
        documents = list({id(side.document): side.document for side in found[0]}.values())
        later = [side for of_file in found[1:] for side in of_file]
        likes = [(first[id(baseline_entry(documents, side.document, side.entry))], side) for side in later]
    places = {id(side): name for side, name in zip(sides, names, strict=True)}
    return [
        SidePair(before=places[id(one)], after=places[id(other)], comparison=compare_sides(one, other))
        for one, other in likes
    ]


def _checks(request: CompareRequest, sides: "Sequence[Side]", pairs: "Sequence[SidePair]") -> "list[ThresholdCheck]":
    """What came of the limits, for these sides, and of the growth that is allowed."""
    from latte_cli.thresholds import check_regressions, check_thresholds

    alone: list[Document] = [{**side.document, "estimates": [side.entry]} for side in sides]
    checks = [check for document in alone for check in check_thresholds(document, request.fail_above or ())]
    if request.max_regression is not None:
        checks += check_regressions([pair.comparison for pair in pairs], request.max_regression)
    return checks


def _doubts(request: CompareRequest, sides: "Sequence[Side]", found: "Sequence[Sequence[Side]]") -> list[str]:
    """The warnings of the sides, each with their letters; and what changed beside the model where growth is limited."""
    from latte_cli.report.sides import letters
    from latte_cli.thresholds import baseline_doubts

    said: dict[str, list[str]] = {}
    for letter, side in zip(letters(len(sides)), sides, strict=True):
        for warning in side.entry["warnings"]:
            said.setdefault(warning["message"], []).append(letter)
    doubts = [f"{message} ({few(where)})" for message, where in said.items()]
    if request.max_regression is not None:
        doubts += baseline_doubts(found[0][0].document, found[-1][0].document)
    return doubts


# What is said


def _write(
    request: CompareRequest,
    sides: "Sequence[Side]",
    pairs: "Sequence[SidePair]",
    checks: "Sequence[ThresholdCheck]",
) -> None:
    from latte_cli.report.markdown import write_compared
    from latte_cli.report.sides import write_comparison, write_sides
    from latte_cli.report.thresholds import write_phase_changes

    if request.form is CompareFormat.JSON:
        write_comparison(sides, pairs, checks, request.schedule)
    elif request.form is CompareFormat.MARKDOWN:
        write_compared(sides, pairs, checks)
    elif request.annotate is not Annotate.JUNIT:
        write_sides(sides, Format(request.form))
        for pair in pairs if request.form is CompareFormat.TABLE else ():
            write_phase_changes(pair.comparison, title=pair.title, names=pair.names)


def _say_next(request: CompareRequest, sides: "Sequence[Side]") -> None:
    from latte_cli.sides import rank

    best = next((side for side in rank(sides) if not is_document(Path(side.file))), None)
    if best is None:
        words = " ".join(map(console.shell_word, request.files))
        console.note(f"next: `latte compare {words} --format markdown > comment.md` writes a comment on a change")
        return
    precision = "" if best.precision == Precision.FP32 else f" --precision {best.precision}"
    command = f"latte estimate {console.shell_word(best.file)} --device {best.device} --batch-size {best.batch_size}"
    console.note(f"next: `{command}{precision}` shows that step layer by layer")


def _enforce_room(request: CompareRequest, sides: "Sequence[Side]") -> None:
    """Raise LatteError (exit code 3) where a limit of the process is given and no side keeps to it."""
    from latte_cli.sides import NO

    answers = {side.fits for side in sides if side.fits}
    if request.fits and answers == {NO}:
        message = "no process that trains one of these fits"
        raise LatteError(message, hint="`--batch-size max:SIZE` finds the largest batch", exit_code=ExitCode.EXCEEDED)
