"""Suites: sets of layers to measure, generated from distributions or read from networks, each in an order in which
every prefix covers the whole."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeAlias

from latte_cli.devices import Device, Kind
from latte_cli.errors import LatteError
from latte_cli.layers import (
    CHECKPOINTS,
    Activation,
    Attention,
    Concat,
    Convolution,
    Copy,
    Dropout,
    Elementwise,
    Embedding,
    Layer,
    Linear,
    MatMul,
    Norm,
    Optimizer,
    Pool,
    Recurrent,
    Reduce,
    Shape,
    Softmax,
    SoftmaxCrossEntropy,
)
from latte_cli.network import Network
from latte_cli.sweep import Depth, Wanted

_LARGEST_TENSOR = 2**31  # elements: more than signed 32 bits count
_UNKNOWN_PEAK_FLOP_PER_S = 1e12  # of a fast CPU
_UNKNOWN_MEMORY_BYTES = 2**30  # what nearly every machine has
_SIZES_OF_STANDARD_NETWORKS = {1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 16, 27, 28, 32, 55, 56, 64, 112, 224}
_WIDTHS_OF_STANDARD_NETWORKS = {84, 120, 256, 400, 512, 1000, 1280, 2048, 4096, 9216, 25088}


@dataclass(frozen=True, kw_only=True)
class LayerLimits:
    """What a drawn layer may need: FLOPs of one phase, bytes of all its tensors together."""

    flops: float
    tensor_bytes: float


def limits_of(device: Device, memory_share: float) -> LayerLimits:
    """What a drawn layer may need on a device, of whose memory it may take a share."""
    return LayerLimits(
        flops=device.kind.call_limit_s * (device.peak_flop_per_s or _UNKNOWN_PEAK_FLOP_PER_S),
        tensor_bytes=memory_share * (device.memory_bytes or _UNKNOWN_MEMORY_BYTES),
    )


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A suite and the number of draws that were rejected on the way."""

    wanted: tuple[Wanted, ...]
    rejected: int = 0


