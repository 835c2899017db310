"""Device summaries: what a device's rows show of it, such as which algorithm wins where and how much that matters."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log2
from statistics import geometric_mean, median

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import Device
from latte_cli.layers import Convolution, Phase
from latte_cli.lookup import Lookup, Timing
from latte_cli.precisions import Layout, Precision
from latte_cli.store import Store

CHANNELS = (8, 16, 32, 64, 128, 256, 512, 1024)  # powers of two, as networks are made
SIZES = (8, 16, 32, 64, 128, 256)  # powers of two, as networks are made
"""Upper ends of the bins of channels (the geometric mean of in and out) and of input sizes; the last is open."""


@dataclass(frozen=True, kw_only=True)
class LayerBin:
    """Layers of one sort: which algorithm is fastest most often (`share` of `layers`), and what the best gain.

    `gain` is the geometric mean of the framework's own time over the best; None where that was not timed. Bins are
    indices in CHANNELS and SIZES.
    """

    kernel: str
    phase: Phase
    channels: int
    size: int
    algorithm: Algorithm
    share: float
    layers: int
    gain: float | None


@dataclass(frozen=True, kw_only=True)
class RooflinePoint:
    """What one convolution's fastest algorithm reaches: FLOP per byte that has to be moved, and FLOP per second."""

    phase: Phase
    flop_per_byte: float
    flop_per_s: float


@dataclass(frozen=True, kw_only=True)
class DeviceSummary:
    """A device under one precision, layout and number of threads: its convolutions, `pairs` layers and phases of them.

    `gains` are the framework's own times over the best, for every pair that has both, by phase; `spreads` how far the
    samples of one call are apart, as (95 % upper end / median - 1).
    """

    device: Device
    precision: Precision
    layout: Layout
    threads: int
    pairs: int
    cells: tuple[LayerBin, ...]
    reached: tuple[RooflinePoint, ...]
    gains: tuple[tuple[Phase, tuple[float, ...]], ...]
    spreads: tuple[float, ...]

    @property
    def above_roof(self) -> bool:
        """Whether convolutions were faster than that by a tenth."""
        peak = self.device.peak_in(self.precision)
        return peak is not None and any(each.flop_per_s > 1.1 * peak for each in self.reached)


def device_summaries(store: Store, slug: str) -> list[DeviceSummary]:
    """A summary for each precision, layout and number of threads that the device was profiled in, largest first."""
    device = store.device(slug)
    timings = Lookup(store, slug, precision=Precision.FP32, layout=Layout.NCHW).everything()
    groups: defaultdict[tuple[Precision, Layout, int], list[Timing]] = defaultdict(list)
    for timing in timings:
        if isinstance(timing.task.layer, Convolution):
            settings = timing.task.settings
            groups[settings.precision, settings.layout, settings.threads].append(timing)
    found = [device_summary(device, own, *key) for key, own in groups.items()]
    return sorted(found, key=lambda each: -each.pairs)


def device_summary(
    device: Device, timings: Iterable[Timing], precision: Precision, layout: Layout, threads: int
) -> DeviceSummary:
    """The summary of `device` by timings of convolutions that share their settings."""
    pairs: defaultdict[tuple[Convolution, Phase], list[Timing]] = defaultdict(list)
    for timing in timings:
        if isinstance(timing.task.layer, Convolution):
            pairs[timing.task.layer, timing.task.phase].append(timing)
    gains: defaultdict[Phase, list[float]] = defaultdict(list)
    for (_, phase), own in pairs.items():
        if (gain := _gain(own)) and len(own) > 1:
            gains[phase].append(gain)
    return DeviceSummary(
        device=device,
        precision=precision,
        layout=layout,
        threads=threads,
        pairs=len(pairs),
        cells=tuple(_cells(pairs.items())),
        reached=tuple(_roofline_point(layer, phase, own, precision) for (layer, phase), own in pairs.items()),
        gains=tuple((phase, tuple(gains[phase])) for phase in Convolution.phases if gains[phase]),
        spreads=tuple(timing.high_s / timing.device_s - 1 for own in pairs.values() for timing in own),
    )


def _best(timings: Sequence[Timing]) -> Timing:
    return min(timings, key=lambda timing: timing.device_s)


def _gain(timings: Sequence[Timing]) -> float | None:
    own = next((timing for timing in timings if timing.task.algorithm == FRAMEWORK_DEFAULT), None)
    return own.device_s / _best(timings).device_s if own else None


def _cells(pairs: Iterable[tuple[tuple[Convolution, Phase], Sequence[Timing]]]) -> Iterator[LayerBin]:
    bins: defaultdict[tuple[str, Phase, int, int], list[Sequence[Timing]]] = defaultdict(list)
    for (layer, phase), timings in pairs:
        if len(layer.input) == 2 and not layer.transposed:
            bins[kernel(layer), phase, _bin(_channels(layer), CHANNELS), _bin(max(layer.input), SIZES)].append(timings)
    for (name, phase, channels, size), found in bins.items():
        winners = Counter(_best(timings).task.algorithm for timings in found)
        algorithm, count = winners.most_common(1)[0]
        gains = [gain for timings in found if (gain := _gain(timings))]
        yield LayerBin(
            kernel=name,
            phase=phase,
            channels=channels,
            size=size,
            algorithm=algorithm,
            share=count / len(found),
            layers=len(found),
            gain=geometric_mean(gains) if gains else None,
        )


def kernel(layer: Convolution) -> str:
    """How layers are grouped: by kernel, depthwise and strided ones apart."""
    name = "x".join(map(str, layer.kernel))
    more = [word for word, holds in (("depthwise", layer.depthwise), ("strided", max(layer.stride) > 1)) if holds]
    return " ".join([name, *more])


def _channels(layer: Convolution) -> float:
    return float((layer.in_channels * layer.out_channels) ** 0.5)


def _bin(value: float, ends: Sequence[int]) -> int:
    return min(max(0, ceil(log2(value)) - int(log2(ends[0]))), len(ends) - 1)


def _roofline_point(layer: Convolution, phase: Phase, timings: Sequence[Timing], precision: Precision) -> RooflinePoint:
    flops, moved = layer.flops(phase), layer.bytes_moved(phase, precision.element_bytes)
    return RooflinePoint(
        phase=phase, flop_per_byte=flops / moved if moved else 0.0, flop_per_s=flops / _best(timings).device_s
    )


def typical_spread(found: DeviceSummary) -> float:
    """The median of the spreads."""
    return median(found.spreads) if found.spreads else 0.0
