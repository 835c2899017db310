"""Operators: which of torch's operators compute a layer, and with which shapes."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from typing import TypeAlias

from latte_cli.layers import (
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
    Other,
    Pool,
    Recurrent,
    Reduce,
    Shape,
    Softmax,
    SoftmaxCrossEntropy,
)
from latte_cli.torch_trace.events import Dims, Event

Fits: TypeAlias = Callable[[Layer, Dims, Event], bool]

_RANKS = ("1d", "2d", "3d")
_CONVOLUTIONS = (*(f"conv{rank}" for rank in _RANKS), "convolution", "_convolution", "cudnn_convolution")
_TRANSPOSED = (*(f"conv_transpose{rank}" for rank in _RANKS), *_CONVOLUTIONS[-3:])
PRODUCTS = ("matmul", "mm", "bmm", "baddbmm", "addmm", "mv", "dot", "einsum", "linear")
"""What multiplies matrices."""

CONVOLVING = frozenset((*_CONVOLUTIONS, *_TRANSPOSED))
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "relu": ("relu", "clamp_min", "threshold"),
    "relu6": ("hardtanh", "relu6", "clamp"),
    "clip": ("clamp", "hardtanh", "clip"),
    "hard_swish": ("hardswish",),
    "hard_sigmoid": ("hardsigmoid",),
    "prelu": ("prelu", "_prelu_kernel", "leaky_relu"),
    "not": ("logical_not", "bitwise_not"),
    "add_constant": ("add", "sub", "rsub"),
    "subtract_constant": ("sub", "rsub", "add"),
    "multiply_constant": ("mul", "div"),
    "divide_constant": ("div", "mul"),
    "power_constant": ("pow", "square"),
}
"""The operators of activations whose names differ from the function's."""

_ELEMENTWISE: Mapping[str, tuple[str, ...]] = {
    "add": ("add", "rsub", "sub"),
    "subtract": ("sub", "rsub", "mse_loss"),
    "multiply": ("mul", "div"),
    "divide": ("div", "mul"),
    "power": ("pow",),
    "modulo": ("remainder", "fmod"),
    "equal": ("eq",),
    "greater": ("gt",),
    "greater_or_equal": ("ge",),
    "less": ("lt",),
    "less_or_equal": ("le",),
}
_COPIES: Mapping[str, tuple[str, ...]] = {
    "transpose": (
        "transpose",
        "permute",
        "t",
        "movedim",
        "swapaxes",
        "swapdims",
        "numpy_T",
        "contiguous",
        "channel_shuffle",
    ),
    "slice": ("slice", "narrow", "select", "getitem", "chunk", "split"),
    "split": ("split", "chunk", "split_with_sizes", "unbind", "tensor_split", "unsafe_split", "unsafe_chunk"),
    "pad": ("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"),
    "expand": ("expand", "repeat", "expand_as", "broadcast_to", "tile", "repeat_interleave"),
    "tile": ("repeat", "tile", "expand"),
    "cast": ("to", "type_as", "float", "half", "_to_copy"),
    "depth_to_space": ("pixel_shuffle",),
    "space_to_depth": ("pixel_unshuffle",),
    "resize": ("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_nearest1d", "interpolate"),
    "gather": ("index_select", "index", "gather", "select", "roll", "flip"),
}
_REDUCTIONS: Mapping[str, tuple[str, ...]] = {
    "max": ("amax", "max"),
    "min": ("amin", "min"),
    "mean": ("mean", "mse_loss", "adaptive_avg_pool2d"),
    "l2": ("linalg_vector_norm", "norm", "frobenius_norm"),
    "l1": ("linalg_vector_norm", "norm"),
    "log_sum_exp": ("logsumexp",),
}
GLUE = frozenset(
    (
        *("view", "reshape", "t", "transpose", "permute", "unsqueeze", "squeeze", "expand", "slice", "select"),
        *("detach", "flatten", "unflatten", "chunk", "split", "as_strided", "alias", "unbind", "narrow", "unfold"),
        *("empty", "empty_like", "resize", "set", "item", "_local_scalar_dense", "is_nonzero", "lift_fresh"),
        *("_has_compatible_shallow_copy_type", "ones_like", "zeros_like", "zeros", "ones", "contiguous", "clone"),
        *("to", "_unsafe_view", "view_as", "size", "result_type", "numpy_T", "expand_as", "scalar_tensor", "arange"),
    )
)
"""Operators that lay tensors anew or make small ones: their time belongs to the layer that follows."""