class _Draw:
    """One point of a low-discrepancy sequence, spent coordinate by coordinate."""

    def __init__(self, point: Sequence[float]) -> None:
        self._left = iter(point)

    def unit(self) -> float:
        return next(self._left)

    def log(self, low: int, high: int) -> int:
        """Log-uniform between `low` and `high`, both included."""
        return min(high, int(low * ((high + 1) / low) ** self.unit()))

    def pick(self, *weighted: tuple[float, object]) -> object:
        at = self.unit() * sum(weight for weight, _ in weighted)
        for weight, value in weighted:
            at -= weight
            if at < 0:
                return value
        return weighted[-1][1]

    def channels(self, low: int = 8, high: int = 1024) -> int:
        """Log-uniform and, as in most networks, a multiple of 8 (rarely any number)."""
        number = self.log(low, high)
        return number if self.unit() < 0.1 else max(8, round(number / 8) * 8)

    def channels_of(self, size: int, most: int = 2048) -> int:
        """Channels that suit a spatial size: networks narrow as they widen, channels x size is 400 to 16,000."""
        return self.channels(max(8, min(most // 2, 400 // size)), max(16, min(most, 16_000 // size)))

    def size(self, low: int = 9, high: int = 230) -> int:
        """A spatial size that the standard networks do not have, so that they stay unseen."""
        size = self.log(low, high)
        while size in _SIZES_OF_STANDARD_NETWORKS:
            size += 1
        return size


def _points(seed: int, dimensions: int = 12) -> Iterator[list[float]]:
    from scipy.stats.qmc import Halton

    source = Halton(dimensions, seed=seed)
    while True:
        yield from source.random(256).tolist()


_Maker: TypeAlias = Callable[[_Draw], Layer]


def _convolution(draw: _Draw, *, kernel: int, rank: int = 2, transposed: bool = False) -> Layer:
    """A convolution as networks have them: `same` padding mostly, now and then grouped, dilated or without padding."""
    batch, size = draw.log(1, 64), draw.size(9, 230 if rank < 3 else 40)
    wide = draw.channels_of(size ** (2 if rank == 3 else 1), 1024 if kernel > 1 else 2048)
    out = max(4, min(2048, 8 * round(wide * 4 ** (2 * draw.unit() - 1) / 8)))
    stride = 2 if transposed or draw.unit() < (0.2 if kernel > 1 else 0.12) else 1
    variant = draw.unit()
    groups = math.gcd(math.gcd(wide, out), 8) if variant < 0.06 and kernel > 1 else 1
    dilation = 2 if 0.06 <= variant < 0.1 and kernel > 1 and not transposed else 1
    pad = 0 if variant > 0.94 and size > kernel else dilation * (kernel - 1) // 2
    size = size if rank != 1 else size * 16
    return Convolution(
        batch=batch,
        in_channels=wide,
        out_channels=out,
        groups=groups,
        input=(size,) * rank,
        kernel=(kernel,) * rank,
        stride=(stride,) * rank,
        dilation=(dilation,) * rank,
        pad_before=(pad,) * rank,
        pad_after=(pad,) * rank,
        transposed=transposed,
        output_padding=(stride - 1 if transposed and kernel % 2 else 0,) * rank,
        bias=draw.unit() < 0.3,
    )


def _stem(draw: _Draw) -> Layer:
    """The first convolution of a network: three channels in, a large kernel or stride."""
    kernel, batch, size = int(str(draw.pick((5, 3), (2, 5), (3, 7), (2, 11)))), draw.log(1, 64), draw.size(30, 260)
    stride = {3: 1 + round(draw.unit()), 5: 1, 7: 2, 11: 4}[kernel]
    pad, bias = kernel // 2, draw.unit() < 0.5
    wide = max(8, 8 * round(draw.log(16, 96) / 8))
    return Convolution(
        batch=batch, in_channels=3, out_channels=wide, input=(size, size), kernel=(kernel, kernel),
        stride=(stride, stride), pad_before=(pad, pad), pad_after=(pad, pad), bias=bias,
    )  # fmt: skip


def _depthwise(draw: _Draw) -> Layer:
    batch, size = draw.log(1, 64), draw.size(9, 160)
    wide = draw.channels_of(size, 1024)
    kernel, stride = int(str(draw.pick((4, 3), (1, 5)))), 1 + (draw.unit() < 0.3)
    pad = (kernel // 2, kernel // 2)
    return Convolution(
        batch=batch, in_channels=wide, out_channels=wide, groups=wide, input=(size, size), kernel=(kernel, kernel),
        stride=(stride, stride), pad_before=pad, pad_after=pad, bias=draw.unit() < 0.1,
    )  # fmt: skip


def _plane(draw: _Draw) -> Shape:
    """The shape of an activation between the layers of a network."""
    batch, size = draw.log(1, 64), draw.size()
    return (batch, draw.channels_of(size), size, size)


def _rows(draw: _Draw, classes: int = 2048) -> tuple[int, int]:
    return (draw.log(4, 4096), draw.channels(12, classes))


def _norm(draw: _Draw) -> Layer:
    function = str(draw.pick((14, "batch"), (2, "group"), (3, "layer"), (1, "instance"), (1, "lrn"), (1, "rms")))
    if function in ("layer", "rms"):
        return Norm(function=function, shape=_rows(draw))
    shape = _plane(draw)
    span = {"group": math.gcd(shape[1], 32), "lrn": 5}.get(function, 1)
    return Norm(function=function, shape=shape, span=span, affine=function != "lrn")


def _activation(draw: _Draw) -> Layer:
    functions = ((12, "relu"), (5, "relu6"), (1, "leaky_relu"), (1, "gelu"), (1, "silu"), (1, "sigmoid"), (1, "tanh"))
    function = str(draw.pick(*functions, (1, "hard_swish"), (1, "elu")))
    return Activation(function=function, shape=_rows(draw, 8192) if draw.unit() < 0.15 else _plane(draw))


def _pool(draw: _Draw) -> Layer:
    function = str(draw.pick((1, "max"), (1, "average")))
    kernel = int(str(draw.pick((3, 2), (3, 3), (1, 0))))
    batch, channels, size, _ = _plane(draw)
    if kernel == 0:
        return Pool(function="average", batch=batch, channels=channels, input=(9, 9), kernel=(9, 9))
    pad = (kernel // 2,) * 2 if kernel == 3 else ()
    stride = (1, 1) if kernel == 3 and draw.unit() < 0.3 else (2, 2)
    return Pool(
        function=function, batch=batch, channels=channels, input=(size, size), kernel=(kernel, kernel),
        stride=stride, pad_before=pad, pad_after=pad,
    )  # fmt: skip


def _linear(draw: _Draw) -> Layer:
    rows, wide, out = draw.log(1, 512), draw.channels(24, 30_000), draw.channels(12, 8192)
    if wide in _WIDTHS_OF_STANDARD_NETWORKS:
        wide += 8
    return Linear(rows=rows, in_features=wide, out_features=out, bias=draw.unit() < 0.8)


def _matmul(draw: _Draw) -> Layer:
    m, k, n = draw.size(16, 512), draw.channels(16, 128), draw.size(16, 512)
    return MatMul(batch=draw.log(1, 256), m=m, k=k, n=n)


def _attention(draw: _Draw) -> Layer:
    batch, heads, width, steps = draw.log(1, 32), draw.log(1, 16), 8 * draw.log(2, 16), draw.size(16, 512)
    shared = heads // 2 if heads % 2 == 0 and draw.unit() < 0.2 else heads
    return Attention(
        batch=batch,
        heads=heads,
        key_heads=shared,
        queries=steps,
        keys=steps,
        width=width,
        value_width=width,
        causal=draw.unit() < 0.5,
    )


def _recurrent(draw: _Draw) -> Layer:
    return Recurrent(
        function=str(draw.pick((4, "lstm"), (2, "gru"), (1, "rnn"))),
        steps=draw.size(9, 200),
        batch=draw.log(1, 64),
        inputs=draw.channels(16, 512),
        hidden=draw.channels(16, 512),
        directions=1 + (draw.unit() < 0.4),
    )


def _draw_embedding(draw: _Draw) -> Layer:
    return Embedding(rows=draw.log(8, 16_384), entries=draw.log(100, 60_000), width=draw.channels(16, 1024))


def _elementwise(draw: _Draw) -> Layer:
    operation, gate, shape = str(draw.pick((6, "add"), (2, "multiply"))), draw.unit() < 0.15, _plane(draw)
    return Elementwise(operation=operation, shapes=(shape, (*shape[:2], 1, 1) if gate else shape))


def _concat(draw: _Draw) -> Layer:
    batch, channels, *spatial = _plane(draw)
    second = max(8, round(channels * draw.unit()))
    return Concat(shapes=((batch, channels, *spatial), (batch, second, *spatial)))


def _rearrangement(draw: _Draw) -> Layer:
    batch, channels, height, width = _plane(draw)
    order = (0, 2, 3, 1)
    return Copy(
        operation="transpose",
        shape=(batch, channels, height, width),
        output=(batch, height, width, channels),
        order=order,
    )


def _softmax(draw: _Draw) -> Layer:
    return Softmax(shape=_scores(draw))


def _loss(draw: _Draw) -> Layer:
    rows, classes = _scores(draw)
    return SoftmaxCrossEntropy(rows=rows, classes=classes)


def _scores(draw: _Draw) -> tuple[int, int]:
    rows, classes = _rows(draw)
    return rows, classes + 8 * (classes in _WIDTHS_OF_STANDARD_NETWORKS)


def _reduce(draw: _Draw) -> Layer:
    return Reduce(operation="mean", shape=_plane(draw), axes=(2, 3), keep=draw.unit() < 0.5)


def _dropout(draw: _Draw) -> Layer:
    return Dropout(shape=_rows(draw, 8192))


def _optimizer(draw: _Draw) -> Layer:
    function = str(draw.pick((2, "sgd"), (1, "momentum"), (2, "adam"), (1, "adamw")))
    tensors = draw.log(2, 200)
    return Optimizer(function=function, tensors=tensors, elements=max(tensors, draw.log(3000, 150_000_000)))


_CONVOLUTIONS: tuple[tuple[float, _Maker], ...] = (
    (36, partial(_convolution, kernel=3)),
    (30, partial(_convolution, kernel=1)),
    (5, partial(_convolution, kernel=5)),
    (2, partial(_convolution, kernel=7)),
    (8, _stem),
    (12, _depthwise),
    (2, partial(_convolution, kernel=3, rank=1)),
    (2, partial(_convolution, kernel=3, rank=3)),
    (2, partial(_convolution, kernel=4, transposed=True)),
    (1, partial(_convolution, kernel=3, transposed=True)),
)
_OTHERS: tuple[tuple[float, _Maker], ...] = (
    (20, _norm),
    (20, _activation),
    (14, _pool),
    (14, _linear),
    (12, _elementwise),
    (5, _concat),
    (3, _matmul),
    (3, _rearrangement),
    (2, _softmax),
    (2, _loss),
    (2, _reduce),
    (2, _dropout),
    (6, _optimizer),
    (3, _attention),
    (2, _recurrent),
    (2, _draw_embedding),
)


def fits_limits(layer: Layer, limits: LayerLimits) -> bool:
    """Whether every tensor can be indexed with 32 bits and the layer stays within `limits`."""
    shapes = (*layer.input_shapes, *layer.parameter_shapes, layer.output_shape)
    sizes = [math.prod(shape) for shape in shapes]
    # Gradients double what a layer holds.
    inside = max(sizes) < _LARGEST_TENSOR and 4 * 2 * sum(sizes) <= limits.tensor_bytes
    return inside and max(layer.flops(phase) for phase in layer.phases) <= limits.flops


def _draw_layers(
    makers: tuple[tuple[float, _Maker], ...], count: int, seed: int, limits: LayerLimits
) -> tuple[list[Layer], int]:
    """Distinct layers within `limits`, the first of them one of each sort."""
    layers: dict[Layer, None] = {}
    rejected = 0
    for point in islice(_points(seed), 100 * count + 1000):
        if len(layers) >= count:
            break
        draw = _Draw(point)
        maker = draw.pick(*makers) if len(layers) >= len(makers) else makers[len(layers)][1]
        try:
            layer = maker(draw)  # type: ignore[operator]
        except LatteError:  # a kernel larger than its input
            rejected += 1
            continue
        if fits_limits(layer, limits):
            layers[layer] = None
        else:
            rejected += 1
    return list(layers), rejected


def _mix(convolutions: int, others: int, seed: int, limits: LayerLimits, *, usual: int, deep: int) -> Drawn:
    """Convolutions, one in `usual` with its alternatives and one in `deep` with all, others evenly between them."""
    first, lost = _draw_layers(_CONVOLUTIONS, convolutions, seed, limits)
    second, lost_too = _draw_layers(_OTHERS, others, seed + 1, limits)
    placed = [
        (index / len(first), Wanted(layer=layer, depth=_depth(index, usual, deep))) for index, layer in enumerate(first)
    ]
    placed += [(index / len(second), Wanted(layer=layer)) for index, layer in enumerate(second)]
    return Drawn(wanted=tuple(item for _, item in sorted(placed, key=lambda pair: pair[0])), rejected=lost + lost_too)


def _depth(index: int, usual: int, deep: int) -> Depth:
    if index % deep == 0:
        return Depth.ALL
    return Depth.USUAL if index % usual == 0 else Depth.DEFAULT


def _within(limits: LayerLimits, flops: float, tensor_bytes: float) -> LayerLimits:
    return LayerLimits(flops=min(limits.flops, flops), tensor_bytes=min(limits.tensor_bytes, tensor_bytes))


def yardstick(seed: int, limits: LayerLimits) -> Drawn:
    """Some seconds' worth: one of each sort of convolution and of each kind of layer, small, as the framework runs it.

    It tells how far a machine is from one whose model is known.
    """
    few, small = (len(_CONVOLUTIONS), len(_OTHERS)), _within(limits, 2e8, 4e7)  # chosen: calls of some milliseconds
    drawn = _mix(*few, seed, small, usual=1, deep=1)
    return replace(drawn, wanted=tuple(replace(item, depth=Depth.DEFAULT) for item in drawn.wanted))


def quick(seed: int, limits: LayerLimits) -> Drawn:
    """Two minutes' worth: every kind of layer, a third of the convolutions with their alternatives."""
    return _mix(150, 150, seed, _within(limits, 4e9, 4e8), usual=3, deep=50)


def standard(seed: int, limits: LayerLimits) -> Drawn:
    """Fifteen minutes' worth: every kind of layer and phase, a quarter of the convolutions with their alternatives."""
    return _mix(900, 800, seed, _within(limits, 12e9, 2.6e9), usual=4, deep=64)


def convolutions(seed: int, limits: LayerLimits, *, configs: int) -> Drawn:
    """What a selector learns from: the convolutions that networks have, each with its alternatives."""
    layers, rejected = _draw_layers(_CONVOLUTIONS, configs, seed, _within(limits, 4e9, 4e8))
    return Drawn(wanted=tuple(Wanted(layer=layer) for layer in layers), rejected=rejected)


def paper(seed: int, limits: LayerLimits, *, configs: int) -> Drawn:
    """The LATTE paper's space, log-uniformly: N 4-64, H = W 32-512, K 16-1024, R = S 1-7, stride 1-2; with C 3-1024
    and groups."""

    def layer(draw: _Draw) -> Layer:
        batch, size, wide, out = draw.log(4, 64), draw.log(32, 512), draw.log(3, 1024), draw.log(16, 1024)
        kernel, stride, pad = draw.log(1, 7), draw.log(1, 2), round(draw.unit())
        groups = math.gcd(wide, out) if draw.unit() < 0.1 else 1
        pads = (pad * (kernel // 2),) * 2
        return Convolution(
            batch=batch, in_channels=wide, out_channels=out, groups=groups, input=(size, size),
            kernel=(kernel, kernel), stride=(stride, stride), pad_before=pads, pad_after=pads,
        )  # fmt: skip

    layers, rejected = _draw_layers(((1.0, layer),), configs, seed, limits)
    return Drawn(wanted=tuple(Wanted(layer=item, depth=Depth.ALL) for item in layers), rejected=rejected)


def deepbench(limits: LayerLimits) -> Drawn:
    """The convolutions of Baidu's DeepBench training benchmark."""
    from latte_cli.deepbench import CONVOLUTIONS

    kept = tuple(Wanted(layer=layer, depth=Depth.ALL) for layer in CONVOLUTIONS if fits_limits(layer, limits))
    return Drawn(wanted=kept, rejected=len(CONVOLUTIONS) - len(kept))


def with_calibration(drawn: Drawn, kind: Kind, *, first: bool = True, count: int | None = None) -> Drawn:
    """`drawn` with `count` networks (all) to be run whole, and their layers: `first`, or after all others.

    Which networks they are depends on the `kind` of device.
    """
    from latte_cli.network.calibration import calibration_networks

    whole: dict[Layer, Wanted] = {}
    for one, network in calibration_networks(kind)[:count]:
        for layer in (one, *(item.layer for item in networks([network], optimizers=("sgd",)).wanted)):
            whole[layer] = Wanted(layer=layer, depth=Depth.DEFAULT)
    own = {item.layer for item in drawn.wanted}
    more = tuple(item for item in whole.values() if item.layer not in own)
    return replace(drawn, wanted=(*more, *drawn.wanted) if first else (*drawn.wanted, *more))


def networks(models: Iterable[Network], *, optimizers: Sequence[str] = ("sgd", "adam")) -> Drawn:
    """Every layer of `models` once, what their phases are timed as, their losses, updates and batches' copies.

    The calls of `torch.utils.checkpoint` come first: they take a moment, whatever is left of the budget. What costs
    nothing is left out. `optimizers` may name operations on all parameters too.
    """
    wanted: dict[Layer, Wanted] = {layer: Wanted(layer=layer) for layer in CHECKPOINTS}
    for network in models:
        updates = list(network.updates(optimizers)) if network.trained_sizes else []
        timed = [node.layer.measured_as(phase)[0] for node in network.nodes for phase in network.phases(node)]
        for layer in (*network.layers, *timed, network.loss(), *updates, network.transfer()):
            if not layer.free:
                wanted[layer] = Wanted(layer=layer)
    return Drawn(wanted=tuple(wanted.values()))
