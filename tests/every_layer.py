"""Layers of every kind with every option that changes what they are said to take."""

from collections.abc import Iterator
from itertools import product

from latte_cli.layers import (
    Activation,
    Attention,
    Checkpoint,
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
    Other,
    Pool,
    Recurrent,
    Reduce,
    Softmax,
    SoftmaxCrossEntropy,
    Stored,
    Transfer,
    View,
    Whole,
)

ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "prelu", "clip", "hard_sigmoid", "hard_swish", "elu", "selu", "celu", "sigmoid"),
    *("tanh", "silu", "gelu", "mish", "softplus", "softsign", "erf", "exp", "log", "sqrt", "abs", "neg", "reciprocal"),
    *("hardmax", "floor", "ceil", "round", "sign", "not", "add_constant", "subtract_constant", "multiply_constant"),
    *("divide_constant", "power_constant", "of another library"),
)
BINARY = ("add", "subtract", "multiply", "divide", "power", "minimum", "maximum", "mean", "where", "equal")
COPIES = ("pad", "slice", "split", "expand", "gather", "resize", "tile", "cast", "trilu", "concat_constants")


def every_layer() -> Iterator[Layer]:
    """Distinct layers, kind by kind."""
    yield from _convolutions()
    for bias in (False, True):
        yield Linear(rows=6, in_features=10, out_features=14, bias=bias)
    for batch in (1, 3):
        yield MatMul(batch=batch, m=4, k=5, n=6)
    yield from _norms()
    for function in ACTIVATIONS:
        yield Activation(function=function, shape=(2, 3, 4))
    yield Dropout(shape=(3, 5))
    yield Dropout(shape=(3, 5, 4), features=True)
    for axis, log in product((-1, 0, 1), (False, True)):
        yield Softmax(shape=(4, 6, 2), axis=axis, log=log)
    yield SoftmaxCrossEntropy(rows=4, classes=7)
    yield from _pools()
    for operation, shapes in product(BINARY, (((2, 3),), ((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 3), (2, 3), (2, 1)))):
        yield Elementwise(operation=operation, shapes=shapes)
    yield Concat(shapes=((2, 3, 4), (2, 5, 4)))
    yield Concat(shapes=((2, 3), (2, 3), (2, 3)), axis=-1)
    for operation, axes, keep in product(("mean", "sum", "max", "l2"), ((), (1,), (-1, 0), (0, 1, 2)), (False, True)):
        yield Reduce(operation=operation, shape=(2, 3, 4), axes=axes, keep=keep)
    yield Copy(operation="transpose", shape=(2, 3, 4), output=(2, 4, 3), order=(0, 2, 1))
    for operation in COPIES:
        yield Copy(operation=operation, shape=(2, 3, 4), output=(2, 6, 4))
    yield View(shape=(2, 3, 4), output=(6, 4))
    for function in ("sgd", "momentum", "adam", "adamw"):
        yield Optimizer(function=function, tensors=3, elements=50)
    yield Embedding(rows=6, entries=11, width=5)
    for function, directions, bias in product(("lstm", "gru", "rnn"), (1, 2), (False, True)):
        yield Recurrent(function=function, steps=3, batch=2, inputs=5, hidden=4, directions=directions, bias=bias)
    for causal, key_heads, mask in product((False, True), (4, 2), ((), (1, 1, 3, 5))):
        yield Attention(
            batch=2, heads=4, key_heads=key_heads, queries=3, keys=5, width=6, value_width=7, causal=causal, mask=mask
        )
    yield Attention(batch=2, heads=4, key_heads=4, queries=3, keys=5, width=6, value_width=6, dropout=True)
    yield Attention(
        batch=2, heads=4, key_heads=4, queries=3, keys=5, width=6, value_width=6, mask=(3, 5), trained_mask=True
    )
    for key_heads in (4, 1):
        yield Attention(batch=2, heads=4, key_heads=key_heads, queries=3, keys=5, width=6, value_width=6, composed=True)
    yield Norm(function="batch", shape=(2, 4, 3), fixed=True)
    yield Other(operation="scatter", shapes=((2, 3), (3,)), output=(2, 3))
    yield Transfer(elements=30)
    for trained in (True, False):
        yield Stored(shape=(1, 5, 1), trained=trained)
    yield Norm(function="group", shape=(2, 6, 4), span=3, per_group=True)
    yield Recurrent(function="lstm", steps=3, batch=2, inputs=4, hidden=5, initial=True, peepholes=True)
    yield Recurrent(function="gru", steps=3, batch=2, inputs=4, hidden=5, initial=True)
    yield Whole(name="resnet8", batch=4, size=32)
    yield Checkpoint(tensors=5)


def _convolutions() -> Iterator[Layer]:
    options = product((1, 2, 3), ((4, 6, 1), (4, 6, 2), (4, 4, 4), (1, 3, 1)), (False, True), (False, True))
    for rank, (channels, out, groups), transposed, bias in options:
        strided = {"stride": (2,) * rank, "pad_before": (1,) * rank, "pad_after": (1,) * rank}
        dilated = {"dilation": (2,) * rank, "pad_before": (1,) * rank, "pad_after": (0,) * rank}
        for variant in ({}, strided, dilated) if bias else (strided,):
            yield Convolution(
                batch=2,
                in_channels=channels,
                out_channels=out,
                groups=groups,
                input=(9, 8, 7)[:rank],
                kernel=(3, 3, 2)[:rank],
                transposed=transposed,
                bias=bias,
                **variant,
            )
    yield Convolution(batch=3, in_channels=5, out_channels=7, input=(6, 6), kernel=(1, 1))


def _norms() -> Iterator[Layer]:
    functions = ("batch", "layer", "group", "instance", "rms", "lrn")
    for function, span, affine, rank in product(functions, (1, 2), (False, True), (2, 4)):
        yield Norm(function=function, shape=(2, 6, 3, 4)[:rank], span=span, affine=affine)


def _pools() -> Iterator[Layer]:
    for function, rank, ceil in product(("max", "average", "lp"), (1, 2, 3), (False, True)):
        size = (8, 6, 4)[:rank]
        common = {"function": function, "batch": 2, "channels": 3, "input": size, "ceil": ceil}
        yield Pool(**common, kernel=(3,) * rank, stride=(2,) * rank, pad_before=(1,) * rank, count_padding=ceil)
        yield Pool(**common, kernel=size)
    for function, rank in product(("max", "average"), (1, 2, 3)):
        for wanted in ((3, 4, 3)[:rank], (9, 7, 6)[:rank]):
            yield Pool(function=function, batch=2, channels=3, input=(8, 6, 4)[:rank], adaptive=wanted)