def operators_of(layer: Layer) -> tuple[str, ...]:
    """The names of the operators that may compute `layer`, without namespace; () for a layer that none is known of."""
    match layer:
        case Convolution():
            return _TRANSPOSED if layer.transposed else _CONVOLUTIONS
        case Linear() | MatMul():
            return PRODUCTS
        case Norm():
            return (f"{layer.function}_norm", f"native_{layer.function}_norm", f"fused_{layer.function}_norm")
        case Activation():
            return _ACTIVATIONS.get(layer.function) or (layer.function, layer.function.replace("_", ""))
        case Elementwise():
            return _ELEMENTWISE.get(layer.operation) or (layer.operation, f"logical_{layer.operation}")
        case Dropout():
            return ("dropout", "native_dropout", "feature_dropout", "alpha_dropout")
        case Softmax():
            return ("log_softmax", "_log_softmax") if layer.log else ("softmax", "_softmax")
        case SoftmaxCrossEntropy():
            return ("cross_entropy_loss", "nll_loss_nd", "nll_loss", "nll_loss2d")
        case Pool():
            return _pools(layer)
        case Reduce():
            return _REDUCTIONS.get(layer.operation) or (layer.operation,)
        case Concat():
            return ("cat", "concat", "concatenate", "stack", "hstack", "vstack")
        case Embedding():
            return ("embedding", "index_select", "index")
        case Recurrent():
            return (layer.function, "rnn_tanh", "rnn_relu") if layer.function == "rnn" else (layer.function,)
        case Attention():
            return ("scaled_dot_product_attention",)
        case Copy():
            return _COPIES.get(layer.operation) or (layer.operation,)
        case Other():
            return (layer.operation,)
    return ()


def _pools(layer: Pool) -> tuple[str, ...]:
    rank = f"{len(layer.input)}d"
    if layer.function == "max":
        return (f"max_pool{rank}", f"max_pool{rank}_with_indices", f"adaptive_max_pool{rank}")
    return (f"avg_pool{rank}", f"adaptive_avg_pool{rank}", "mean")


def fits_layer(layer: Layer, event: Event) -> bool:
    """Whether an operator's call has the shapes of `layer`; that its name is one of the layer's is not looked at."""
    dims = event.dims
    if not dims:
        return False
    match layer:
        case Convolution():
            return _fits_convolution(layer, dims, event)
        case Linear():
            return _fits_linear(layer, dims)
        case MatMul():
            return _fits_product(layer, dims)
        case Embedding():
            return dims[0] == (layer.entries, layer.width) and any(prod(each) == layer.rows for each in dims[1:])
        case SoftmaxCrossEntropy():
            return prod(dims[0]) == layer.rows * layer.classes
        case Concat():
            return sorted(prod(each) for each in dims if each) == sorted(map(prod, layer.shapes))
        case Elementwise() | Other():
            return _fits_shapes(layer.input_shapes, dims)
        case Attention():
            return len(dims) >= 3 and all(map(same_shape, dims, layer.input_shapes[:3]))
        case Recurrent():
            return _fits_recurrent(layer, dims)
        case Pool():
            return _fits_pool(layer, dims, event)
        case Copy():
            return prod(dims[0]) == prod(layer.shape)
        case Norm() if layer.affine and layer.parameter_shapes:
            return dims[0] == layer.shape
        case _:
            return same_shape(dims[0], layer.input_shapes[0])


