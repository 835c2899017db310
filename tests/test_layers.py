"""Layers against torch on meta tensors: shapes, FLOPs, bytes, texts and what is refused."""

import json
import operator
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from every_layer import every_layer
from hypothesis import Phase as Stage
from hypothesis import assume, find, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from latte_cli.errors import LatteError
from latte_cli.layers import (
    LAYERS,
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
    Phase,
    Pool,
    Recurrent,
    Reduce,
    Saved,
    Shape,
    Softmax,
    SoftmaxCrossEntropy,
    Stored,
    Transfer,
    View,
    Whole,
    broadcast,
    layer_from_text,
    layer_text,
    scaled_reshape,
)
from latte_cli.layers.base import ANYHOW
from latte_cli.network.module import layer_module

CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
POOLS = {"max": (F.max_pool1d, F.max_pool2d, F.max_pool3d), "average": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)}
SPLIT = (Phase.FORWARD, Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER)
UNTIMED = settings(deadline=None)
SMALL = st.integers(1, 4)
SHAPES = st.lists(SMALL, max_size=4).map(tuple)
SOLID = st.lists(SMALL, min_size=1, max_size=4).map(tuple)


def sizes(draw: st.DrawFn, rank: int, least: int, most: int) -> Shape:
    return tuple(draw(st.integers(least, most)) for _ in range(rank))


