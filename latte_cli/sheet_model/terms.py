"""Terms: what a call's time depends on, as names of parameters, each with its prior."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log, prod
from typing import TypeAlias

from latte_cli.layers import Attention, Concat, Convolution, Layer, Linear, MatMul, Phase, Recurrent
from latte_cli.sheet_model.inner_products import inner_product

ParameterPrior: TypeAlias = tuple[float, float]
"""The mean of a parameter and its standard deviation; parameters are logarithms."""

_MEMORY = ("norm", "activation", "dropout", "pool", "elementwise", "concat", "softmax", "reduce", "copy", "update")
_AS_MEMORY = {"cross_entropy": "softmax", "optimizer": "update", "embedding": "copy", "transfer": "copy"}

_PASSES = {("norm", "forward"): 3 / 2, ("norm", "backward"): 5 / 3, ("elementwise", "backward"): 3 / 5}
"""What kernels move for each element that a call is counted to move once: a norm reads its input twice, and both its
input and its gradient twice on the way back. Both gradients of a sum are its own, and one addition joins them."""

_FEW_CHANNELS = 4  # chosen: an image's, which fill no tile of a matrix product

_MANY_GROUPS = 8  # chosen: fewer run as so many dense convolutions (cuDNN), more in separate kernels

PRIORS: Mapping[str, ParameterPrior] = {
    # Shares of the peak that a large product reaches.
    "vector pointwise": (log(0.6), 0.3),
    "vector 3x3": (log(0.6), 0.3),
    "vector window": (log(0.6), 0.3),
    "vector first": (log(0.4), 0.3),
    "vector grouped": (log(0.2), 0.4),
    "vector depthwise": (log(0.08), 0.5),
    "vector linear": (log(0.6), 0.3),
    "vector matmul": (log(0.5), 0.3),
    "matrix pointwise": (log(0.4), 0.4),
    "matrix 3x3": (log(0.45), 0.4),
    "matrix window": (log(0.4), 0.4),
    "matrix first": (log(0.1), 0.5),
    "matrix grouped": (log(0.08), 0.5),
    "matrix depthwise": (log(0.01), 0.5),
    "matrix linear": (log(0.5), 0.4),
    "matrix matmul": (log(0.4), 0.4),
    # Winograd's transforms cost besides the products.
    "winograd 2": (log(0.7), 0.3),
    "winograd 4": (log(0.7), 0.3),
    "cpu pointwise": (log(0.5), 0.4),
    "cpu 3x3": (log(0.5), 0.4),
    "cpu window": (log(0.4), 0.4),
    "cpu first": (log(0.3), 0.4),
    "cpu grouped": (log(0.15), 0.5),
    "cpu depthwise": (log(0.08), 0.5),
    "cpu linear": (log(0.4), 0.4),
    "cpu matmul": (log(0.4), 0.4),
    # What depends on the generation: learned where there are rows, else what is known of its units.
    "vector on ampere-geforce": (-0.25, 0.25),  # half of its lanes are shared with integers (GA102 whitepaper)
    "vector on ada": (-0.25, 0.25),
    "vector on blackwell-geforce": (-0.25, 0.25),
    "vector on gcn": (-0.4, 0.3),
    "vector on cdna": (-0.4, 0.3),
    "vector on rdna": (-0.4, 0.3),
    "vector on rdna-dual": (-0.9, 0.3),  # its peak counts two operations a lane and cycle (RDNA 3's guide)
    "vector on apple": (-0.4, 0.3),
    "vector on xe": (-0.5, 0.3),
    "matrix on cdna": (-0.5, 0.3),
    "matrix on rdna": (-0.5, 0.3),
    # Shares of the bandwidth, of the bytes that a call at least moves.
    "bandwidth products": (log(0.6), 0.25),
    "bandwidth memory": (log(0.75), 0.2),
    "bandwidth on cpu": (-0.3, 0.3),
    # Sizes that reach half of it: numbers of the result for each unit, of its columns, and those summed up.
    "vector outputs": (log(2000), 0.7),
    "vector columns": (log(12), 0.7),
    "vector depth": (log(24), 0.7),
    "cpu outputs": (log(2000), 0.7),
    "cpu columns": (log(8), 0.7),
    "cpu depth": (log(16), 0.7),
    "matrix outputs": (log(4000), 0.7),
    "matrix columns": (log(24), 0.7),
    "matrix depth": (log(64), 0.7),
    # Seconds that a call takes on the device whatever its size.
    "gap products": (log(6e-6), 0.5),
    "gap memory": (log(2.5e-6), 0.4),
    "gap on cpu": (log(4.0), 0.5),
    # Seconds of the host for each call.
    "host products forward": (log(18e-6), 0.4),
    "host products backward": (log(18e-6), 0.4),
    "host norm forward": (log(20e-6), 0.4),
    "host norm backward": (log(20e-6), 0.4),
    "host memory forward": (log(10e-6), 0.4),
    "host memory backward": (log(14e-6), 0.4),
    "host update": (log(8e-6), 0.4),
    "library lua": (-1.0, 0.4),  # Lua Torch without cuDNN unfolds images
    "sharpness": (log(2.0), 0.1),  # 1 would add up computing and moving, which kernels overlap
    "power": (-0.5, 0.3),  # of the excess of power: clocks go with its cube root, and with all of it at least voltage
    "clock": (1.0, 0.2),  # of the headroom, which computing has in full
}
"""Priors by name; what is not here has that of its kind in `prior`."""

_SPREADS = (
    ("library ", 0.25),
    ("vector depthwise ", 0.5),
    ("vector grouped ", 0.4),
    ("gap ", 0.3),
    ("memory ", 0.3),
    ("bandwidth on", 0.15),
    ("bandwidth ", 0.4),
    ("host ", 0.3),
)  # chosen, as all these priors


def prior(name: str) -> ParameterPrior:
    """The prior of a parameter; a deviation from others is about zero."""
    if name in PRIORS:
        return PRIORS[name]
    return 0.0, next((spread for start, spread in _SPREADS if name.startswith(start)), 0.2)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a call computes and moves: operations, elements, and the product behind it, with how many such at once."""

    flops: float
    elements: float
    rows: float
    columns: float
    depth: float
    products: float
    calls: float


