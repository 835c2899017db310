"""Where the batch is: a file of one batch size, read at another, is what its export at that size is."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto
from test_onnx_weights import N, heavy, made, network, reals, whole_numbers

from latte_cli.errors import LatteError
from latte_cli.layers import Shape
from latte_cli.network import Network

WANTED = 6
LSTM = {"lw": reals(1, 24, 4), "lr": reals(1, 24, 6)}
M = {"m": reals(4, 3)}


def split_apart(batch: int) -> ModelProto:
    nodes = [N("Concat", ["x", "z"], ["both"], axis=0), N("Split", ["both", "n"], ["a", "c"], axis=0),
             N("MatMul", ["a", "m"], ["p"]), N("MatMul", ["c", "m"], ["q"]), N("Sub", ["p", "q"], ["y"])]  # fmt: skip
    return made(nodes, {"x": (batch, 4), "z": (batch, 4)}, M | {"n": whole_numbers(batch, batch)})


def sliced_apart(batch: int) -> ModelProto:
    nodes = [N("Concat", ["x", "z"], ["both"], axis=0), N("Slice", ["both", "zero", "n", "zero"], ["a"]),
             N("Slice", ["both", "n", "end", "zero"], ["c"]), N("Sub", ["a", "c"], ["d"]),
             N("MatMul", ["d", "m"], ["y"])]  # fmt: skip
    numbers = {"zero": whole_numbers(0), "n": whole_numbers(batch), "end": whole_numbers(2**31)}
    return made(nodes, {"x": (batch, 4), "z": (batch, 4)}, M | numbers)


def token(batch: int) -> ModelProto:
    nodes = [N("Expand", ["t", "s"], ["e"]), N("Concat", ["e", "x"], ["c"], axis=1), N("MatMul", ["c", "m"], ["y"])]
    return made(nodes, {"x": (batch, 5, 4)}, M | {"t": reals(1, 1, 4), "s": whole_numbers(batch, 1, 4)})


def queries_behind_steps(batch: int) -> ModelProto:
    nodes = [N("Unsqueeze", ["t", "one"], ["u"]), N("Expand", ["u", "s"], ["e"]),
             N("Transpose", ["x"], ["xt"], perm=[1, 0, 2]), N("Concat", ["e", "xt"], ["c"], axis=0),
             N("MatMul", ["c", "m"], ["y"])]  # fmt: skip
    numbers = {"one": whole_numbers(1), "s": whole_numbers(3, batch, 4)}
    return made(nodes, {"x": (batch, 5, 4)}, M | numbers | {"t": reals(3, 4)})


def heads(batch: int) -> ModelProto:
    nodes = [N("Reshape", ["x", "s"], ["q"]), N("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
             N("MatMul", ["q", "k"], ["r"]), N("Softmax", ["r"], ["p"], axis=-1), N("MatMul", ["p", "q"], ["o"]),
             N("Reshape", ["o", "s2"], ["y"])]  # fmt: skip
    numbers = {"s": whole_numbers(batch * 2, 6, 4), "s2": whole_numbers(batch, 2, 6, 4)}
    return made(nodes, {"x": (batch, 2, 6, 4)}, numbers)


def steps_of_heads(batch: int) -> ModelProto:
    """As torch's attention has it: steps first, heads beside the batch."""
    nodes = [N("Transpose", ["x"], ["xt"], perm=[1, 0, 2]), N("Reshape", ["xt", "s"], ["h"]),
             N("Transpose", ["h"], ["q"], perm=[1, 0, 2]), N("Transpose", ["h"], ["k"], perm=[1, 2, 0]),
             N("MatMul", ["q", "k"], ["r"]), N("Softmax", ["r"], ["p"], axis=-1), N("MatMul", ["p", "q"], ["o"]),
             N("Transpose", ["o"], ["ot"], perm=[1, 0, 2]), N("Reshape", ["ot", "s2"], ["f"]),
             N("Gemm", ["f", "w"], ["g"]), N("Reshape", ["g", "s3"], ["y"])]  # fmt: skip
    numbers = {"s": whole_numbers(5, batch * 2, 4), "s2": whole_numbers(5 * batch, 8)}
    return made(nodes, {"x": (batch, 5, 8)}, numbers | {"w": reals(8, 8), "s3": whole_numbers(5, batch, 8)})