@st.composite
def convolution_sizes(draw: st.DrawFn) -> dict[str, Any]:
    """What a convolution is made of; its kernel may not fit its input."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    found: dict[str, Any] = {
        "batch": draw(SMALL),
        "in_channels": groups * draw(SMALL),
        "out_channels": groups * draw(SMALL),
        "groups": groups,
        "input": sizes(draw, rank, 1, 9),
        "kernel": sizes(draw, rank, 1, 4),
        "stride": sizes(draw, rank, 1, 3),
        "dilation": sizes(draw, rank, 1, 3),
        "pad_before": sizes(draw, rank, 0, 3),
        "pad_after": sizes(draw, rank, 0, 3),
        "transposed": draw(st.booleans()),
        "bias": draw(st.booleans()),
    }
    if found["transposed"]:  # torch allows less than the stride or the dilation
        most = map(max, found["stride"], found["dilation"])
        found["output_padding"] = tuple(draw(st.integers(0, size - 1)) for size in most)
    return found


def fitted(values: dict[str, Any]) -> dict[str, Any]:
    """The same with an input that is larger than the window and the padding, so that there is an output."""
    numbers = zip(*(values[name] for name in ("input", "kernel", "dilation", "pad_before", "pad_after")), strict=True)
    return values | {"input": tuple(i + d * (k - 1) + before + after for i, k, d, before, after in numbers)}


def convolutions(**fixed: Any) -> st.SearchStrategy[Convolution]:
    return convolution_sizes().map(lambda values: Convolution(**fitted(values | fixed)))


@st.composite
def pool_sizes(draw: st.DrawFn) -> dict[str, Any]:
    """What a pool is made of that torch has too: padding alike on both sides and at most half a window."""
    rank, function = draw(st.integers(1, 3)), draw(st.sampled_from(sorted(POOLS)))
    kernel = sizes(draw, rank, 1, 4)
    pad = tuple(draw(st.integers(0, size // 2)) for size in kernel)
    return {
        "function": function,
        "batch": draw(SMALL),
        "channels": draw(SMALL),
        "input": sizes(draw, rank, 1, 9),
        "kernel": kernel,
        "stride": sizes(draw, rank, 1, 4),
        "dilation": sizes(draw, rank, 1, 3) if function == "max" else (1,) * rank,
        "pad_before": pad,
        "pad_after": pad,
        "ceil": draw(st.booleans()),
        "count_padding": draw(st.booleans()),
    }


def pools() -> st.SearchStrategy[Pool]:
    return pool_sizes().map(lambda values: Pool(**fitted(values)))


@st.composite
def broadcastable(draw: st.DrawFn) -> tuple[Shape, ...]:
    whole = draw(SHAPES)
    shapes = []
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(whole)))
        shapes.append(tuple(draw(st.sampled_from((1, size))) for size in whole[start:]))
    return tuple(shapes)


@st.composite
def concatenable(draw: st.DrawFn) -> tuple[tuple[Shape, ...], int]:
    shape = draw(SOLID)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    at = axis % len(shape)
    wide = draw(st.lists(SMALL, min_size=1, max_size=3))
    return tuple((*shape[:at], size, *shape[at + 1 :]) for size in wide), axis


@st.composite
def reductions(draw: st.DrawFn) -> Reduce:
    shape = draw(SOLID)
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    signed = tuple(axis - draw(st.sampled_from((0, len(shape)))) for axis in sorted(axes))
    return Reduce(shape=shape, operation="sum", axes=signed, keep=draw(st.booleans()))


@st.composite
def transposes(draw: st.DrawFn) -> Copy:
    shape = draw(SOLID)
    order = tuple(draw(st.permutations(range(len(shape)))))
    return Copy(operation="transpose", shape=shape, output=tuple(shape[axis] for axis in order), order=order)


@st.composite
def norms(draw: st.DrawFn) -> Norm:
    shape = (draw(SMALL), 2 * draw(SMALL), *draw(SOLID))
    function = draw(st.sampled_from(["batch", "layer", "group", "instance", "rms", "lrn"]))
    return Norm(shape=shape, function=function, span=draw(st.integers(1, 2)), affine=draw(st.booleans()))


def layers() -> st.SearchStrategy[Layer]:
    """Layers of every kind."""
    return st.one_of(
        convolutions(),
        st.builds(Linear, rows=SMALL, in_features=SMALL, out_features=SMALL, bias=st.booleans()),
        st.builds(MatMul, batch=SMALL, m=SMALL, k=SMALL, n=SMALL),
        norms(),
        st.builds(Activation, shape=SHAPES, function=st.sampled_from(["relu", "gelu"])),
        st.builds(Dropout, shape=SHAPES),
        st.builds(Softmax, shape=SOLID, axis=st.sampled_from([-1, 0]), log=st.booleans()),
        st.builds(SoftmaxCrossEntropy, rows=SMALL, classes=SMALL),
        pools(),
        broadcastable().map(lambda shapes: Elementwise(operation="add", shapes=shapes)),
        concatenable().map(lambda drawn: Concat(shapes=drawn[0], axis=drawn[1])),
        reductions(),
        transposes(),
        SHAPES.map(lambda shape: Copy(operation="slice", shape=shape, output=(1,) * len(shape))),
        SHAPES.map(lambda shape: View(shape=shape, output=(prod(shape),))),
        st.builds(Optimizer, function=st.just("adam"), tensors=SMALL, elements=SMALL),
        st.builds(Embedding, rows=SMALL, entries=SMALL, width=SMALL),
        st.builds(Transfer, elements=SMALL),
        st.builds(Checkpoint, tensors=SMALL),
        st.builds(Stored, shape=SOLID, trained=st.booleans()),
        st.builds(Whole, name=st.sampled_from(["resnet8", "vgg11"]), batch=SMALL, size=SMALL),
        st.builds(
            Recurrent,
            function=st.sampled_from(["lstm", "gru", "rnn"]),
            steps=SMALL,
            batch=SMALL,
            inputs=SMALL,
            hidden=SMALL,
            directions=st.integers(1, 2),
            bias=st.booleans(),
        ),
        st.builds(
            Attention,
            batch=SMALL,
            heads=st.just(4),
            key_heads=st.sampled_from([1, 2, 4]),
            queries=SMALL,
            keys=SMALL,
            width=SMALL,
            value_width=SMALL,
            causal=st.booleans(),
            mask=st.sampled_from([(), (1, 1)]),
        ),
        broadcastable().map(lambda shapes: Other(operation="scatter", shapes=shapes, output=shapes[0])),
    )


def meta(shape: Shape) -> torch.Tensor:
    return torch.empty(shape, device="meta", requires_grad=True)


def convolved(values: dict[str, Any]) -> Shape:
    """The output shape that torch gives; padding that differs between the sides is added, or cropped, by hand."""
    index, channels = len(values["input"]) - 1, (values["in_channels"], values["out_channels"])
    x = meta((values["batch"], channels[0], *values["input"]))
    pads = [size for pair in zip(values["pad_before"], values["pad_after"], strict=True) for size in pair]
    pads = [pads[at + side] for at in range(len(pads) - 2, -1, -2) for side in (0, 1)]
    how = {name: values[name] for name in ("stride", "dilation", "groups")}
    if values["transposed"]:
        weight = meta((channels[0], channels[1] // values["groups"], *values["kernel"]))
        y = TRANSPOSE[index](x, weight, output_padding=values["output_padding"], **how)
        return tuple(F.pad(y, [-size for size in pads]).shape)
    weight = meta((channels[1], channels[0] // values["groups"], *values["kernel"]))
    return tuple(CONVOLVE[index](F.pad(x, pads), weight, **how).shape)


@UNTIMED
@given(convolution_sizes())
def test_a_convolution_has_torchs_output_shape_or_both_refuse_it(values: dict[str, Any]) -> None:
    try:
        expected = convolved(values)
    except RuntimeError:
        expected = ()
    if prod(expected) == 0 or not expected:
        with pytest.raises(LatteError):
            Convolution(**values)
    else:
        assert Convolution(**values).output_shape == expected


def evenly_padded() -> st.SearchStrategy[Convolution]:
    even = convolution_sizes().map(lambda values: values | {"pad_after": values["pad_before"], "bias": False})
    return even.map(lambda values: Convolution(**fitted(values)))


@UNTIMED
@given(evenly_padded())
def test_flops_of_a_convolution_are_those_torch_counts(layer: Convolution) -> None:
    forward, data = counted_flops(layer, Phase.BACKWARD_DATA)
    again, weights = counted_flops(layer, Phase.BACKWARD_FILTER)
    # torch's formula for the gradient of the weights forgets that a group sees its own channels only
    expected = (forward, data, weights // layer.groups)
    assert forward == again
    assert tuple(layer.flops(phase) for phase in SPLIT) == expected


def counted_flops(layer: Convolution, phase: Phase) -> tuple[int, int]:
    """Torch's count for forward, and for the gradient that `phase` computes."""
    x = meta(layer.input_shapes[0]).requires_grad_(phase is Phase.BACKWARD_DATA)
    weight = meta(layer.weight_shape).requires_grad_(phase is Phase.BACKWARD_FILTER)
    extra = {"output_padding": layer.output_padding} if layer.transposed else {}
    convolve = (TRANSPOSE if layer.transposed else CONVOLVE)[len(layer.input) - 1]
    with FlopCounterMode(display=False) as forward:
        y = convolve(
            x,
            weight,
            stride=layer.stride,
            padding=layer.pad_before,
            dilation=layer.dilation,
            groups=layer.groups,
            **extra,
        )
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@UNTIMED
@given(st.builds(Linear, rows=SMALL, in_features=SMALL, out_features=SMALL, bias=st.just(False)))
def test_flops_of_a_linear_layer_are_those_torch_counts(layer: Linear) -> None:
    with FlopCounterMode(display=False) as forward:
        y = F.linear(meta(layer.input_shapes[0]), meta(layer.parameter_shapes[0]))
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert layer.flops(Phase.FORWARD) == forward.get_total_flops()
    both = layer.flops(Phase.BACKWARD_DATA) + layer.flops(Phase.BACKWARD_FILTER)
    assert both == backward.get_total_flops()