def operation_class(layer: Layer) -> str:
    """The class of a layer: what its efficiency is learned with."""
    if isinstance(layer, Convolution):
        return _convolution_class(layer)
    if isinstance(layer, Linear | Recurrent):
        return "linear"
    if isinstance(layer, MatMul | Attention):
        return "matmul"
    name = _AS_MEMORY.get(layer.kind, layer.kind)
    return next((known for known in _MEMORY if name.startswith(known)), "other")


def _convolution_class(layer: Convolution) -> str:
    if layer.depthwise:
        return "depthwise"
    if layer.groups >= _MANY_GROUPS:
        return "grouped"
    if layer.in_channels <= _FEW_CHANNELS:
        return "first"
    if prod(layer.kernel) == 1:
        return "pointwise"
    plain = set(layer.stride) == {1} and set(layer.dilation) == {1}
    return "3x3" if plain and set(layer.kernel) == {3} else "window"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to compute a product: how many of its operations it makes, the elements that it moves besides, and the
    kernels that it takes. `name` is that of its parameter; empty for the plain way."""

    name: str
    operations: float = 1.0
    moved: float = 0.0
    kernels: float = 1.0
    depth: float = 1.0


PLAIN = Way(name="")


def ways(layer: Layer, mode: str, family: str) -> tuple[Way, ...]:
    """The ways to compute a layer: 3x3 kernels on vector units also by Winograd's tiles of 2 and of 4 results.

    Lavin and Gray, 2015: a tile of m x m results takes (m + 2)² products for 9 m²; tiles at the edge are whole. Tiles
    of 4 are transformed in separate kernels, which write and read (m + 2)² / m² numbers for each.
    """
    if (
        mode != "vector"
        or operation_class(layer) != "3x3"
        or not isinstance(layer, Convolution)
        or len(layer.input) != 2
    ):
        return (PLAIN,)
    waste = {m: prod(ceil(size / m) * m / size for size in layer.output) for m in (2, 4)}
    images = prod(layer.input_shapes[0]) + prod(layer.output_shape)
    weights = prod(layer.weight_shape)
    return (
        PLAIN,
        Way(name=f"winograd 2 on {family}", operations=waste[2] * 16 / 36),
        Way(
            name=f"winograd 4 on {family}",
            operations=waste[4] * 36 / 144,
            moved=2 * waste[4] * images * 36 / 16 + 2 * weights * 36 / 9,
            kernels=4,
            depth=1 / 9,
        ),
    )


def is_product(layer: Layer) -> bool:
    """Whether it multiplies matrices, which tensor cores do."""
    return isinstance(layer, Convolution | Linear | MatMul | Attention | Recurrent)


def sizes_of_call(layer: Layer, phase: Phase) -> Sizes:
    """The sizes of a call; all ones where there is no product behind it."""
    rows, columns, depth = layer.gemm(phase) or inner_product(layer)
    flops = float(layer.flops(phase))
    products = max(1.0, flops / (2.0 * rows * columns * depth)) if is_product(layer) else 1.0
    return Sizes(
        flops=flops,
        elements=_PASSES.get((operation_class(layer), side(phase)), 1.0) * layer.elements_moved(phase),
        rows=float(rows),
        columns=float(columns),
        depth=float(depth),
        products=products,
        calls=_calls(layer, phase),
    )


def _calls(layer: Layer, phase: Phase) -> float:
    """How many kernels the host asks for: one for each tensor of an update, step of a recurrent layer, and input of a
    concatenation whose gradient is added to others."""
    if phase is Phase.UPDATE:
        return float(layer.trained_tensors)
    if isinstance(layer, Recurrent):
        return float(layer.steps)
    return float(len(layer.input_shapes)) if isinstance(layer, Concat) and phase is Phase.BACKWARD else 1.0


def efficiency_terms(mode: str, name: str, phase: Phase, family: str, arithmetic: str) -> tuple[str, ...]:
    """The parameters whose sum is the logarithm of the share of the peak that a product reaches."""
    own = (f"{mode} {name}", f"{mode} {phase}", f"{mode} {name} {phase}", f"{mode} on {family}")
    return (*own, f"{mode} in {arithmetic}", f"{mode} {name} in {arithmetic}")


def side(phase: Phase) -> str:
    """Forward, or backward for all that follows it."""
    return "forward" if phase is Phase.FORWARD else "backward"


def bandwidth_terms(name: str, phase: Phase, product: bool, family: str) -> tuple[str, ...]:
    """Those of the share of the bandwidth; kernels that multiply nothing fit some families better than others."""
    general = "bandwidth products" if product else "bandwidth memory"
    shared = (general, f"bandwidth {name} {side(phase)}", f"bandwidth on {family}")
    return shared if product else (*shared, f"memory {name} {side(phase)} on {family}")


def gap_terms(product: bool, family: str) -> tuple[str, ...]:
    """Those of the time that a call takes whatever its size."""
    return (f"gap {'products' if product else 'memory'}", f"gap on {family}")


def host_terms(name: str, phase: Phase, product: bool) -> tuple[str, ...]:
    """Those of the host's time for a call."""
    if phase is Phase.UPDATE:
        return ("host update",)
    kind = "products" if product else "norm" if name == "norm" else "memory"
    return (f"host {kind} {side(phase)}",)
