"""Layer times become the time of a step, an epoch and a round, with an interval on each."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from latte_cli import rates
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.devices import Kind
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.estimator.checkpointing import AUTO, NONE, check_limited, estimates_with_checkpoints, named_regions
from latte_cli.estimator.clocks import schedule_calls
from latte_cli.estimator.compiled import check_compilable
from latte_cli.estimator.diagnostics import Diagnostic
from latte_cli.estimator.estimator import CALIBRATED, Estimator
from latte_cli.estimator.limits import DoesNotFit
from latte_cli.estimator.memory import Memory
from latte_cli.estimator.occupancy import Occupancy, occupancy_of
from latte_cli.estimator.records import LOOKUP, CompiledStep, Estimate, LayerTime, RealSteps
from latte_cli.estimator.rest import ZERO_GRADS, Rest
from latte_cli.estimator.savings import Saving, savings
from latte_cli.estimator.steps import ACCUMULATION, BESIDE, LOSS, LOSSES, UPDATE, Step, Untrainable, Work, step_calls
from latte_cli.lookup import NotProfiled, Source
from latte_cli.network import Network, load
from latte_cli.optimizers import OPTIMIZERS
from latte_cli.precisions import Layout, Precision
from latte_cli.profiles import device_of, resolve_profile
from latte_cli.store import Store, open_store
from latte_cli.strategies import NO_LIMITS, Limits, Strategy, by_name
from latte_cli.tasks import Task

__all__ = [
    "ACCUMULATION",
    "BESIDE",
    "AUTO",
    "CALIBRATED",
    "ESTIMATORS",
    "LOOKUP",
    "LOSS",
    "LOSSES",
    "NONE",
    "UPDATE",
    "ZERO_GRADS",
    "CompiledStep",
    "DoesNotFit",
    "EstimatorsByLayout",
    "Estimate",
    "Estimator",
    "LayerTime",
    "Limits",
    "Memory",
    "RealSteps",
    "Rest",
    "Saving",
    "Occupancy",
    "Source",
    "Step",
    "Untrainable",
    "Diagnostic",
    "Work",
    "check_names",
    "estimate_each",
    "doubtful",
    "doubts_of",
    "estimate_one",
    "savings",
    "occupancy_of",
    "schedule_calls",
    "step_calls",
]

ESTIMATORS = (LOOKUP, "xgboost", "roofline", *rates.AMOUNTS)
"""Where times come from: `lookup` takes what was measured, else between neighbours, else what `xgboost` predicts; the
others predict everything."""

EstimatorsByLayout: TypeAlias = dict[Layout, Estimator]
"""The estimators of one device under the same settings but for the layout."""

_ANY_LAYOUT = "auto"
"""Selects the fastest measured layout."""


def estimate_one(
    store: Store,
    slug: str,
    network: Network,
    *,
    strategy: str = "latte",
    workspace_limit_bytes: int | None = None,
    memory_limit_bytes: int | None = None,
    precision: str = Precision.FP32,
    layout: str | None = None,
    threads: int | None = None,
    estimator: str = LOOKUP,
    optimizer: str = "sgd",
    loss: str = "cross-entropy",
    accumulate: int = 1,
    cuda_graph: bool = False,
    rest: Rest = Rest(),  # noqa: B008 - a frozen record
    checkpoint: str = NONE,
    compiled: bool = False,
    allow_unknown: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Estimate:
    """One network on one device under one strategy; all choices mean, and raise, what they do in `estimate_each`."""
    (only,) = estimate_each(
        store,
        slug,
        network,
        strategies=(strategy,),
        limits=(Limits(workspace_bytes=workspace_limit_bytes, memory_bytes=memory_limit_bytes),),
        precision=precision,
        layout=layout,
        threads=threads,
        estimator=estimator,
        optimizer=optimizer,
        loss=loss,
        accumulate=accumulate,
        cuda_graph=cuda_graph,
        rest=rest,
        checkpoint=checkpoint,
        compiled=compiled,
        allow_unknown=allow_unknown,
        note=note,
    )
    return only


def estimate_each(
    store: Store,
    slug: str,
    network: Network,
    *,
    strategies: Sequence[str] = ("latte",),
    limits: Sequence[Limits] = (NO_LIMITS,),
    precision: str = Precision.FP32,
    layout: str | None = None,
    threads: int | None = None,
    estimator: str = LOOKUP,
    optimizer: str = "sgd",
    loss: str = "cross-entropy",
    accumulate: int = 1,
    cuda_graph: bool = False,
    rest: Rest = Rest(),  # noqa: B008 - a frozen record
    checkpoint: str = NONE,
    compiled: bool = False,
    replicated: bool = False,
    allow_unknown: bool = False,
    rough: bool = False,
    kept: EstimatorsByLayout | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Estimate]:
    """One network on one device under each strategy and each of the limits, all choices by name.

    `checkpoint` is `none`, `auto` for the regions that cost least under each limit of memory, or regions by name,
    separated by commas; `replicated` is that of Step. With `compiled` the model is what `torch.compile` makes of it,
    under the strategy `pytorch` and without limits. The layout None is each strategy's own, or, with a warning, another
    where nothing was measured in that; with `auto` each takes the measured one that is fastest. Of several limits those
    that the step does not fit are left out. `kept` holds the estimators of earlier networks, and those of this one
    afterwards, for one store, device, precision, number of threads and estimator. `rough` is that of Models. Raises
    LatteError for an unknown name (exit code 2), and as Estimator does.
    """
    for strategy in strategies:
        check_names(precision, layout, strategy, optimizer, loss, estimator)
    step = Step(
        optimizer=optimizer,
        loss=loss,
        accumulate=accumulate,
        cuda_graph=cuda_graph,
        rest=rest,
        checkpoints=named_regions(network, checkpoint),
        replicated=replicated,
    )
    check_limited(checkpoint, limits)
    if compiled:
        check_compilable(network, device_of(store, slug).kind, step, strategies, limits)
    known = [by_name(strategy) for strategy in strategies]
    kind = device_of(store, slug).kind
    wanted: dict[Layout, list[Strategy]] = {}
    for each in known:
        for one in layouts(each, layout, Precision(precision), kind):
            wanted.setdefault(one, []).append(each)

    estimators: EstimatorsByLayout = {} if kept is None else kept

    def estimator_in(one: Layout) -> Estimator:
        if one not in estimators:
            estimators[one] = Estimator(
                store,
                slug,
                precision=Precision(precision),
                layout=one,
                threads=threads,
                estimator=estimator,
                rough=rough,
                note=note,
            )
        return estimators[one]

    def priced(one: Layout, its: Sequence[Strategy]) -> list[Estimate]:
        if compiled:
            eager = list(estimator_in(one).variants(network, step, allow_unknown, strategies=its))
            return [estimator_in(one).compile_estimate(each) for each in eager]
        if checkpoint == AUTO:
            return estimates_with_checkpoints(
                estimator_in(one), network, step, allow_unknown, strategies=its, limits=limits
            )
        return list(estimator_in(one).variants(network, step, allow_unknown, strategies=its, limits=limits))

    found: list[Estimate] = []
    refused: NotProfiled | DoesNotFit | None = None
    for one, its in wanted.items():
        try:
            found += priced(one, its) if layout else _priced_in_any(one, partial(priced, its=its))
        except (NotProfiled, DoesNotFit) as exc:
            if isinstance(exc, NotProfiled) and layout != _ANY_LAYOUT:
                raise
            refused = refused or exc
    if not found and refused:
        raise refused
    best = {}
    for estimate in sorted(found, key=lambda each: (len(each.missing), each.step_s), reverse=True):
        best[estimate.strategy, estimate.limits] = estimate
    return [best[each.name, one] for each in known for one in limits if (each.name, one) in best]


def _priced_in_any(own: Layout, priced: Callable[[Layout], list[Estimate]]) -> list[Estimate]:
    """What is `priced` in a strategy's `own` layout, else in another that was measured, which each estimate then says.

    Raises NotProfiled, of the own layout, where nothing was measured in any.
    """
    try:
        return priced(own)
    except NotProfiled:
        for other in Layout:
            with suppress(NotProfiled):
                if other is not own:
                    return [
                        replace(each, warnings=(*each.warnings, _other_layout(each, own))) for each in priced(other)
                    ]
        raise


_OTHER_LAYOUT = "other_layout"


def doubts_of(first: Estimate, others: Sequence[Estimate]) -> list[str]:
    """What there is to say of `first`, and of estimates of the same step beside it where their layout is not theirs."""
    said = [*first.warnings, *(warn for each in others for warn in each.warnings if warn.code == _OTHER_LAYOUT)]
    return list(dict.fromkeys(warn.message for warn in said))


def _other_layout(estimate: Estimate, own: Layout) -> Diagnostic:
    precision, layout = estimate.settings.precision, estimate.settings.layout
    message = (
        f"`{estimate.strategy}` takes {own} at {precision}, which was not measured: these are times in {layout}; "
        f"`latte profile MODEL --precision {precision} --layout {own}` measures it"
    )
    return Diagnostic(code=_OTHER_LAYOUT, message=message)


def doubtful(store: Store, estimate: Estimate, below: float, *, most: int = 3) -> list[Task]:
    """What to time in place of the selector's choices with a confidence `below`: for each the `most` likeliest
    algorithms, and the framework's own, with which they are compared."""
    from latte_cli import selector

    unsure = (part for part in estimate.parts if part.confidence is not None and part.confidence < below)
    pairs = tuple(dict.fromkeys((part.layer, part.phase) for part in unsure))
    found = selector.find(store, estimate.device.slug) if pairs else None
    if found is None:
        return []
    ranked = found.rank(pairs, estimate.settings, estimate.device)
    return [
        Task(layer=layer, phase=phase, algorithm=algorithm, settings=estimate.settings)
        for (layer, phase), preferences in zip(pairs, ranked, strict=True)
        for algorithm in dict.fromkeys((FRAMEWORK_DEFAULT, *preferences.likeliest(most)))
    ]


