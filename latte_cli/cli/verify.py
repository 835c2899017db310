"""`latte verify`: real steps of a model on this machine, beside what was estimated."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli.cli import console
from latte_cli.cli.options import (
    BatchAxisOption,
    BatchSizeOption,
    FormatOption,
    ModelArgument,
    OptimizerOption,
    PrecisionOption,
    ShapeOption,
    StoreOption,
    ThreadsOption,
    parse_duration,
    parse_layout,
    parse_shapes,
    parse_share,
)
from latte_cli.cli.request import Request, from_options
from latte_cli.cli.stores import store_to_read
from latte_cli.errors import ExitCode, LatteError
from latte_cli.precisions import Precision
from latte_cli.report import Format, percent

if TYPE_CHECKING:
    from latte_cli.backends.torch.training import RunRequest
    from latte_cli.backends.torch.whole import Steps
    from latte_cli.estimator import Estimate
    from latte_cli.network import Network

_PROCESSES = 3  # the fewest with a median: times differ between processes by their memory
_SECONDS = 3.0  # chosen: some steps of a usual network in each process


@dataclass(frozen=True, kw_only=True)
class VerifyRequest(Request):
    """What `latte verify` is asked."""

    model: ModelArgument
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A profile of this machine, or `cpu` or `cuda:N`. [default: this machine's profile]"
        ),
    ] = None
    batch_size: BatchSizeOption = None
    batch_axis: BatchAxisOption = None
    shape: ShapeOption = None
    precision: PrecisionOption = Precision.FP32.value
    layout: Annotated[str, typer.Option(parser=parse_layout, metavar="NAME", help="nchw or channels_last.")] = "nchw"
    threads: ThreadsOption = None
    optimizer: OptimizerOption = "sgd"
    seconds: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration, metavar="DURATION", help="How long each of three processes trains. [default: 3s]"
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        typer.Option(parser=parse_share, metavar="SHARE", help="End with code 3 if the step is off by more."),
    ] = None
    form: FormatOption = Format.TABLE
    store: StoreOption = None


@from_options
def verify(request: VerifyRequest) -> None:
    """Run real steps of MODEL here, beside the estimate.

    The steps are those of PyTorch. The table shows them layer by layer.
    """
    from latte_cli import child
    from latte_cli.network import load

    child.check_children()
    from latte_cli.report.verifications import Verification, write_verification

    sizes = parse_shapes(request.shape)
    network = load(request.model, batch_size=request.batch_size, batch_axis=request.batch_axis, sizes=sizes)
    estimate = _estimate(request, network)
    found = Verification(estimate=estimate, runs=_runs(_run(request, estimate, network), estimate))
    write_verification(found, request.form)
    for warning in estimate.warnings:
        console.warn(warning.message, urgent=warning.urgent)
    if request.tolerance is not None and abs(found.error) > request.tolerance:
        raise LatteError(
            f"the step is off by {percent(abs(found.error))}, more than {percent(request.tolerance)}",
            hint=f"`latte profile {console.shell_word(request.model)}` measures its layers; "
            "the machine has to be left alone meanwhile",
            exit_code=ExitCode.EXCEEDED,
        )


def _estimate(request: VerifyRequest, network: "Network") -> "Estimate":
    from latte_cli.estimator import estimate_one
    from latte_cli.profiles import resolve_profile

    store = store_to_read(request.store)
    return estimate_one(
        store,
        resolve_profile(store, request.device, request.threads),
        network,
        strategy="pytorch",
        precision=request.precision,
        layout=request.layout,
        threads=request.threads,
        optimizer=request.optimizer,
        note=console.note,
    )


def _run(request: VerifyRequest, estimate: "Estimate", network: "Network") -> "RunRequest":
    """The steps to run; raises LatteError where the profile is not of this machine."""
    from latte_cli.backends.torch.training import RunRequest
    from latte_cli.cli.measuring import opening_of

    return RunRequest(
        model=str(request.model),
        batch_size=network.batch_size,
        batch_axis=request.batch_axis,
        sizes=parse_shapes(request.shape),
        device=opening_of(estimate.device, estimate.settings).device,
        threads=estimate.settings.threads,
        precision=request.precision,
        layout=request.layout,
        optimizer=request.optimizer,
        seconds=_SECONDS if request.seconds is None else request.seconds,
    )


def _runs(run: "RunRequest", estimate: "Estimate") -> "list[Steps]":
    """Steps in several processes; those of the first tell the calls apart."""
    from latte_cli import child
    from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
    from latte_cli.backends.torch.whole import run_apart

    found = []
    with console.progress("running steps", _PROCESSES) as bar:
        for at in range(_PROCESSES):
            try:
                found.append(run_apart(replace(run, calls=at == 0), estimate.step_s))
            except (Unsupported, OutOfMemory, Failed) as exc:
                hint = "a smaller `--batch-size` needs less memory" if isinstance(exc, OutOfMemory) else None
                if isinstance(exc.__cause__, child.TimedOut):
                    hint = "close other programs, or run shorter steps with a smaller `--batch-size`"
                raise LatteError(f"a step of `{estimate.network.name}` does not run here: {exc}", hint=hint) from exc
            bar.advance(at + 1)
    return found