@UNTIMED
@given(st.builds(MatMul, batch=SMALL, m=SMALL, k=SMALL, n=SMALL))
def test_flops_of_a_product_of_activations_are_those_torch_counts(layer: MatMul) -> None:
    with FlopCounterMode(display=False) as forward:
        y = torch.matmul(*(meta(shape) for shape in layer.input_shapes))
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert y.shape == layer.output_shape
    assert layer.flops(Phase.FORWARD) == forward.get_total_flops()
    assert layer.flops(Phase.BACKWARD) == backward.get_total_flops()


@UNTIMED
@given(convolutions())
def test_the_workload_is_n_k_c_r_s_times_the_positions_over_the_groups(layer: Convolution) -> None:
    positions = prod(layer.input if layer.transposed else layer.output_shape[2:])
    channels = layer.in_channels * layer.out_channels // layer.groups
    assert layer.workload == layer.batch * channels * prod(layer.kernel) * positions
    assert {layer.flops(phase) for phase in SPLIT} == {2 * layer.workload}


@UNTIMED
@given(pool_sizes())
def test_a_pool_has_torchs_output_shape_or_both_refuse_it(values: dict[str, Any]) -> None:
    pool = POOLS[values["function"]][len(values["input"]) - 1]
    how = {"stride": values["stride"], "padding": values["pad_before"], "ceil_mode": values["ceil"]}
    if values["function"] == "max":
        how["dilation"] = values["dilation"]
    elif len(values["input"]) == 3:  # avg_pool3d alone refuses windows larger than the input without its padding
        assume(all(map(operator.le, values["kernel"], values["input"])))
    try:
        expected = pool(meta((values["batch"], values["channels"], *values["input"])), values["kernel"], **how).shape
    except RuntimeError:
        with pytest.raises(LatteError):
            Pool(**values)
    else:
        assert Pool(**values).output_shape == expected


