"""Deciding: which layout and which algorithms make a step of a network shorter than as PyTorch runs it by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from latte_cli.algorithms import corrupts_heap
from latte_cli.devices import Kind
from latte_cli.estimator import DoesNotFit, Estimate, Estimator, LayerTime, Limits, Step
from latte_cli.layers import Convolution
from latte_cli.lookup import NotProfiled, Pair
from latte_cli.network import Network
from latte_cli.precisions import Layout, Precision
from latte_cli.runtime.choices import Binding, Choices, Key
from latte_cli.store import Store
from latte_cli.strategies import by_name

LEAST_GAIN = 0.03
"""The share of a step that has to be won for a module to be touched at all: estimates are no surer than that."""

_DEFAULT = "pytorch"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What to decide by: the `strategy` that chooses, arithmetic, the CPU's threads, and limits.

    `wrapper_s` is what it costs to call a convolution through a wrapper, forward and backward. A `layout` is taken as
    given; None leaves it to be chosen. `checkpoint` says that parts may run again in the backward pass, those that cost
    least, where a step does not fit the limit of memory otherwise.
    """

    strategy: str = "latte"
    precision: Precision = Precision.FP32
    threads: int | None = None
    limits: Limits = Limits()
    wrapper_s: float = 0.0
    layout: Layout | None = None
    optimizer: str = "sgd"
    checkpoint: bool = False


def decide(store: Store, slug: str, network: Network, wish: Wish) -> Choices:
    """The candidate with the shortest step, or nothing where none is at least LEAST_GAIN shorter than the default.

    Raises LatteError where the device has no rows in the default layout, or lacks what a layer can be priced with.
    """
    default, *others = ways_to_run(store, slug, network, wish)
    best = min((each for each in others if each.chosen_s), key=lambda each: each.chosen_s or 0.0, default=default)
    default_s, best_s = default.default_s or 0.0, best.chosen_s or 0.0
    if best_s < (1 - LEAST_GAIN) * default_s:
        return best
    less = f"nothing is expected to make a step {LEAST_GAIN:.0%} shorter than PyTorch's own"
    return replace(default, reasons=(*default.reasons, less))


def ways_to_run(store: Store, slug: str, network: Network, wish: Wish) -> list[Choices]:
    """Ways to run `network`: as it is, then each layout alone and with its bindings, where that changes anything.

    A layout that the device has no rows in comes without times. Raises LatteError as `decide` does.
    """
    given = wish.layout or Layout.NCHW
    layouts = (given,) if wish.layout else (given, *(each for each in Layout if each is not given))
    danger = unsafe(network, store.device(slug).kind)
    if danger and given is Layout.NCHW:
        layouts = (given,)
    estimates: dict[Layout, tuple[Estimate, Estimate]] = {}
    reasons: list[str] = [danger] if danger else []
    unpriced: list[Layout] = []
    for layout in layouts:
        try:
            estimates[layout] = _estimates(store, slug, network, wish, layout)
        except NotProfiled:
            if layout is given:
                raise
            unpriced.append(layout)
            reasons.append(f"`{slug}` has no rows in {layout}: `latte profile MODEL --layout {layout}` adds them")
        except DoesNotFit:
            if layout is given:
                raise
    default = estimates[given][0]
    reasons += [warning.message for warning in default.warnings if warning.code == "checkpoint_calls"]
    start = Choices(
        key=_key(slug, default, wish),
        strategy=wish.strategy,
        checkpoints=_checkpoints(default),
        default_s=default.step_s,
        layout_s=default.step_s,
        chosen_s=default.step_s,
        reasons=tuple(reasons),
    )
    found = [start]
    for layout, (plain, chosen) in estimates.items():
        changed = None if layout is given else layout
        bindings, saved_s, kept = _bindings(plain, chosen, wish.wrapper_s)
        alone = replace(
            start, layout=changed, checkpoints=_checkpoints(plain), layout_s=plain.step_s, chosen_s=plain.step_s
        )
        if changed:
            found.append(alone)
        if bindings:
            found.append(
                replace(alone, bindings=bindings, chosen_s=plain.step_s - saved_s, reasons=(*alone.reasons, *kept))
            )
    return [*found, *(replace(start, layout=layout, layout_s=None, chosen_s=None) for layout in unpriced)]


