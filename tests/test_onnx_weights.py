"""Weights wherever a graph has them: each is counted once, with the work that it takes part in."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from test_onnx import assert_sound

from latte_cli.errors import LatteError
from latte_cli.network import Network, load
from latte_cli.network.onnx import read
from latte_cli.network.onnx.control import DEEPEST
from latte_cli.network.onnx.origins import Part, overlaps, taken, whole

FLOAT, INT64, BOOL, INT8, UINT8 = (
    *(TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL),
    *(TensorProto.INT8, TensorProto.UINT8),
)
HEAVY = ("convolution", "linear", "matmul", "recurrent", "attention")
N = helper.make_node


def reals(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def whole_numbers(*values: int) -> Any:
    return np.asarray(values, np.int64)


def value(name: str, shape: Sequence[int] | None = None, element: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def made(
    nodes: list[NodeProto],
    inputs: dict[str, Sequence[int]],
    stored: dict[str, Any],
    *,
    opset: int = 17,
    integers: Sequence[str] = (),
    functions: Sequence[FunctionProto] = (),
) -> ModelProto:
    given = [value(name, shape, INT64 if name in integers else FLOAT) for name, shape in inputs.items()]
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "graph", given, [value(nodes[-1].output[0])], held)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def network(model: ModelProto, **options: Any) -> Network:
    found = read(
        model.SerializeToString(), name="m", sha256="", **{"batch_size": None, "allow_unknown": False, **options}
    )
    assert_sound(found)
    return found


def heavy(found: Network) -> int:
    return sum(layer.flops(layer.phases[0]) for layer in found.layers if layer.kind in HEAVY)


SCALE = {"g": reals(4)}
SQUARE = {"w": reals(4, 4)}
PARTS = {"w": reals(4, 8), "zero": whole_numbers(0), "two": whole_numbers(2), "four": whole_numbers(4),
         "six": whole_numbers(6), "one": whole_numbers(1)}  # fmt: skip
LORA = {"w": reals(5, 4), "B": reals(5, 2), "A": reals(2, 4)}
CASES: dict[str, tuple[list[NodeProto], dict[str, Sequence[int]], dict[str, Any], int, int]] = {
    "a matrix on the left": ([N("MatMul", ["w", "x"], ["y"])], {"x": (2, 4, 3)}, {"w": reals(5, 4)}, 20, 240),
    "a bank on the right": ([N("MatMul", ["x", "w"], ["y"])], {"x": (3, 2, 4)}, {"w": reals(3, 4, 5)}, 60, 240),
    "a bank on the left": ([N("MatMul", ["w", "x"], ["y"])], {"x": (2, 4, 3)}, {"w": reals(2, 5, 4)}, 40, 240),
    "a bank that is repeated": (
        [N("MatMul", ["x", "w"], ["y"])], {"x": (7, 1, 2, 4)}, {"w": reals(3, 4, 5)}, 60, 1680,
    ),
    "a vector": ([N("MatMul", ["x", "w"], ["y"])], {"x": (3, 4)}, {"w": reals(4)}, 4, 24),
    "a bias with leading ones": (
        [N("MatMul", ["x", "w"], ["h"]), N("Add", ["h", "b"], ["y"])],
        {"x": (2, 3, 4)}, {"w": reals(4, 5), "b": reals(1, 1, 5)}, 25, 240,
    ),
    "a layer scale": (
        [N("MatMul", ["x", "w"], ["h"]), N("Mul", ["h", "g"], ["s"]), N("Add", ["x", "s"], ["y"])],
        {"x": (2, 3, 4)}, SQUARE | SCALE, 20, 192,
    ),
    "a slope that is computed": (
        [N("Conv", ["x", "w"], ["s"]), N("GlobalAveragePool", ["s"], ["g"]), N("PRelu", ["x", "g"], ["y"])],
        {"x": (1, 3, 5, 5)}, {"w": reals(3, 3, 3, 3)}, 81, 1458,
    ),
    "a normalised kernel": (
        [N("ReduceL2", ["v"], ["n"], axes=[1, 2, 3], keepdims=1), N("Div", ["v", "n"], ["u"]),
         N("Mul", ["u", "g"], ["w"]), N("Conv", ["x", "w", "b"], ["y"])],
        {"x": (1, 3, 5, 5)}, {"v": reals(4, 3, 3, 3), "g": reals(4, 1, 1, 1), "b": reals(4)}, 116, 1944,
    ),
    "a kernel that another input makes": (
        [N("MatMul", ["z", "p"], ["k"]), N("Reshape", ["k", "s"], ["w"]), N("Conv", ["x", "w"], ["y"])],
        {"x": (1, 3, 5, 5), "z": (1, 6)}, {"p": reals(6, 108), "s": whole_numbers(4, 3, 3, 3)}, 648, 3240,
    ),
    "low-rank changes": (
        [N("MatMul", ["B", "A"], ["d"]), N("Add", ["w", "d"], ["e"]), N("Transpose", ["e"], ["t"]),
         N("MatMul", ["x", "t"], ["y"])],
        {"x": (2, 3, 4)}, LORA, 38, 320,
    ),
    "one weight scaled for two products": (
        [N("Mul", ["w", "k"], ["s"]), N("MatMul", ["x", "s"], ["h"]), N("MatMul", ["h", "s"], ["y"])],
        {"x": (2, 4)}, SQUARE | {"k": np.float32(2)}, 16, 128,
    ),
    "one weight turned twice": (
        [N("Transpose", ["w"], ["s"]), N("Transpose", ["w"], ["t"]), N("MatMul", ["x", "s"], ["h"]),
         N("MatMul", ["h", "t"], ["y"])],
        {"x": (2, 4)}, SQUARE, 16, 128,
    ),
    "two weights joined twice, and one alone": (
        [N("Concat", ["a", "b"], ["c"], axis=1), N("Concat", ["a", "b"], ["d"], axis=1), N("MatMul", ["x", "c"], ["h"]),
         N("MatMul", ["h", "d"], ["i"]), N("MatMul", ["i", "a"], ["y"])],
        {"x": (2, 4)}, {"a": reals(4, 2), "b": reals(4, 2)}, 16, 160,
    ),
    "parts that overlap": (
        [N("Slice", ["w", "zero", "four", "one"], ["a"]), N("Slice", ["w", "two", "six", "one"], ["b"]),
         N("MatMul", ["x", "a"], ["h"]), N("MatMul", ["h", "b"], ["y"])],
        {"x": (2, 4)}, PARTS, 24, 128,
    ),
    "a part and the whole": (
        [N("Slice", ["w", "zero", "four", "one"], ["a"]), N("MatMul", ["x", "a"], ["h"]),
         N("MatMul", ["h", "w"], ["y"])],
        {"x": (2, 4)}, PARTS, 32, 192,
    ),
    "halves by a slice and by a split": (
        [N("Slice", ["w", "zero", "four", "one"], ["a"]), N("Split", ["w"], ["p", "q"], axis=1),
         N("MatMul", ["x", "a"], ["h"]), N("MatMul", ["h", "p"], ["i"]), N("MatMul", ["i", "q"], ["y"])],
        {"x": (2, 4)}, PARTS, 32, 192,
    ),
    "a table at constant places": (
        [N("Gather", ["t", "i"], ["p"]), N("Add", ["x", "p"], ["y"])],
        {"x": (2, 5, 4)}, {"t": reals(9, 4), "i": whole_numbers(0, 1, 2, 3, 4)}, 36, 0,
    ),
    "first states and peepholes": (
        [N("LSTM", ["x", "w", "r", "b", "", "h", "c", "p"], ["y"], hidden_size=6)],
        {"x": (5, 2, 4), "h": (1, 2, 6), "c": (1, 2, 6)},
        {"w": reals(1, 24, 4), "r": reals(1, 24, 6), "b": reals(1, 48), "p": reals(1, 18)}, 306, 4800,
    ),
    "a deformable convolution in groups": (
        [N("DeformConv", ["x", "w", "o", "b", "m"], ["y"], pads=[1] * 4, group=2)],
        {"x": (2, 4, 5, 5), "o": (2, 18, 5, 5), "m": (2, 9, 5, 5)},
        {"w": reals(6, 2, 3, 3), "b": reals(6)}, 114, 10_800,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_weights_and_their_work_are_counted(name: str) -> None:
    nodes, inputs, stored, parameters, flops = CASES[name]
    found = network(made(nodes, inputs, stored, opset=19 if "deformable" in name else 14))
    assert (found.parameters, heavy(found)) == (parameters, flops)


@pytest.mark.parametrize(("name", "count"), [("/layer.0/Constant_1", 0), ("layer.0.scale", 1)])
def test_a_number_in_the_code_of_a_module_is_no_parameter(name: str, count: int) -> None:
    nodes = [N("MatMul", ["x", "w"], ["h"]), N("Mul", ["h", name], ["y"])]
    assert network(made(nodes, {"x": (2, 4)}, SQUARE | {name: np.float32(0.5)})).parameters == 16 + count


def test_a_bias_of_attention_is_a_parameter() -> None:
    one = N("Attention", ["x", "x", "x", "b"], ["y"])
    found = network(made([one], {"x": (2, 3, 4, 4)}, {"b": reals(1, 3, 4, 4)}, opset=23))
    assert found.parameters == 48
    assert not found.unpriced


@pytest.mark.parametrize(("axis", "shape"), [(0, (7, 3, 4)), (1, (4, 7)), (0, (7,))])
def test_tables_of_any_rank_and_axis_are_parameters(axis: int, shape: tuple[int, ...]) -> None:
    one = N("Gather", ["t", "x"], ["y"], axis=axis)
    found = network(made([one], {"x": (2, 5)}, {"t": reals(*shape)}, integers=["x"]))
    assert found.parameters == prod(shape)
    assert found.shapes["y"] == (*shape[:axis], 2, 5, *shape[axis + 1 :])


def test_a_constant_of_a_function_is_one_weight_however_often_it_is_called() -> None:
    held = numpy_helper.from_array(reals(4, 4), "w")
    inner = [N("Constant", [], ["w"], value=held), N("MatMul", ["a", "w"], ["b"])]
    function = helper.make_function("own", "Linear", ["a"], ["b"], inner, [helper.make_opsetid("", 17)])
    calls = [N("Linear", [a], [b], domain="own") for a, b in (("x", "h"), ("h", "y"))]
    found = network(made(calls, {"x": (2, 4)}, {}, functions=[function]))
    assert (found.parameters, heavy(found)) == (16, 128)


def test_a_weight_that_follows_in_too_many_steps_leaves_later_functions_readable() -> None:
    body = [N("Constant", [], ["k"], value=numpy_helper.from_array(reals(4, 4), "k")), N("MatMul", ["a", "k"], ["b"])]
    own = helper.make_function("own", "Product", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    chain = [N("Mul", ["w" if at == 0 else f"w{at}", "w"], [f"w{at + 1}"]) for at in range(DEEPEST + 5)]
    nodes = [*chain, N("MatMul", ["x", f"w{DEEPEST + 5}"], ["y"]), N("Product", ["y"], ["z"], domain="own")]
    model = made(nodes, {"x": (2, 4)}, SQUARE, functions=[own])
    with pytest.raises(LatteError, match="in more than"):
        network(model)
    found = read(model.SerializeToString(), name="m", sha256="", batch_size=None, allow_unknown=True)
    assert heavy(found) == 2 * 2 * 4 * 4
    assert found.unknown


def test_quantised_products_are_priced_in_floating_point_with_a_note() -> None:
    steps = {"s": np.float32(0.1), "z": np.uint8(0), "v": np.int8(0), "w": np.zeros((4, 3, 3, 3), np.int8)}
    nodes = [
        N("QuantizeLinear", ["x", "s", "z"], ["q"]),
        N("QLinearConv", ["q", "s", "z", "w", "s", "v", "s", "z"], ["p"], pads=[1] * 4),
        N("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    found = network(made(nodes, {"x": (1, 3, 5, 5)}, steps))
    assert (found.parameters, heavy(found)) == (108, 5400)
    assert any("priced in floating point" in note for note in found.notes)


def test_the_work_of_weights_that_no_kind_describes_is_named() -> None:
    nodes = [N("Det", ["w"], ["d"]), N("Mul", ["x", "d"], ["y"])]
    found = network(made(nodes, {"x": (2, 3)}, {"w": reals(3, 3)}))
    assert found.parameters == 9
    assert found.unpriced == ("the work of `Det` (`d`) with its 9 parameters",)


def test_operators_of_another_domain_are_named_as_such() -> None:
    model = made([N("FusedConv", ["x", "w"], ["y"], domain="own")], {"x": (1, 3, 5, 5)}, {"w": reals(3, 3, 3, 3)})
    for allow in (False, True):
        with pytest.raises(LatteError, match=r"own\.FusedConv"):
            network(model, allow_unknown=allow)


NOTED = "`a` and `b` may be one weight that is stored twice; `--compare-weights` compares their numbers"
MISSING = "weights beside the file cannot be read: one that is stored twice counts twice"


def test_a_tied_table_that_is_stored_twice_is_noted_and_compared_when_asked(tmp_path: Path) -> None:
    table = np.arange(28, dtype=np.float32).reshape(7, 4)
    for second, parameters in ((table.T.copy(), 28), (table.T + 1, 56)):
        nodes = [N("Gather", ["a", "x"], ["h"]), N("MatMul", ["h", "b"], ["y"])]
        model = made(nodes, {"x": (2, 3)}, {"a": table, "b": second}, integers=["x"])
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        unread = load(tmp_path / "m.onnx")
        assert unread.parameters == 56
        assert unread.notes == ((NOTED,) if parameters == 28 else ())
        compared = load(tmp_path / "m.onnx", compare_weights=True)
        assert (compared.parameters, compared.notes) == (parameters, ())


COPIES = {"as it is": lambda w: w.copy(), "transposed": lambda w: w.T.copy(), "other": lambda w: w[::-1].copy()}


@pytest.mark.parametrize("place", ["inside", "beside", "missing"])
@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("side", [4, 600])  # small, and so large that its numbers are left in the file
def test_a_weight_that_is_stored_twice_is_noted_by_a_few_of_its_numbers(
    tmp_path: Path, side: int, copy: str, place: str
) -> None:
    weight = np.random.default_rng(0).random((side, side), np.float32)
    nodes = [N("MatMul", ["x", "a"], ["h"]), N("MatMul", ["h", "b"], ["y"])]
    model = made(nodes, {"x": (2, 3, side)}, {"a": weight, "b": COPIES[copy](weight)})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=place != "inside", location="m.data", size_threshold=0)
    if place == "missing":
        (tmp_path / "m.data").unlink()
    found = load(tmp_path / "m.onnx")
    noted = copy != "other" and place != "missing"
    notes = (MISSING,) if place == "missing" else (NOTED,) if noted else ()
    assert (found.parameters, found.notes) == (2 * side**2, notes)
    if place != "missing":
        compared = load(tmp_path / "m.onnx", compare_weights=True)
        assert (compared.parameters, compared.notes) == (side**2 * (2 - noted), ())
    if place == "inside":
        assert load(model).notes == load(model.SerializeToString()).notes == found.notes
        assert load(model, compare_weights=True).parameters == side**2 * (2 - noted)


def test_a_weight_of_several_layers_is_noted_as_copies_of_an_untrained_layer_are_exported_so_too() -> None:
    weight = np.random.default_rng(0).random((4, 4), np.float32)
    twice = [N("MatMul", ["x", "a"], ["h"]), N("MatMul", ["h", "a"], ["y"])]
    (note,) = load(made(twice, {"x": (2, 3, 4)}, {"a": weight})).notes
    assert note.startswith("`a` is the weight of several layers and counts once")


# --- equations

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5}


@st.composite
def equations(draw: st.DrawFn) -> tuple[str, tuple[bool, bool]]:
    """An equation of two terms, and which of them are weights."""
    terms = [draw(st.permutations(sorted(SIZES)))[: draw(st.integers(1, 4))] for _ in range(2)]
    known = sorted({*terms[0], *terms[1]})
    out = draw(st.permutations(known))[: draw(st.integers(0, len(known)))]
    weights = draw(st.sampled_from([(False, True), (True, False), (False, False)]))
    return f"{''.join(terms[0])},{''.join(terms[1])}->{''.join(out)}", weights


@given(equations())
def test_an_equation_has_the_shape_parameters_and_work_of_its_sums(drawn: tuple[str, tuple[bool, bool]]) -> None:
    equation, weights = drawn
    terms, out = equation.split("->")[0].split(","), equation.split("->")[1]
    shapes = [tuple(SIZES[letter] for letter in term) for term in terms]
    held = {name: reals(*shape) for name, shape, weight in zip("pq", shapes, weights, strict=True) if weight}
    given_ = {name: shape for name, shape, weight in zip("pq", shapes, weights, strict=True) if not weight}
    found = network(made([N("Einsum", ["p", "q"], ["y"], equation=equation)], given_, held))
    assert found.shapes["y"] == np.einsum(equation, *(reals(*shape) for shape in shapes)).shape
    samples = terms[weights[0]][0]  # a weight with a number for each sample is taken for one that is repeated
    if any(weights) and samples in terms[weights[1]] and samples in out:
        return
    assert found.parameters == sum(array.size for array in held.values())
    used = {letter for letter in {*terms[0], *terms[1]} if letter in out or all(letter in term for term in terms)}
    summed = {*terms[0]} & {*terms[1]} - {*out}
    assert heavy(found) == (2 * prod(SIZES[letter] for letter in used) if summed else 0)


def test_an_equation_of_several_operands_is_multiplied_two_at_a_time() -> None:
    one = N("Einsum", ["x", "v", "w"], ["y"], equation="...i,ij,jk->...k")
    found = network(made([one], {"x": (2, 3, 4)}, {"v": reals(4, 5), "w": reals(5, 6)}))
    assert (found.shapes["y"], found.parameters, heavy(found)) == ((2, 3, 6), 50, 2 * 6 * 50)


# --- parts


@st.composite
def parts(draw: st.DrawFn) -> Part:
    part = whole("w", (6, 5))
    for axis, size in enumerate((6, 5)):
        start = draw(st.integers(0, size - 1))
        indices = range(size)[start : draw(st.integers(start + 1, size)) : draw(st.sampled_from([1, 1, 2]))]
        part = taken(part, axis, indices) or part
    return part


@given(st.lists(parts(), min_size=1, max_size=5))
def test_numbers_that_parts_have_in_common_are_counted_once(drawn: list[Part]) -> None:
    named = {f"{at}": (part,) for at, part in enumerate(drawn)}
    covered = dict(overlaps(named.items()))
    mask = np.zeros((6, 5), bool)
    for name, (part,) in named.items():
        index = np.ix_(*map(list, part.index))
        assert covered.get(name, 0) == mask[index].sum()
        mask[index] = True