@UNTIMED
@given(reductions())
def test_a_reduction_has_torchs_output_shape(layer: Reduce) -> None:
    assert torch.sum(meta(layer.shape), layer.axes, layer.keep).shape == layer.output_shape


@UNTIMED
@given(concatenable())
def test_a_concatenation_has_torchs_output_shape(drawn: tuple[tuple[Shape, ...], int]) -> None:
    shapes, axis = drawn
    expected = torch.cat([meta(shape) for shape in shapes], axis).shape
    assert Concat(shapes=shapes, axis=axis).output_shape == expected


@UNTIMED
@given(st.one_of(broadcastable(), st.lists(SHAPES, min_size=1, max_size=3).map(tuple)))
def test_shapes_broadcast_as_in_torch_or_not_at_all(shapes: tuple[Shape, ...]) -> None:
    try:
        expected = tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        with pytest.raises(LatteError):
            broadcast(*shapes)
    else:
        assert broadcast(*shapes) == expected


@UNTIMED
@given(layers())
def test_each_phase_moves_something_unless_the_layer_is_free(layer: Layer) -> None:
    for phase in Phase:
        moved, flops = layer.elements_moved(phase), layer.flops(phase)
        timed, timed_phase = layer.measured_as(phase)
        if timed_phase in timed.phases:
            assert phase is timed_phase or (moved, flops) == (
                timed.elements_moved(timed_phase),
                timed.flops(timed_phase),
            )
            assert (moved > 0) is not layer.free
            assert flops >= 0
        else:
            assert moved == flops == 0
        assert layer.bytes_moved(phase, 4) == 2 * layer.bytes_moved(phase, 2) == 4 * moved


@UNTIMED
@given(layers())
def test_each_tensor_is_moved_once_a_phase(layer: Layer) -> None:
    ins, out = sum(map(prod, layer.input_shapes)), prod(layer.output_shape)
    own = sum(map(prod, layer.parameter_shapes))
    assert layer.parameters == own
    if isinstance(layer, Optimizer | Embedding):  # which hold states, or read a part of a table
        return
    for phase in layer.phases:
        # backward as a whole reads the output's gradient, inputs and weights, and writes a gradient for each of them
        expected = out + 2 * (ins + own) if phase is Phase.BACKWARD else ins + out + own
        assert layer.elements_moved(phase) == (0 if layer.free else expected)