def comes_along(layer: Layer, first: Layer, event: Event) -> bool:
    """Whether the call that computes `first` computes `layer` too: a further layer of a stack, or part of a split."""
    if isinstance(layer, Recurrent) and isinstance(first, Recurrent):
        weight = (layer.gates * layer.hidden, layer.inputs)
        return layer.function == first.function and (event.dims or ()).count(weight) > 0
    if isinstance(layer, Copy) and isinstance(first, Copy):
        return layer.operation == first.operation == "split" and layer.shape == first.shape
    return False


def same_shape(found: Shape, wanted: Shape) -> bool:
    """Whether shapes are the same but for dimensions of one."""
    return found == wanted or [size for size in found if size != 1] == [size for size in wanted if size != 1]


def _fits_convolution(layer: Convolution, dims: Dims, event: Event) -> bool:
    if len(dims) < 2 or dims[1] != layer.parameter_shapes[0]:
        return False
    if dims[0] not in (layer.input_shapes[0], layer.input_shapes[0][1:] if layer.batch == 1 else ()):
        return False
    stride = _numbers(event.values[3]) if len(event.values) > 3 else ()
    return not stride or len(stride) != len(layer.stride) or stride == layer.stride


@lru_cache(maxsize=4096)
def _numbers(text: str) -> tuple[int, ...]:
    """The numbers of a concrete input such as `[2, 2]`; () where there are none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(found) if isinstance(found, list) and all(isinstance(each, int) for each in found) else ()


def _fits_linear(layer: Linear, dims: Dims) -> bool:
    """`linear(x, weight)`, or `mm(x, weightᵀ)`, with the bias before them in `addmm`."""
    pairs = [dims[place : place + 2] for place in range(min(2, len(dims) - 1))]
    weights = {(layer.out_features, layer.in_features), (layer.in_features, layer.out_features)}
    return any(
        len(pair) == 2 and pair[1] in weights and pair[0][-1:] == (layer.in_features,)
        and prod(pair[0]) == layer.rows * layer.in_features
        for pair in pairs
    )  # fmt: skip


def _fits_product(layer: MatMul, dims: Dims) -> bool:
    pairs = [dims[place : place + 2] for place in range(min(2, len(dims) - 1))]
    return any(_is_product(layer, *pair) for pair in pairs if len(pair) == 2)


def _is_product(layer: MatMul, left: Shape, right: Shape) -> bool:
    whole = (layer.batch * layer.m * layer.k, layer.k * layer.n)
    return (
        left[-1:] == (layer.k,)
        and prod(left) == whole[0]
        and prod(right) in (whole[1], layer.batch * whole[1])
        and layer.n in right[-2:]
    )


def _fits_shapes(wanted: tuple[Shape, ...], dims: Dims) -> bool:
    """Whether the calls' tensors are the wanted ones, in any order, those without dimensions aside."""
    found = [tuple(size for size in each if size != 1) for each in dims]
    for shape in wanted:
        bare = tuple(size for size in shape if size != 1)
        if bare in found:
            found.remove(bare)
        elif bare:
            return False
    return True


def _fits_recurrent(layer: Recurrent, dims: Dims) -> bool:
    turned = (layer.batch, layer.steps, layer.inputs)
    weight = (layer.gates * layer.hidden, layer.inputs)
    return dims[0] in (layer.input_shapes[0], turned) and weight in dims


def _fits_pool(layer: Pool, dims: Dims, event: Event) -> bool:
    if not same_shape(dims[0], layer.input_shapes[0]):
        return False
    kernel = _numbers(event.values[1]) if len(event.values) > 1 and "pool" in event.name else ()
    adaptive = "adaptive" in event.name
    return adaptive or not kernel or len(kernel) != len(layer.kernel) or kernel == layer.kernel
