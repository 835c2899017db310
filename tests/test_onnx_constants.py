"""Constants that a file computes: as ONNX says, and refused where that takes too much room or time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from test_torture import WEIGHT, model

from latte_cli.errors import LatteError
from latte_cli.network.weights import weights

N, VALUE = helper.make_node, helper.make_tensor_value_info


@pytest.mark.parametrize("kind", ["Range", "ConstantOfShape", "Expand", "Tile"])
def test_a_weight_that_would_be_computed_to_gigabytes_is_refused(tmp_path: Path, kind: str) -> None:
    def number(name: str, *values: int, scalar: bool = False) -> TensorProto:
        return numpy_helper.from_array(np.int64(values[0]) if scalar else np.array(values), name)

    given = {
        "Range": [number(name, value, scalar=True) for name, value in (("a", 0), ("b", 1 << 33), ("c", 1))],
        "ConstantOfShape": [number("a", 1 << 20, 1 << 13)],
        "Expand": [WEIGHT, number("a", 1 << 20, 4, 3, 3, 3)],
        "Tile": [WEIGHT, number("a", 1 << 20, 1, 1, 1)],
    }[kind]
    nodes = [helper.make_node(kind, [each.name for each in given], ["big"]), helper.make_node("Relu", ["x"], ["y"])]
    path = model(tmp_path / "m.onnx", *nodes, stored=given)
    with pytest.raises(LatteError, match=r"`big` would hold [\d,]+ numbers"):
        weights(path)["big"]


HARD: dict[str, tuple[list[NodeProto], dict[str, Any], str]] = {
    "a range up to a product": (
        [N("Mul", ["a", "a"], ["p"]), N("Range", ["z", "p", "o"], ["big"])],
        {"a": np.float32(1e5), "z": np.float32(0), "o": np.float32(1)},
        r"`big` would hold [\d,]+ numbers",
    ),
    "a shape that is chosen": (
        [N("NonZero", ["a"], ["p"]), N("Add", ["p", "k"], ["q"]), N("Squeeze", ["q", "z"], ["s"]),
         N("ConstantOfShape", ["s"], ["big"])],
        {"a": np.ones(4, np.int64), "k": np.full((1, 4), 9999), "z": np.zeros(1, np.int64)},
        r"`big` would hold [\d,]+ numbers",
    ),
    "many of a size that is allowed": (
        [N("ConstantOfShape", ["a"], ["c0"]), *(N("Neg", [f"c{at}"], [f"c{at + 1}"]) for at in range(300)),
         N("Identity", ["c300"], ["big"])],
        {"a": np.array([1 << 25])},
        r"`c\d+` would hold 33,554,432 numbers, or take too long",
    ),
    "all at once": (
        [N("ConstantOfShape", ["a"], ["c"]), *(N("Neg", ["c"], [f"c{at}"]) for at in range(30)),
         N("Sum", [f"c{at}" for at in range(30)], ["big"])],
        {"a": np.array([1 << 24])},
        r"`c\d` would hold 16,777,216 numbers, or take too long",
    ),
    "a sum over all": (
        [N("Einsum", ["a", "a", "a", "a", "a"], ["big"], equation="a,b,c,d,e->")],
        {"a": np.ones(1000, np.float32)},
        r"`big` would hold 1 numbers, or take too long",
    ),
    "numbers of which nobody knows how many": (
        [N("SequenceConstruct", ["a"], ["s"]), N("ConcatFromSequence", ["s"], ["big"], axis=0)],
        {"a": np.ones(4, np.float32)},
        "the shape of `s` is not known",
    ),
    "sizes that do not fit": (
        [N("MatMul", ["a", "a"], ["big"])],
        {"a": np.ones((4, 5), np.float32)},
        "the shape of `big` is not known",
    ),
    "a product": (
        [N("ConstantOfShape", ["a"], ["c"]), N("MatMul", ["c", "c"], ["big"])],
        {"a": np.array([5600, 5600])},
        r"`big` would hold 31,360,000 numbers, or take too long",
    ),
    "pools number by number": (
        [N("MaxPool", ["a"], ["big"], kernel_shape=[1, 1])],
        {"a": np.zeros((1, 1, 1500, 1500), np.int8)},
        r"`big` would hold 2,250,000 numbers, or take too long",
    ),
    "a wide pool": (
        [N("AveragePool", ["a"], ["big"], kernel_shape=[8, 65536], auto_pad="SAME_UPPER")],
        {"a": np.zeros((1, 8, 2, 8), np.float32)},
        r"`big` would hold 128 numbers, or take too long",
    ),
    "wide kernels": (
        [N("Conv", ["a", "w"], ["big"], pads=[0, 1000])],
        {"a": np.zeros((1, 1, 1000), np.float32), "w": np.zeros((1, 1, 1000), np.float32)},
        r"`big` would hold 1,001 numbers, or take too long",
    ),
    "regions of any size": (
        [N("MaxRoiPool", ["a", "r"], ["big"], pooled_shape=[1, 1])],
        {"a": np.zeros((1, 1, 4, 4), np.float32), "r": np.array([[0, 0, 0, 1e9, 1e9]], np.float32)},
        "`MaxRoiPool` is not computed of weights",
    ),
    "an input without numbers": (
        [N("STFT", ["a", "b", "w"], ["big"], onesided=0)],
        {"a": np.zeros((1, 8, 1), np.float32), "b": np.zeros((1, 3, 0), np.float32), "w": np.zeros(8, np.float32)},
        "the shape of `big` is not known",
    ),
    "a loop": (
        [N("Loop", ["a", ""], ["big"], body=helper.make_graph(
            [N("Identity", ["c"], ["d"]), N("Identity", ["i"], ["e"])], "b",
            [VALUE("i", 7, []), VALUE("c", 9, [])], [VALUE("d", 9, []), VALUE("e", 7, [])]))],
        {"a": np.int64(1 << 40)},
        "`Loop` runs another graph",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HARD)
def test_a_weight_that_takes_too_much_to_compute_is_refused(tmp_path: Path, name: str) -> None:
    nodes, stored, reason = HARD[name]
    held = [numpy_helper.from_array(np.asarray(array), each) for each, array in stored.items()]
    path = model(tmp_path / "m.onnx", *nodes, N("Relu", ["x"], ["y"]), stored=held)
    with pytest.raises(LatteError, match=reason):
        weights(path)["big"]