def test_bytes_of_a_convolution_are_those_of_its_three_tensors() -> None:
    layer = Convolution(batch=2, in_channels=3, out_channels=5, input=(8, 8), kernel=(3, 3))
    tensors = 2 * 3 * 8 * 8 + 5 * 3 * 3 * 3 + 2 * 5 * 6 * 6
    assert [layer.bytes_moved(phase, 4) for phase in SPLIT] == [4 * tensors] * 3


@UNTIMED
@given(convolutions(), st.integers(2, 5))
def test_work_grows_with_the_batch_and_weights_do_not(layer: Convolution, times: int) -> None:
    many = replace(layer, batch=times * layer.batch)
    assert many.flops(Phase.FORWARD) == times * layer.flops(Phase.FORWARD)
    activations = layer.elements_moved(Phase.FORWARD) - layer.parameters
    assert many.elements_moved(Phase.FORWARD) == times * activations + layer.parameters


@UNTIMED
@given(layers())
def test_a_layers_text_reads_back_as_the_same_layer(layer: Layer) -> None:
    text = layer_text(layer)
    again = layer_from_text(text)
    assert again == layer
    assert type(again) is type(layer)
    assert layer_text(again) == text


FOUND = settings(max_examples=2000, database=None, phases=[Stage.generate])
"""The first that is drawn will do, however large."""


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.kind)
def test_the_layers_drawn_here_are_of_every_kind(kind: type[Layer]) -> None:
    find(layers(), lambda layer: type(layer) is kind, settings=FOUND)


def test_no_two_kinds_are_known_by_the_same_name_or_number() -> None:
    assert len({kind.kind for kind in LAYERS}) == len({kind.code for kind in LAYERS}) == len(LAYERS)


@pytest.mark.parametrize("missing", ["layout_needs", "saved_tensors"])
def test_a_kind_that_does_not_say_what_memory_counts_with_cannot_be_made(missing: str) -> None:
    said = {"layout_needs": ANYHOW, "saved_tensors": lambda *_, **__: Saved()}

    @dataclass(frozen=True, kw_only=True)
    class Silent(Layer):
        kind: ClassVar[str] = "silent"

        @property
        def input_shapes(self) -> tuple[Shape, ...]:
            return ((1,),)

        @property
        def output_shape(self) -> Shape:
            return (1,)

    own = {name: value for name, value in said.items() if name != missing}
    with pytest.raises(TypeError, match=missing):
        type("Half", (Silent,), own)()
    type("Whole", (Silent,), said)()


def test_every_kind_says_itself_how_its_inputs_have_to_lie() -> None:
    assert all("layout_needs" in vars(kind) for kind in LAYERS)
    assert all(layer.layout_needs for layer in every_layer())