def unsafe(network: Network, kind: Kind) -> str:
    """Why `network` must not run in channels_last on a device of `kind`; nothing where it may."""
    found = (node.name for node in network.nodes if isinstance(node.layer, Convolution) and corrupts_heap(node.layer))
    name = next(found, "") if not kind.own_memory else ""
    return f"in channels_last PyTorch's own operator would write past its buffers at `{name}`" if name else ""


def _estimates(store: Store, slug: str, network: Network, wish: Wish, layout: Layout) -> tuple[Estimate, Estimate]:
    """The step as PyTorch runs it in that layout, and with what the strategy takes."""
    estimator = Estimator(store, slug, precision=wish.precision, layout=layout, threads=wish.threads)
    names = (_DEFAULT, wish.strategy)
    step = Step(optimizer=wish.optimizer)
    if wish.checkpoint:
        step = estimator.with_checkpoints(network, step, by_name(_DEFAULT), wish.limits)
    plain, chosen = estimator.variants(
        network, step, strategies=[by_name(name) for name in names], limits=(wish.limits,)
    )
    return plain, chosen


def _checkpoints(estimate: Estimate) -> tuple[str, ...]:
    return tuple(region.name for region in estimate.step.checkpoints)


def _key(slug: str, estimate: Estimate, wish: Wish) -> Key:
    settings = estimate.settings
    return Key(
        device=slug,
        kind=estimate.device.kind,
        threads=settings.threads,
        library_versions=tuple(sorted(settings.library_versions)),
        precision=wish.precision,
        workspace_limit_bytes=wish.limits.workspace_bytes,
        memory_limit_bytes=wish.limits.memory_bytes,
    )


def _bindings(
    plain: Estimate, chosen: Estimate, wrapper_s: float
) -> tuple[tuple[Binding, ...], float, tuple[str, ...]]:
    """What to bind, the seconds of a step that it saves, and why convolutions with a faster algorithm are left alone.

    All phases of a convolution share the wrapper's cost. Where layers of the same shape would run with different
    algorithms, as under a limit of memory, the one with the least workspace is taken.
    """
    found: dict[Pair, tuple[LayerTime, float]] = {}
    saved_s, left = 0.0, 0
    for calls in _by_node(plain, chosen):
        gains = [(new, old.device_s - new.device_s) for old, new in calls if new.algorithm != old.algorithm]
        better = [(new, gain_s) for new, gain_s in gains if gain_s > 0]
        total_s = sum(gain_s for _, gain_s in better) - wrapper_s
        if not better:
            continue
        if total_s <= 0:
            left += 1
            continue
        saved_s += total_s
        for new, gain_s in better:
            other = found.get((new.layer, new.phase))
            if other is None or (new.workspace_bytes or 0) < (other[0].workspace_bytes or 0):
                found[new.layer, new.phase] = new, gain_s
    bindings = tuple(
        Binding(layer=new.layer, phase=new.phase, algorithm=new.algorithm, gain_s=gain_s)
        for new, gain_s in found.values()
        if isinstance(new.layer, Convolution)
    )
    kept = (f"{left} convolutions would win less than a wrapper costs ({1e6 * wrapper_s:.0f} us)",) if left else ()
    return bindings, saved_s, kept


def _by_node(plain: Estimate, chosen: Estimate) -> Iterator[Sequence[tuple[LayerTime, LayerTime]]]:
    """The calls of each convolution as both estimates have them."""
    calls: dict[str, list[tuple[LayerTime, LayerTime]]] = {}
    for old, new in zip(plain.parts, chosen.parts, strict=True):
        if isinstance(old.layer, Convolution) and not old.again:
            calls.setdefault(old.name, []).append((old, new))
    yield from calls.values()