def windows(batch: int) -> ModelProto:
    nodes = [N("Reshape", ["x", "s"], ["a"]), N("Transpose", ["a"], ["t"], perm=[0, 1, 3, 2, 4, 5]),
             N("Reshape", ["t", "s2"], ["c"]), N("MatMul", ["c", "m"], ["d"]), N("Reshape", ["d", "s3"], ["e"]),
             N("Transpose", ["e"], ["f"], perm=[0, 1, 3, 2, 4, 5]), N("Reshape", ["f", "s4"], ["y"])]  # fmt: skip
    numbers = {
        "s": whole_numbers(batch, 2, 4, 2, 4, 4), "s2": whole_numbers(batch * 4, 16, 4),
        "s3": whole_numbers(batch, 2, 2, 4, 4, 3), "s4": whole_numbers(batch, 8, 8, 3),
    }  # fmt: skip
    return made(nodes, {"x": (batch, 8, 8, 4)}, M | numbers)


def last_state(batch: int) -> ModelProto:
    nodes = [N("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
             N("LSTM", ["xt", "lw", "lr", "", "", "h", "h"], ["", "l"], hidden_size=6),
             N("Squeeze", ["l", "zero"], ["f"]), N("Gemm", ["f", "o"], ["y"])]  # fmt: skip
    zeros = np.zeros((1, batch, 6), np.float32)
    return made(nodes, {"x": (batch, 5, 4)}, LSTM | {"zero": whole_numbers(0), "o": reals(6, 3), "h": zeros})


def enlarged(batch: int) -> ModelProto:
    nodes = [N("Resize", ["x", "", "", "s"], ["r"]), N("Conv", ["r", "v"], ["y"])]
    return made(nodes, {"x": (batch, 3, 6, 6)}, {"v": reals(3, 3, 3, 3), "s": whole_numbers(batch, 3, 12, 12)})


def constant_mask(batch: int) -> ModelProto:
    nodes = [N("Add", ["x", "mask"], ["s"]), N("Softmax", ["s"], ["p"], axis=-1), N("MatMul", ["p", "m"], ["y"])]
    hidden = np.triu(np.full((batch, 1, 4, 4), -np.inf, np.float32), 1)
    return made(nodes, {"x": (batch, 2, 4, 4)}, M | {"mask": hidden})


def constant_positions(batch: int) -> ModelProto:
    """Looked up for each sample, with numbers that the graph computes from constants."""
    nodes = [N("Add", ["i", "two"], ["j"]), N("Gather", ["t", "j"], ["e"]), N("Gather", ["k", "j"], ["f"]),
             N("Add", ["e", "f"], ["g"]), N("Add", ["x", "g"], ["h"]), N("Reshape", ["h", "s"], ["r"]),
             N("MatMul", ["r", "m"], ["y"])]  # fmt: skip
    numbers = {"i": np.tile(np.arange(6), (batch, 1)), "two": whole_numbers(2), "s": whole_numbers(batch, 6, 2, 4)}
    return made(nodes, {"x": (batch, 6, 8)}, M | numbers | {"t": reals(9, 8), "k": reals(9, 8)})


def repeated_token(batch: int) -> ModelProto:
    """A parameter that the exporter has repeated for each sample."""
    nodes = [N("Concat", ["t", "x"], ["c"], axis=1), N("MatMul", ["c", "m"], ["y"])]
    return made(nodes, {"x": (batch, 5, 4)}, M | {"t": np.tile(np.arange(4, dtype=np.float32), (batch, 1, 1))})


def mask_of_places(batch: int) -> ModelProto:
    """Places that are looked up and that a mask is computed from as well, all from constants."""
    nodes = [N("Gather", ["t", "i"], ["e"]), N("Add", ["x", "e"], ["h"]), N("Reshape", ["i", "s"], ["j"]),
             N("Expand", ["j", "whole"], ["k"]), N("Equal", ["k", "zero"], ["b"]),
             N("Where", ["b", "low", "no"], ["f"]),
             N("Transpose", ["h"], ["u"], perm=[0, 2, 1]), N("MatMul", ["h", "u"], ["r"]),
             N("Add", ["r", "f"], ["q"]), N("MatMul", ["q", "m"], ["y"])]  # fmt: skip
    numbers = {"i": np.tile(np.arange(4), (batch, 1)), "s": whole_numbers(batch, 1, 4), "zero": np.int64(0)}
    numbers |= {"whole": whole_numbers(batch, 4, 4), "low": np.float32(-np.inf), "no": np.float32(0)}
    return made(nodes, {"x": (batch, 4, 8)}, M | numbers | {"t": reals(9, 8)})


def drawn_for_each_sample(batch: int) -> ModelProto:
    nodes = [N("ConstantOfShape", ["s"], ["d"]), N("Div", ["d", "keep"], ["e"]), N("Mul", ["x", "e"], ["z"]),
             N("MatMul", ["z", "m"], ["y"])]  # fmt: skip
    return made(nodes, {"x": (batch, 5, 4)}, M | {"s": whole_numbers(batch, 1, 1), "keep": np.float32(0.5)})


def biases_of_heads(batch: int) -> ModelProto:
    """One for each head of each sample, in one dimension."""
    nodes = [N("Reshape", ["x", "s"], ["q"]), N("Add", ["q", "alibi"], ["r"]), N("MatMul", ["r", "m"], ["y"])]
    slopes = np.tile(np.arange(3, dtype=np.float32), batch)[:, None, None] * np.arange(4, dtype=np.float32)
    lowest = np.minimum(slopes, 0) - 1e5
    return made(nodes, {"x": (batch, 3, 5, 4)}, M | {"s": whole_numbers(batch * 3, 5, 4), "alibi": lowest})


def slopes_of_heads(batch: int) -> ModelProto:
    """Positions, times a slope for each head of each sample."""
    nodes = [N("Reshape", ["x", "s"], ["q"]), N("Add", ["q", "alibi"], ["r"]), N("MatMul", ["r", "m"], ["y"])]
    slopes = np.tile(2 ** -np.arange(3, dtype=np.float32), batch)[:, None, None] * np.arange(4, dtype=np.float32)
    return made(nodes, {"x": (batch, 3, 5, 4)}, M | {"s": whole_numbers(batch * 3, 5, 4), "alibi": slopes})


def masks_of_windows(batch: int) -> ModelProto:
    """A table for all windows, with a mask for each, which the export repeated for each sample."""
    nodes = [N("Reshape", ["x", "s"], ["w"]), N("Add", ["t", "mask"], ["b"]), N("Add", ["w", "b"], ["r"]),
             N("MatMul", ["r", "m"], ["y"])]  # fmt: skip
    masks = np.stack([np.zeros((5, 4)), np.triu(np.full((5, 4), -100)), np.tril(np.full((5, 4), -100))])
    numbers = {"s": whole_numbers(batch * 3, 5, 4), "mask": np.tile(masks.astype(np.float32), (batch, 1, 1))}
    return made(nodes, {"x": (batch, 15, 4)}, M | numbers | {"t": np.float32(np.random.default_rng(0).random((5, 4)))})


def rows_of_a_table(batch: int) -> ModelProto:
    nodes = [N("GatherND", ["t", "i"], ["e"]), N("Add", ["x", "e"], ["h"]), N("MatMul", ["h", "m"], ["y"])]
    places = np.tile(np.arange(6), (batch, 1))[..., None]
    return made(nodes, {"x": (batch, 6, 4)}, M | {"i": places, "t": reals(9, 4)})


def one_of_several(batch: int) -> ModelProto:
    nodes = [N("Transpose", ["x"], ["u"], perm=[1, 0, 2]), N("GatherND", ["u", "i"], ["g"]),
             N("Reshape", ["g", "s"], ["r"]), N("MatMul", ["r", "m"], ["y"])]  # fmt: skip
    return made(nodes, {"x": (batch, 5, 12)}, M | {"i": np.asarray([[2]]), "s": whole_numbers(batch, 3, 4)})


def samples_in_another_order(batch: int) -> ModelProto:
    nodes = [N("Gather", ["x", "i"], ["g"]), N("MatMul", ["g", "m"], ["y"])]
    return made(nodes, {"x": (batch, 5, 4)}, M | {"i": np.roll(np.arange(batch), 1)})


def last_steps(batch: int) -> ModelProto:
    """A step of each sample, at indices of both."""
    nodes = [N("GatherND", ["x", "i"], ["g"]), N("MatMul", ["g", "m"], ["y"])]
    return made(nodes, {"x": (batch, 5, 4)}, M | {"i": np.stack([np.arange(batch), np.full(batch, 4)], 1)})


def projected_places(batch: int) -> ModelProto:
    """Places of each sample that a layer projects, all from constants."""
    nodes = [N("Cast", ["i"], ["c"], to=1), N("Sin", ["c"], ["n"]), N("MatMul", ["n", "w"], ["p"]),
             N("Reshape", ["p", "s"], ["e"]), N("Add", ["x", "e"], ["h"]), N("Reshape", ["h", "s2"], ["r"]),
             N("MatMul", ["r", "m"], ["y"])]  # fmt: skip
    numbers = {"i": np.tile(np.arange(18).reshape(3, 6), (batch, 1, 1)), "w": reals(6, 4)}
    numbers |= {"s": whole_numbers(batch, -1), "s2": whole_numbers(batch, 3, 4)}
    return made(nodes, {"x": (batch, 12)}, M | numbers)


def places_in_a_flat_batch(batch: int) -> ModelProto:
    nodes = [N("Add", ["z", "at"], ["i"]), N("Reshape", ["x", "s"], ["f"]), N("Gather", ["f", "i"], ["g"]),
             N("MatMul", ["g", "m"], ["y"])]  # fmt: skip
    numbers = {"at": np.arange(batch) * 5, "s": whole_numbers(-1, 4)}
    return made(nodes, {"x": (batch, 5, 4), "z": (batch,)}, M | numbers, integers=["z"])


def steps_first(batch: int) -> ModelProto:
    return made([N("LSTM", ["x", "lw", "lr"], ["y"], hidden_size=6)], {"x": (5, batch, 4)}, LSTM)


MAKERS = (
    *(split_apart, sliced_apart, token, queries_behind_steps, heads, steps_of_heads, windows, last_state, enlarged),
    *(constant_mask, constant_positions, repeated_token, drawn_for_each_sample, biases_of_heads),
    *(places_in_a_flat_batch, mask_of_places, slopes_of_heads, masks_of_windows, rows_of_a_table, one_of_several),
)


def facts(found: Network) -> tuple[object, ...]:
    return found.parameters, heavy(found), [found.shapes[name] for name in found.outputs], found.inputs


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_file_read_at_another_batch_is_its_export_there(make: Callable[[int], ModelProto], batch: int) -> None:
    assert facts(network(make(batch), batch_size=WANTED)) == facts(network(make(WANTED)))


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("make", [projected_places, samples_in_another_order, last_steps], ids=lambda it: it.__name__)
def test_constants_for_each_sample_follow_the_batch(make: Callable[[int], ModelProto], batch: int) -> None:
    """An export of one sample has them once, for all."""
    assert facts(network(make(batch), batch_size=WANTED)) == facts(network(make(WANTED)))


@pytest.mark.parametrize(("shape", "what", "count"), [((2, 1, 4), "a parameter", 16), ((2, 5, 4), "a constant", 12)])
def test_what_an_unseen_constant_of_the_batch_is_taken_for_is_said(shape: Shape, what: str, count: int) -> None:
    nodes = [N("Add", ["x", "t"], ["c"]), N("MatMul", ["c", "m"], ["y"])]
    model = made(nodes, {"x": (2, 5, 4)}, M | {"t": reals(*shape)})
    model.graph.initializer[1].data_location = TensorProto.EXTERNAL
    found = network(model, batch_size=3)
    assert found.parameters == count
    assert any(what in note for note in found.notes)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_batch_is_where_the_user_says(batch: int) -> None:
    assert facts(network(steps_first(batch), batch_size=WANTED, batch_axis=1)) == facts(network(steps_first(WANTED)))


def test_steps_that_are_taken_for_the_batch_are_refused_with_the_cure() -> None:
    with pytest.raises(LatteError, match=r"at a batch of 6: .*for steps of a sequence") as caught:
        network(steps_first(2), batch_size=WANTED)
    hint = str(caught.value.hint)
    assert all(text in hint for text in ("--batch-size", "--batch-axis", "dynamic_shapes=({0:", "dynamic_axes={"))


def test_an_axis_that_the_inputs_lack_is_refused() -> None:
    with pytest.raises(LatteError, match="there is no batch axis 3"):
        network(steps_first(2), batch_size=WANTED, batch_axis=3)


def test_a_dimension_that_is_called_batch_is_the_batch_wherever_it_is() -> None:
    model = steps_first(2)
    for dimension, name in zip(model.graph.input[0].type.tensor_type.shape.dim, ("seq", "batch_size", ""), strict=True):
        if name:
            dimension.dim_param = name
    assert network(model, batch_size=WANTED, sizes={"seq": 5}).shapes["y"] == (5, 1, WANTED, 6)


def test_a_slice_that_takes_a_part_of_the_batch_is_refused() -> None:
    first = N("Slice", ["x", "zero", "one", "zero"], ["a"])
    for batch in (1, 2):
        numbers = {"zero": whole_numbers(0), "one": whole_numbers(1)}
        model = made([first, N("MatMul", ["a", "m"], ["y"])], {"x": (batch, 4)}, M | numbers)
        with pytest.raises(LatteError, match=r"`a`.*(takes a part of its batch|takes the first sample or all)"):
            network(model, batch_size=WANTED)


@pytest.mark.parametrize("target", [(0, 4, 2), (2, 0), (0,), (0, 2, 4)])
@pytest.mark.parametrize("apart", [(0, 8), (8, 0), (2, 0, 4)])
def test_a_dimension_without_numbers_is_read_or_refused(target: Sequence[int], apart: Sequence[int]) -> None:
    nodes = [N("Reshape", ["x", "s"], ["a"], allowzero=1), N("Reshape", ["a", "t"], ["b"], allowzero=1),
             N("Tile", ["b", "u"], ["y"])]  # fmt: skip
    numbers = {"s": whole_numbers(*apart), "t": whole_numbers(*target), "u": whole_numbers(*[2] * len(target))}
    with suppress(LatteError):
        network(made(nodes, {"x": (2, 0, 4)}, numbers), batch_size=WANTED)


@pytest.mark.parametrize("target", [(1, 32), (1, -1)])
def test_an_open_batch_goes_where_the_export_s_one_was(target: Sequence[int]) -> None:
    nodes = [N("Reshape", ["x", "s"], ["a"]), N("Relu", ["a"], ["y"])]
    model = made(nodes, {"x": ("N", 2, 4, 4)}, {"s": whole_numbers(*target)})  # type: ignore[dict-item]
    assert network(model, batch_size=4).shapes["y"] == (4, 32)


def test_dimensions_of_one_name_can_be_given_by_place() -> None:
    model = made([N("MatMul", ["a", "b"], ["y"])], {"a": ("N", "s", 4), "b": ("N", 4, "s")}, {})  # type: ignore[dict-item]
    assert network(model, batch_size=2, sizes={"a[1]": 5, "b[2]": 7}).shapes["y"] == (2, 5, 7)


STEPS: dict[str, Callable[[tuple[int, ...]], tuple[int, ...] | None]] = {
    "first two as one": lambda axes: (axes[0] * axes[1], *axes[2:]) if len(axes) > 2 else None,
    "last two as one": lambda axes: (*axes[:-2], axes[-2] * axes[-1]) if len(axes) > 2 else None,
    "halves of the last": lambda axes: (*axes[:-1], axes[-1] // 2, 2) if axes[-1] % 2 == 0 and len(axes) < 5 else None,
}


@given(
    st.lists(st.tuples(st.sampled_from([*STEPS, "order", "product"]), st.randoms(use_true_random=False)), max_size=6),
    st.sampled_from([2, 3, 7]),
)
def test_reshapes_with_the_numbers_of_an_export_follow_the_batch(steps: list[Any], batch: int) -> None:
    """A chain of reshapes, transposes and products, written at one batch and at another."""
    orders = [draw.sample(range(5), 5) for _, draw in steps]
    written, wanted = (_chain([kind for kind, _ in steps], orders, size) for size in (batch, WANTED))
    try:
        found = network(written, batch_size=WANTED)
    except LatteError as error:
        assert "at a batch of 6" in error.message
        return
    assert facts(found) == facts(network(wanted))


def _chain(kinds: list[str], orders: list[list[int]], batch: int) -> ModelProto:
    shape, marked, nodes, stored = (batch, 4, 5, 8), (11, 4, 5, 8), [N("Relu", ["x"], ["h"])], dict[str, Any]()
    for at, (kind, order) in enumerate(zip(kinds, orders, strict=True)):
        name = f"h{at}"
        if kind == "order":
            perm = [axis for axis in order if axis < len(shape)]
            nodes.append(N("Transpose", [nodes[-1].output[0]], [name], perm=perm))
            shape, marked = tuple(shape[axis] for axis in perm), tuple(marked[axis] for axis in perm)
        elif kind == "product":
            if marked[-1] % 11 == 0:
                continue
            stored[f"w{at}"] = reals(shape[-1], 4)
            nodes.append(N("MatMul", [nodes[-1].output[0], f"w{at}"], [name]))
            shape, marked = (*shape[:-1], 4), (*marked[:-1], 4)
        else:
            after, mark = STEPS[kind](shape), STEPS[kind](marked)
            if after is None or mark is None or marked[-1] % 11 == 0:
                continue
            stored[f"s{at}"] = whole_numbers(*after)
            nodes.append(N("Reshape", [nodes[-1].output[0], f"s{at}"], [name]))
            shape, marked = after, mark
    return made(nodes, {"x": (batch, 4, 5, 8)}, stored)