def test_fields_at_their_default_leave_no_trace_in_the_text() -> None:
    layer = Linear(rows=2, in_features=3, out_features=4)
    assert layer_text(layer) == '{"kind":"linear","rows":2,"in_features":3,"out_features":4}'


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 5), st.floats(), st.text(max_size=3), st.just(2**70)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@UNTIMED
@given(st.one_of(st.text(), JSON.map(json.dumps)))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(LatteError):
        layer_from_text(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"kind":"linear","rows":' + "9" * 5000 + "}", '{"kind":["linear"]}'])
def test_adversarial_text_is_refused(text: str) -> None:
    with pytest.raises(LatteError):
        layer_from_text(text)


@UNTIMED
@given(layers(), st.data())
def test_a_layers_text_with_one_field_replaced_is_a_layer_or_refused(layer: Layer, data: st.DataObject) -> None:
    body = json.loads(layer_text(layer))
    body[data.draw(st.sampled_from(["kind", "new", *(field.name for field in fields(layer))]))] = data.draw(JSON)
    try:
        changed = layer_from_text(json.dumps(body))
    except LatteError:
        return
    assert layer_from_text(layer_text(changed)) == changed
    assert all(changed.elements_moved(phase) >= 0 for phase in Phase)


@UNTIMED
@given(layers(), st.sampled_from([0, -1, -(2**40), 2**40, 2**80]), st.data())
def test_no_dimension_is_below_the_least_or_beyond_all_memory(layer: Layer, size: int, data: st.DataObject) -> None:
    assume(size or layer.least_size)
    known = {"batch", "rows", "classes", "channels", "m", "elements", "shape", "shapes"}
    own = known & {field.name for field in fields(layer)}
    name = data.draw(st.sampled_from(sorted(own or {"tensors"})))
    value = {"shape": (size, 2), "shapes": ((size, 2), (size, 2))}.get(name, size)
    with pytest.raises(LatteError):
        replace(layer, **{name: value})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Convolution, {"input": (), "kernel": ()}),
        (Convolution, {"input": (4,) * 4, "kernel": (1,) * 4}),
        (Convolution, {"input": (4, 4), "kernel": (3,)}),
        (Convolution, {"input": (4,), "kernel": (5,)}),
        (Convolution, {"input": (4,), "kernel": (0,)}),
        (Convolution, {"input": (4,), "kernel": (1,), "stride": (0,)}),
        (Convolution, {"input": (4,), "kernel": (1,), "pad_before": (-1,)}),
        (Convolution, {"input": (4,), "kernel": (1,), "groups": 0}),
        (Convolution, {"input": (4,), "kernel": (1,), "groups": 3}),
        (Convolution, {"input": (4.5,), "kernel": (1,)}),
    ],
)
def test_a_convolution_that_makes_no_sense_is_refused(kind: type[Layer], values: dict[str, Any]) -> None:
    with pytest.raises(LatteError, match="a convolution layer cannot have"):
        kind(batch=1, in_channels=2, out_channels=2, **values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Pool, {"function": "max", "batch": 1, "channels": 1, "input": (), "kernel": ()}),
        (Pool, {"function": "max", "batch": 1, "channels": 1, "input": (3,), "kernel": (0,)}),
        (Norm, {"function": "group", "shape": (2, 3), "span": 2}),
        (Norm, {"function": "layer", "shape": (2, 3), "span": 3}),
        (Norm, {"function": "layer", "shape": (2, 3), "span": 0}),
        (Softmax, {"shape": (2, 3), "axis": 2}),
        (Reduce, {"shape": (2, 3), "operation": "sum", "axes": (-3,)}),
        (Reduce, {"shape": (), "operation": "sum", "axes": (0,)}),
        (Concat, {"shapes": ()}),
        (Concat, {"shapes": ((2, 3), (3, 3))}),
        (Elementwise, {"operation": "add", "shapes": ()}),
        (Elementwise, {"operation": "add", "shapes": ((2,), (3,))}),
        (Copy, {"operation": "transpose", "shape": (2, 3), "output": (2, 3), "order": (1, 0)}),
        (Copy, {"operation": "transpose", "shape": (2, 3), "output": (3,), "order": (1,)}),
        (View, {"shape": (2, 3), "output": (5,)}),
    ],
)
def test_a_layer_that_makes_no_sense_is_refused(kind: type[Layer], values: dict[str, Any]) -> None:
    with pytest.raises(LatteError):
        kind(**values)


def runs(layer: Layer) -> Shape:
    """The shape torch gives for the layer on inputs of its shapes."""
    with torch.device("meta"):
        return tuple(layer_module(layer)(*(torch.empty(shape) for shape in layer.input_shapes)).shape)


@UNTIMED
@given(convolutions(groups=1), SMALL, SMALL, SMALL)
def test_a_resized_convolution_takes_the_new_input_and_makes_the_new_channels(
    layer: Convolution, batch: int, channels: int, wide: int
) -> None:
    shape = (batch, channels, *layer.input)
    resized = layer.resize([shape], wide)
    assert resized.input_shapes == (shape,)
    assert runs(resized) == resized.output_shape == (batch, wide, *layer.output)


