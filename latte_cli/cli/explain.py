"""`latte explain`: which algorithms each framework's rule takes for a model, and what that costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latte_cli.cli import console
from latte_cli.cli.options import (
    AllowUnknownOption,
    BatchAxisOption,
    BatchSizeOption,
    FormatOption,
    MemoryLimitOption,
    ModelArgument,
    OptimizerOption,
    PrecisionOption,
    ShapeOption,
    StoreOption,
    ThreadsOption,
    WorkspaceLimitOption,
    asked_of,
    parse_layout,
    parse_shapes,
    parse_size,
)
from latte_cli.cli.request import Request, check_apart, from_options
from latte_cli.cli.stores import store_to_read
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.precisions import Layout, Precision
from latte_cli.report import Format

if TYPE_CHECKING:
    from latte_cli.network import Network
    from latte_cli.report.explanations import Explanation
    from latte_cli.store import Store

BEST = "exhaustive"


_APART = (
    (
        "--for-device",
        (
            *("--device", "--strategy", "--what-if", "--threads", "--workspace-limit", "--memory-limit"),
            *("--optimizer", "--store"),
        ),
        "what cuDNN has for a GPU that is not here depends on the calls alone",
    ),
)
"""Options that do not go together, and why."""


@dataclass(frozen=True, kw_only=True)
class ExplainRequest(Request):
    """What `latte explain` is asked."""

    model: ModelArgument
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A profile's name, or `cpu` or `cuda:N` for this machine. [default: this machine's]"
        ),
    ] = None
    for_device: Annotated[
        Path | None,
        typer.Option(
            "--for-device",
            metavar="FILE",
            help="List the engines that cuDNN has for each call on another machine's GPU, and which of them frameworks "
            "take. `latte doctor --device-json FILE` writes the file there.",
        ),
    ] = None
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Strategies to show, as for `latte estimate`. With one, the table shows every call. Repeatable. "
            "[default: those that apply to the device]",
        ),
    ] = None
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="NAME=VALUE,...",
            help="Also explain the step with other values, as in batch-size=64,precision=bf16. Repeatable.",
        ),
    ] = None
    batch_size: BatchSizeOption = None
    batch_axis: BatchAxisOption = None
    precision: PrecisionOption = Precision.FP32.value
    layout: Annotated[
        str | None,
        typer.Option(
            parser=parse_layout, metavar="NAME", help="Memory layout: nchw or channels_last. [default: the strategy's]"
        ),
    ] = None
    threads: ThreadsOption = None
    workspace_limit: WorkspaceLimitOption = None
    memory_limit: MemoryLimitOption = None
    optimizer: OptimizerOption = "sgd"
    shape: ShapeOption = None
    allow_unknown: AllowUnknownOption = False
    form: FormatOption = Format.TABLE
    store: StoreOption = None


@from_options
def explain(request: ExplainRequest) -> None:
    """Explain which algorithms frameworks take, and the cost.

    For each convolution of MODEL: the algorithm that each strategy takes, the fastest one, and the time that this
    loses.
    """
    check_apart(request.given, _APART)
    if request.for_device is None:
        _explain_here(request)
    else:
        _explain_elsewhere(request, request.for_device)


def _explain_here(request: ExplainRequest) -> None:
    """Write what rules take on a device of the store, as asked and with each set of other values."""
    from latte_cli.estimator import doubts_of
    from latte_cli.profiles import device_of, resolve_profile
    from latte_cli.report.explanations import write_explanations
    from latte_cli.strategies import usual

    cases = [("", request), *((text, replace(request, **other_values(text))) for text in request.what_if or ())]
    store = store_to_read(request.store)
    slug = resolve_profile(store, request.device, request.threads)
    names = request.strategy or usual(device_of(store, slug).kind)
    found = [_explain(store, slug, names, case, text) for text, case in cases]
    write_explanations(found, request.form)
    for message in dict.fromkeys(text for each in found for text in doubts_of(each.best, each.others)):
        console.warn(message)
    if request.form is Format.TABLE:
        asked = asked_of(device_of(store, slug), request.precision, request.batch_size)
        command = f"latte estimate {console.shell_word(request.model)} {asked} --strategy latte"
        console.note(f"next: `{command}` prices the step with what LATTE takes")


def _explain(store: "Store", slug: str, names: Sequence[str], request: ExplainRequest, what_if: str) -> "Explanation":
    from latte_cli.estimator import Limits, estimate_each
    from latte_cli.report.explanations import Explanation

    found = estimate_each(
        store,
        slug,
        _network(request),
        strategies=list(dict.fromkeys([*names, BEST])),
        limits=(Limits(workspace_bytes=request.workspace_limit, memory_bytes=request.memory_limit),),
        precision=request.precision,
        layout=request.layout,
        threads=request.threads,
        optimizer=request.optimizer,
        allow_unknown=request.allow_unknown,
        note=console.note,
    )
    by_name = {each.strategy: each for each in found}
    others = [by_name[name] for name in dict.fromkeys(names)]
    return Explanation(best=by_name[BEST], others=others, what_if=what_if)


def _network(request: ExplainRequest) -> "Network":
    from latte_cli.network import load

    return load(
        request.model,
        batch_size=request.batch_size,
        batch_axis=request.batch_axis,
        sizes=parse_shapes(request.shape),
        allow_unknown=request.allow_unknown,
    )


def _explain_elsewhere(request: ExplainRequest, file: Path) -> None:
    """Write which engines cuDNN has for the model's convolutions on the GPU of a file, and what frameworks take."""
    from latte_cli.backends.cuda import deviceless
    from latte_cli.report.engines import Elsewhere, write_elsewhere

    name, properties = deviceless.read_properties(file)
    precision = Precision(_PARSERS["precision"](request.precision))
    layout = Layout(_PARSERS["layout"](request.layout or Layout.NCHW.value))
    network = _network(request)
    with console.progress("asking cuDNN", 1):
        version, calls = deviceless.engines_of(network, properties, precision, layout)
    shown = Elsewhere(network=network, device=name, version=version, precision=precision, layout=layout, calls=calls)
    write_elsewhere(shown, request.form)


def _count(text: str, before: str) -> int:
    if not text.isdecimal() or not int(text):
        raise LatteError(f"`{text}` is not a count", hint=f"as in `{before}64`", exit_code=ExitCode.USAGE)
    return int(text)


def _one_of(what: str, known: Sequence[str]) -> Callable[..., str]:
    def parse(text: str, before: str = "") -> str:
        if text not in known:
            raise unknown(what, text, known)
        return text

    return parse


_PARSERS: Mapping[str, Callable[..., Any]] = {
    "batch-size": _count,
    "precision": _one_of("precision", tuple(Precision)),
    "layout": _one_of("layout", tuple(Layout)),
    "threads": _count,
    "workspace-limit": parse_size,
    "memory-limit": parse_size,
    "optimizer": lambda text, _: text,
}


def other_values(text: str) -> dict[str, Any]:
    """The values in `batch-size=64,precision=bf16` by name; raises LatteError (exit code 2) for other text."""
    values = {}
    for part in text.split(","):
        name, equals, value = (one.strip() for one in part.partition("="))
        if name not in _PARSERS:
            raise unknown("what-if", name, _PARSERS)
        if not equals or not value:
            raise LatteError(f"`{name}` has no value", hint=f"as in `{name}=…`", exit_code=ExitCode.USAGE)
        values[name.replace("-", "_")] = _PARSERS[name](value, f"{name}=")
    return values
