"""`latte explain`: which algorithms each framework's rule takes for a model, and what that costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latte_cli.cli import console
from latte_cli.cli.options import (
    AllowUnknownOption,
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
    parse_shapes,
    parse_size,
)
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.report import Format
from latte_cli.tasks import Layout, Precision

if TYPE_CHECKING:
    from latte_cli.report.explanations import Explanation
    from latte_cli.store import Store

BEST = "exhaustive"


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """How an estimate is asked for."""

    batch_size: int | None = None
    precision: str = Precision.FP32.value
    layout: str | None = None
    threads: int | None = None
    workspace_limit: int | None = None
    memory_limit: int | None = None
    optimizer: str = "sgd"
    allow_unknown: bool = False


def explain(
    model: ModelArgument,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="A profile's name, or `cpu` or `cuda:N` for this machine.")
    ] = None,
    for_device: Annotated[
        Path | None,
        typer.Option(
            "--for-device",
            metavar="FILE",
            help="A GPU that is not here, as `latte doctor --device-json FILE` wrote it there: list the engines that "
            "cuDNN has for each call, and which of them frameworks take.",
        ),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Whose rule to look at, as for `latte estimate`; of a single one the table shows every call. "
            "Repeatable. [default: those that the device has a use for]",
        ),
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="NAME=VALUE,...",
            help="Ask again with other values, as in batch-size=64,precision=bf16,workspace-limit=256MiB. Repeatable.",
        ),
    ] = None,
    batch_size: BatchSizeOption = None,
    precision: PrecisionOption = Precision.FP32.value,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="nchw or channels_last. [default: the strategy's]")
    ] = None,
    threads: ThreadsOption = None,
    workspace_limit: WorkspaceLimitOption = None,
    memory_limit: MemoryLimitOption = None,
    optimizer: OptimizerOption = "sgd",
    shape: ShapeOption = None,
    allow_unknown: AllowUnknownOption = False,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Explain which algorithms each rule takes, and the cost.

    For the convolutions of MODEL it shows what each rule takes, what would be best, and what that costs.
    """
    if for_device is not None:
        _explain_elsewhere(model, for_device, batch_size, precision, layout, parse_shapes(shape), form)
        return
    from latte_cli.estimator import doubts_of
    from latte_cli.profiles import profile
    from latte_cli.report.explanations import write_explanations
    from latte_cli.store import open_store
    from latte_cli.strategies import usual

    asked = _Asked(
        batch_size=batch_size,
        precision=precision,
        layout=layout,
        threads=threads,
        workspace_limit=workspace_limit,
        memory_limit=memory_limit,
        optimizer=optimizer,
        allow_unknown=allow_unknown,
    )
    cases = [("", asked), *((text, replace(asked, **other_values(text))) for text in what_if or ())]
    opened, sizes = open_store(store), parse_shapes(shape)
    slug = profile(opened, device, threads)
    names = strategy or usual(opened.device(slug).kind)
    found = [_explained(opened, slug, model, sizes, names, each, text) for text, each in cases]
    write_explanations(found, form)
    for message in dict.fromkeys(text for each in found for text in doubts_of(each.best, each.others)):
        console.warn(message)
    if form is Format.TABLE:
        asked_for = asked_of(opened.device(slug), precision, batch_size)
        console.note(
            f"next: `latte estimate {model} {asked_for} --strategy latte` prices the step with what LATTE takes"
        )


def _explain_elsewhere(
    model: Path,
    file: Path,
    batch_size: int | None,
    precision: str,
    layout: str | None,
    sizes: Mapping[str, int],
    form: Format,
) -> None:
    """Write which engines cuDNN has for the model's convolutions on the GPU of a file, and what frameworks take."""
    from latte_cli.backends.cuda import deviceless
    from latte_cli.layers import Convolution
    from latte_cli.network import load
    from latte_cli.report.engines import Elsewhere, write_elsewhere

    name, properties = deviceless.read(file)
    wanted = Precision(_PARSERS["precision"](precision))
    placed = Layout(_PARSERS["layout"](layout or Layout.NCHW.value))
    network = load(model, batch_size=batch_size, sizes=sizes)
    calls = [
        (node.name, node.layer, phase)
        for node in network.nodes
        if isinstance(node.layer, Convolution)
        for phase in node.layer.phases
    ]
    pairs = list(dict.fromkeys((layer, phase) for _, layer, phase in calls))
    with console.progress("asking cuDNN", 1):
        found = deviceless.answer(properties, pairs, wanted, placed)
    listed = dict(zip(pairs, found.listed, strict=True))
    shown = [(node, layer, phase, listed[layer, phase]) for node, layer, phase in calls]
    write_elsewhere(
        Elsewhere(network=network, device=name, version=found.version, precision=wanted, layout=placed, calls=shown),
        form,
    )


def _explained(
    store: "Store",
    slug: str,
    model: Path,
    sizes: Mapping[str, int],
    names: Sequence[str],
    asked: _Asked,
    what_if: str,
) -> "Explanation":
    from latte_cli.estimator import Limits, compared
    from latte_cli.network import load
    from latte_cli.report.explanations import Explanation

    found = compared(
        store,
        slug,
        load(model, batch_size=asked.batch_size, sizes=sizes, allow_unknown=asked.allow_unknown),
        strategies=list(dict.fromkeys([*names, BEST])),
        limits=(Limits(workspace_bytes=asked.workspace_limit, memory_bytes=asked.memory_limit),),
        precision=asked.precision,
        layout=asked.layout,
        threads=asked.threads,
        optimizer=asked.optimizer,
        allow_unknown=asked.allow_unknown,
        note=console.note,
    )
    by_name = {each.strategy: each for each in found}
    best = by_name[BEST]
    return Explanation(best=best, others=[by_name[name] for name in dict.fromkeys(names)], what_if=what_if)


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
    """The values in `batch-size=64,precision=bf16` by name; raises LatteError (exit code 2) for what is none."""
    values = {}
    for part in text.split(","):
        name, equals, value = (one.strip() for one in part.partition("="))
        if name not in _PARSERS:
            raise unknown("what-if", name, _PARSERS)
        if not equals or not value:
            raise LatteError(f"`{name}` has no value", hint=f"as in `{name}=…`", exit_code=ExitCode.USAGE)
        values[name.replace("-", "_")] = _PARSERS[name](value, f"{name}=")
    return values