def layouts(strategy: Strategy, layout: str | None, precision: Precision, kind: Kind) -> tuple[Layout, ...]:
    """The layouts that come into question: the strategy's own for None, every one for `auto`."""
    if layout is None:
        return (strategy.layout(precision, kind),)
    return tuple(Layout) if layout == _ANY_LAYOUT else (Layout(layout),)


def estimate(
    model: Network | Path | str,
    *,
    device: str | None = None,
    store: str | None = None,
    batch_size: int | None = None,
    strategy: str = "latte",
    workspace_limit_bytes: int | None = None,
    memory_limit_bytes: int | None = None,
    precision: str = Precision.FP32,
    layout: str | None = None,
    threads: int | None = None,
    estimator: str = LOOKUP,
    optimizer: str = "sgd",
    loss: str = "cross-entropy",
    accumulate: int = 1,
    cuda_graph: bool = False,
    rest: Rest = Rest(),  # noqa: B008 - a frozen record
    checkpoint: str = NONE,
    compiled: bool = False,
    allow_unknown: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Estimate:
    """Estimate a training step of `model`, a file or a network, on a profiled `device` (default: this machine).

    The choices are those of `latte estimate`, by name; limits are in bytes, and `note` hears what takes a while. Raises
    LatteError for what is not there.
    """
    if isinstance(model, Network) and batch_size not in (None, model.batch_size):
        message = f"the network was read at batch {model.batch_size}, not {batch_size}"
        hint = "`load` reads a file at a `batch_size`, and a module at the batch of its example"
        raise LatteError(message, hint=hint, exit_code=ExitCode.USAGE)
    opened = open_store(store, skip=lambda error: note(f"left out: {error.message}; {error.hint}"))
    network = model if isinstance(model, Network) else load(model, batch_size=batch_size)
    return estimate_one(
        opened,
        resolve_profile(opened, device, threads),
        network,
        strategy=strategy,
        workspace_limit_bytes=workspace_limit_bytes,
        memory_limit_bytes=memory_limit_bytes,
        precision=precision,
        layout=layout,
        threads=threads,
        estimator=estimator,
        optimizer=optimizer,
        loss=loss,
        accumulate=accumulate,
        cuda_graph=cuda_graph,
        rest=rest,
        checkpoint=checkpoint,
        compiled=compiled,
        allow_unknown=allow_unknown,
        note=note,
    )


def check_names(
    precision: str, layout: str | None, strategy: str, optimizer: str, loss: str = "none", estimator: str = LOOKUP
) -> None:
    """Raise LatteError, with a near match, for an unknown name."""
    by_name(strategy)
    for what, name, known in (
        ("precision", precision, tuple(Precision)),
        ("layout", layout or Layout.NCHW, (*Layout, _ANY_LAYOUT)),
        ("optimizer", optimizer, tuple(OPTIMIZERS)),
        ("loss", loss, LOSSES),
        ("estimator", estimator, ESTIMATORS),
    ):
        if name not in known:
            raise unknown(what, name, known)
