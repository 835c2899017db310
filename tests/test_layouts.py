"""How operators take inputs that lie otherwise than end to end, and lay what they write, against torch on the CPU."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

import pytest
import torch
from torch import Tensor

from latte_cli.estimator.layouts import (
    gradient_strides,
    is_ready,
    output_strides,
    runs_channels_last,
)
from latte_cli.estimator.strides import lies_as
from latte_cli.layers import (
    Activation,
    Attention,
    Concat,
    Convolution,
    Copy,
    Dropout,
    Elementwise,
    Layer,
    Norm,
    Pool,
    Recurrent,
    Reduce,
    Shape,
    Softmax,
    layer_text,
)
from latte_cli.network.module import layer_module

SIZES = (10, 9, 7)


def layers() -> Iterator[Layer]:
    for rank, (channels, out, groups), transposed in product((1, 2, 3), ((8, 12, 1), (8, 12, 2), (8, 8, 8)), (0, 1)):
        sizes = {"batch": 3, "in_channels": channels, "out_channels": out, "groups": groups, "input": SIZES[:rank]}
        for before, after in ((1, 1), (1, 0)):
            pads = {"pad_before": (before,) * rank, "pad_after": (after,) * rank}
            yield Convolution(**sizes, kernel=(3,) * rank, transposed=bool(transposed), **pads)
    for function, rank in product(("batch", "layer", "group", "instance", "rms"), (2, 3, 4, 5)):
        if rank > 2 or function != "instance":  # two dimensions are one image to an instance norm
            yield Norm(function=function, shape=(30, 16, *SIZES)[:rank], span=1 if function == "layer" else 2)
    for function, rank in product(("max", "average"), (1, 2, 3)):
        pads = {"pad_before": (1,) * rank, "pad_after": (1,) * rank}
        yield Pool(function=function, batch=3, channels=8, input=SIZES[:rank], kernel=(3,) * rank, **pads)
        yield Pool(function=function, batch=3, channels=8, input=SIZES[:rank], kernel=SIZES[:rank])
        yield Pool(function=function, batch=3, channels=8, input=SIZES[:rank], adaptive=(4,) * rank)
    for rank in (2, 3, 4, 5):
        shape = (30, 8, *SIZES)[:rank]
        yield Softmax(shape=shape)
        yield Activation(function="relu", shape=shape)
        yield Dropout(shape=shape)
        yield Elementwise(operation="multiply", shapes=(shape, shape))
        yield Concat(shapes=(shape, shape))
        yield Copy(operation="pad", shape=shape, output=(*shape[:-1], shape[-1] + 3))
        yield Reduce(operation="mean", shape=shape, axes=(-1,), keep=True)
    yield Copy(operation="resize", shape=(3, 8, 5, 5), output=(3, 8, 10, 10))
    sizes = {"batch": 3, "heads": 4, "key_heads": 4, "queries": 5, "keys": 5, "width": 24, "value_width": 24}
    yield Attention(**sizes, composed=True)
    yield Attention(**sizes, dropout=True)
    for function in ("lstm", "gru"):
        yield Recurrent(function=function, steps=9, batch=5, inputs=8, hidden=8)


def orders(rank: int) -> list[tuple[int, ...]]:
    """Orders of the dimensions in memory: channels last, the first two exchanged, the last two exchanged."""
    axes = tuple(range(rank))
    found = [(1, 0, *axes[2:]), (*axes[:-2], axes[-1], axes[-2])]
    return [(0, *axes[2:], 1), *found] if rank > 2 else found[:1]


def laid(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """The same numbers, which lie with the dimensions in that order."""
    return tensor.permute(*order).contiguous().permute(*(order.index(axis) for axis in range(len(order))))


def growth(call: Callable[[], object]) -> tuple[int, object]:
    """What a call takes at its peak beyond what it leaves, and what it returns."""
    with torch.autograd.profiler.profile(profile_memory=True) as seen:
        result = call()
    events = [event for event in seen.kineto_results.events() if event.name() == "[memory]"]
    grown = [0, *accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))]
    return max(grown) - grown[-1], result


@dataclass
class Run:
    """What torch does with a layer: what its calls take, where its results lie, what it keeps beside its inputs."""

    forward: int
    backward: int
    output: Tensor
    gradient: Tensor
    kept: int


def run(layer: Layer, order: Sequence[int], arriving: Sequence[int] | None = None) -> Run:
    """A layer on inputs that lie in `order`, with a gradient that lies in the order `arriving`, else as the output."""
    torch.manual_seed(0)
    module = layer_module(layer)
    inputs = [laid(torch.rand(shape), order).requires_grad_() for shape in layer.input_shapes]
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = module(*inputs)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*inputs, output, *module.parameters())}
    kept = sum(size for place, size in saved.items() if place not in own)
    forward, output = growth(lambda: module(*inputs))
    seed = torch.ones_like(output) if arriving is None else laid(torch.ones(output.shape), arriving)
    leaves = [*inputs, *module.parameters()]
    backward, gradients = growth(lambda: torch.autograd.grad(output, leaves, seed, retain_graph=True))
    return Run(forward=forward, backward=backward, output=output, gradient=gradients[0], kept=kept)


def strides_in(shape: Shape, order: Sequence[int]) -> tuple[int, ...]:
    return tuple(laid(torch.empty(shape, device="meta"), order).stride())


def cases() -> Iterator[tuple[Layer, tuple[int, ...]]]:
    for layer in layers():
        for order in orders(len(layer.input_shapes[0])):
            yield layer, order


@pytest.mark.parametrize("kind", sorted({layer.kind for layer in layers()}))
def test_a_layer_takes_inputs_that_lie_otherwise_as_torch_does(kind: str) -> None:
    for layer, order in cases():
        if layer.kind != kind:
            continue
        text, shapes = f"{layer_text(layer)} on inputs in the order {order}", layer.input_shapes
        strides = [strides_in(shape, order) for shape in shapes]
        plain, found = run(layer, range(len(order))), run(layer, order)
        size, shape = found.gradient.nbytes, shapes[0]
        said, copied = layer.layout_needs, 0 if is_ready(layer, shape, strides[0]) else size
        output = output_strides(layer, shapes, strides)
        if kind not in ("recurrent", "attention"):
            assert lies_as(layer.output_shape, found.output.stride(), output), f"{text}: {found.output.stride()}"
            gradient = gradient_strides(layer, shape, strides[0], output)
            assert lies_as(shape, found.gradient.stride(), gradient), f"{text}: {found.gradient.stride()}"
        assert found.kept - plain.kept == pytest.approx(copied * said.kept, abs=size / 4), text
        if not runs_channels_last(layer, shape, strides[0]):
            assert found.forward - plain.forward == pytest.approx(copied * said.forward, abs=size / 4), text
            if not isinstance(layer, Norm) or layer.function != "batch":
                assert found.backward - plain.backward == pytest.approx(copied * said.backward, abs=size / 4), text
