"""What layers say that autograd keeps for their backward pass, against what it keeps on the CPU."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import pytest
import torch
from every_layer import every_layer
from torch import Tensor, nn

from latte_cli.backends.torch.layers import Arriving, cpu_growth
from latte_cli.errors import LatteError
from latte_cli.layers import (
    Activation,
    Attention,
    Checkpoint,
    Dropout,
    Elementwise,
    Embedding,
    Layer,
    Norm,
    Optimizer,
    Other,
    Recurrent,
    Reduce,
    Saved,
    Transfer,
    Whole,
    layer_text,
)
from latte_cli.network.module import layer_module

FUNCTIONS = (
    *("thresholded_relu", "shrink", "sin", "cos", "tan", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh"),
    *("atanh", "maximum_constant", "minimum_constant", "mean_constant"),
)
SCALARS_BYTES = 16  # numbers that a kernel keeps beside its tensors, such as the seeds of random numbers
WITHIN = 0.01  # of the peak of a backward pass; calls keep a number here and there
ROUGHLY = {
    ("activation", "softsign"),
    ("activation", "shrink"),
    ("activation", "maximum_constant"),
    ("activation", "minimum_constant"),
    ("elementwise", "power"),
    ("pool", "average"),
    ("pool", "lp"),
    ("reduce", "sum_square"),
    ("softmax_cross_entropy", ""),
}
"""Layers of several calls that are made rarely, whose saved tensors are counted too low by one to five."""
LIKE_NO_OTHER = (Checkpoint, Optimizer, Other, Transfer, Whole)
"""Kinds without a module in torch, or without a backward pass."""


def layers() -> Iterator[Layer]:
    """The layers of every kind, and more forms of those whose calls are not one."""
    yield from every_layer()
    for function in FUNCTIONS:
        yield Activation(function=function, shape=(2, 3, 4))
    for operation, shapes in product(("modulo", "prelu"), (((2, 3), (2, 3)), ((2, 3), (3,)))):
        yield Elementwise(operation=operation, shapes=shapes)
    for operation in ("min", "l1", "prod", "log_sum", "log_sum_exp", "sum_square"):
        yield Reduce(operation=operation, shape=(2, 3, 4), axes=(1,), keep=False)
    yield Norm(function="lrn", shape=(2, 6, 5), span=3)
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5)):
        yield Dropout(shape=shape, features=True)
    for function, (steps, batch, inputs, hidden), directions, bias in product(
        ("lstm", "gru", "rnn"), ((1, 2, 3, 4), (7, 3, 40, 10), (4, 2, 8, 64), (3, 5, 300, 128)), (1, 2), (False, True)
    ):
        sizes = {"steps": steps, "batch": batch, "inputs": inputs, "hidden": hidden}
        yield Recurrent(function=function, directions=directions, bias=bias, **sizes)
    for (causal, mask), key_heads, values, dropout in product(
        ((False, ()), (True, ()), (False, (5, 5)), (False, (2, 1, 5, 5)), (False, (2, 4, 5, 5))),
        (4, 2, 1),
        (6, 7),
        (False, True),
    ):
        sizes = {"batch": 2, "heads": 4, "queries": 5, "keys": 5, "width": 6}
        yield Attention(key_heads=key_heads, value_width=values, causal=causal, mask=mask, dropout=dropout, **sizes)


def cases() -> Iterator[tuple[Layer, bool, tuple[bool, ...]]]:
    """Each layer with its parameters trained or not, and gradients to all, to none, or to each one of its inputs."""
    for layer in dict.fromkeys(layers()):
        if isinstance(layer, LIKE_NO_OTHER):
            continue
        count = len(layer.input_shapes)
        alone = [tuple(place == at for place in range(count)) for at in range(count)]
        flowing = dict.fromkeys(((True,) * count, (False,) * count, *alone))
        for trains, flows in product((True, False) if layer.parameter_shapes else (False,), flowing):
            if (trains or any(flows)) and not (isinstance(layer, Embedding) and any(flows)):
                yield layer, trains, flows


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def kept(layer: Layer, trains: bool, flows: Sequence[bool]) -> tuple[Saved, int, int] | None:
    """The inputs and the output that autograd keeps, bytes beside them, and how many tensors it saves in all.

    None where nothing flows back.
    """
    module = layer_module(layer)
    for parameter in module.parameters():
        parameter.requires_grad_(trains)
    inputs = [
        torch.randint(layer.entries, shape)
        if isinstance(layer, Embedding)
        else torch.rand(shape).add_(1.5 if "acosh" in layer.variant else 0.1).requires_grad_(flowing)
        for shape, flowing in zip(layer.input_shapes, flows, strict=True)
    ]
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        output = module(*inputs)
    if not output.requires_grad:
        return None
    sizes = {storage(tensor): tensor.untyped_storage().nbytes() for tensor in saved}
    own = {storage(tensor) for tensor in (*module.parameters(), *module.buffers(), *inputs, output)}
    places = tuple(at for at, tensor in enumerate(inputs) if storage(tensor) in sizes)
    beside = sum(size for place, size in sizes.items() if place not in own)
    return Saved(inputs=places, output=storage(output) in sizes), beside, len(saved)


@pytest.mark.filterwarnings("ignore:input's size at dim=0")  # two dimensions are one image to an instance norm
@pytest.mark.parametrize("kind", sorted({layer.kind for layer, _, _ in cases()}))
def test_a_layer_saves_what_autograd_keeps(kind: str) -> None:
    tried = 0
    for layer, trains, flows in cases():
        if layer.kind != kind:
            continue
        try:
            found = kept(layer, trains, flows)
        except (LatteError, RuntimeError, ValueError, TypeError, IndexError):
            continue  # a form that torch does not compute
        if found is None:
            continue
        tried += 1
        said = layer.saved_tensors(trains=trains, flows=flows, fused=False)
        text = f"{layer_text(layer)} {trains=} {flows=}: {found} instead of {said}"
        real, beside, _ = found
        assert (said.inputs, said.output) == (real.inputs, real.output), text
        assert abs(4 * said.elements + said.other_bytes - beside) <= SCALARS_BYTES, text
    assert tried or kind == "stored"


@pytest.mark.filterwarnings("ignore:input's size at dim=0")
def test_a_layer_counts_the_tensors_that_autograd_saves() -> None:
    wrong = []
    for layer, trains, flows in cases():
        if (layer.kind, layer.variant) in ROUGHLY:
            continue
        try:
            found = kept(layer, trains, flows)
        except (LatteError, RuntimeError, ValueError, TypeError, IndexError):
            continue
        said = layer.saved_count(trains=trains, flows=flows, fused=False)
        if found and said != found[2]:
            wrong.append(f"{layer_text(layer)} {trains=} {flows=}: {found[2]} instead of {said}")
    assert not wrong, wrong[:10]


@pytest.mark.parametrize("function", ["gru", "rnn"])
def test_a_layer_of_many_calls_holds_in_its_backward_pass_what_torch_holds(function: str) -> None:
    sizes = ((2, 9, 30, 8), (3, 2, 5, 7), (4, 40, 1, 7), (9, 9, 30, 7), (30, 4, 5, 40))
    for (steps, batch, inputs, hidden), directions, bias, flow in product(sizes, (1, 2), (False, True), (False, True)):
        layer = Recurrent(
            function=function,
            steps=steps,
            batch=batch,
            inputs=inputs,
            hidden=hidden,
            directions=directions,
            bias=bias,
        )
        said = layer.backward_growth(trains=True, flows=(flow,))
        saved, real = backward_numbers(layer, flow)
        assert said is not None
        assert abs(said - real) <= WITHIN * (saved + real) + batch * hidden, (layer, flow, said, real)


def backward_numbers(layer: Recurrent, flow: bool) -> tuple[int, int]:
    """The numbers that torch's own layer keeps for its backward pass, and by how many they grow at most."""
    cells = {"gru": nn.GRU, "rnn": nn.RNN}[layer.function]
    module = cells(layer.inputs, layer.hidden, bias=layer.bias, bidirectional=layer.directions == 2)
    x = torch.rand(layer.input_shapes[0]).requires_grad_(flow)

    def prepare() -> Callable[[], object]:
        out, _ = module(x)
        return Arriving.apply(out).backward

    grown, _, _ = cpu_growth(prepare)
    return layer.saved_tensors(trains=True, flows=(flow,), fused=False).elements, grown // 4


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("im2col", lambda x: nn.functional.unfold(x, 2)),
        ("col2im", lambda x: nn.functional.fold(x.flatten(2), (3, 5), (2, 2))),
        ("unfold", lambda x: x.unfold(2, 2, 1)),
        ("diagonal", lambda x: x.diagonal(dim1=2, dim2=3)),
        ("diag_embed", torch.diag_embed),
        ("rot90", lambda x: torch.rot90(x, 1, (2, 3))),
        ("cum_sum", lambda x: x.cumsum(2)),
        ("as_strided", lambda x: x.as_strided((3, 2), (1, 2))),
    ],
)
def test_a_linear_operation_on_places_keeps_nothing(operation: str, call: Callable[[Tensor], Tensor]) -> None:
    kept: list[Tensor] = []
    x = torch.randn(2, 4, 4, 2, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor), lambda _: None):
        y = call(x)
    assert not kept
    layer = Other(operation=operation, shapes=(tuple(x.shape),), output=tuple(y.shape))
    assert layer.saved_tensors(trains=False, flows=(True,), fused=False) == Saved()