@UNTIMED
@given(convolutions(in_channels=4, out_channels=8, groups=4), st.integers(1, 6))
def test_a_resized_depthwise_convolution_keeps_its_multiplier(layer: Convolution, channels: int) -> None:
    resized = layer.resize([(layer.batch, channels, *layer.input)])
    assert (resized.groups, resized.out_channels) == (channels, 2 * channels)
    assert runs(resized) == resized.output_shape


@UNTIMED
@given(layers())
def test_a_layer_resized_to_the_shapes_it_has_is_itself(layer: Layer) -> None:
    assume(not isinstance(layer, Checkpoint | MatMul | Optimizer | Other | Transfer | Whole))
    assert layer.resize(layer.input_shapes) == layer


@UNTIMED
@given(pools(), SMALL, SMALL)
def test_a_resized_pool_takes_the_new_batch_and_channels(layer: Pool, batch: int, channels: int) -> None:
    resized = layer.resize([(batch, channels, *layer.input)])
    assert runs(resized) == resized.output_shape == (batch, channels, *layer.output)


@UNTIMED
@given(st.builds(Linear, rows=SMALL, in_features=SMALL, out_features=SMALL), SOLID, SMALL)
def test_a_resized_linear_layer_counts_all_leading_dimensions_as_rows(layer: Linear, shape: Shape, wide: int) -> None:
    resized = layer.resize([shape], wide)
    assert runs(resized) == resized.output_shape == (prod(shape[:-1]), wide)


@UNTIMED
@given(transposes(), st.data())
def test_a_resized_transpose_keeps_its_order(layer: Copy, data: st.DataObject) -> None:
    shape = sizes(data.draw, len(layer.shape), 1, 5)
    assert runs(layer.resize([shape])) == layer.resize([shape]).output_shape


def test_a_layer_without_another_form_says_so() -> None:
    with pytest.raises(LatteError, match="a matmul layer cannot be resized"):
        MatMul(m=1, k=2, n=3).resize([(1, 2), (2, 3)])


@UNTIMED
@given(st.lists(st.lists(SMALL, min_size=1, max_size=3), min_size=1, max_size=3), st.booleans(), st.data())
def test_a_reshape_that_merges_or_splits_dimensions_scales_with_its_input(
    groups: list[list[int]], splits: bool, data: st.DataObject
) -> None:
    apart, merged = tuple(size for group in groups for size in group), tuple(map(prod, groups))
    times = data.draw(st.integers(1, 4))
    if splits:  # the first dimension takes the change
        scaled = (times * merged[0], *merged[1:])
        result = scaled_reshape(merged, apart, scaled)
    else:
        scaled = (times * apart[0], *apart[1:])
        result = scaled_reshape(apart, merged, scaled)
        assert result == (times * merged[0], *merged[1:])
    assert prod(result) == prod(scaled)
    assert len(result) == len(apart if splits else merged)


@UNTIMED
@given(st.lists(st.tuples(SMALL, SMALL), max_size=4), SHAPES)
def test_a_reshape_keeps_all_elements_at_another_size_or_is_refused(
    sizes: list[tuple[int, int]], output: Shape
) -> None:
    shape, scaled = tuple(old for old, _ in sizes), tuple(new for _, new in sizes)
    try:
        result = scaled_reshape(shape, output, scaled)
    except LatteError:
        return
    assert prod(result) == prod(scaled)


def test_flattening_follows_the_channels() -> None:
    assert scaled_reshape((8, 64, 7, 7), (8, 3136), (8, 16, 7, 7)) == (8, 784)
    assert scaled_reshape((8, 64, 7, 7), (8, 2, 32, 7, 7), (8, 32, 7, 7)) == (8, 1, 32, 7, 7)
    assert scaled_reshape((8, 10, 1, 1), (8, 10), (2, 10, 1, 1)) == (2, 10)
