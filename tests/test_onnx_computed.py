"""Numbers that code has computed are no parameters, at whatever batch a file is read, and doubts are said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, save_model
from test_onnx_weights import N, made, network

from latte_cli.errors import LatteError
from latte_cli.network import load

RANDOM = np.random.default_rng(0)
BATCHES = (1, 2, 3, 4, 6)
"""Those of exports, and those that they are read at."""

STEPS, WIDTH = 5, 4


def drawn(*shape: int) -> Any:
    return RANDOM.uniform(-0.1, 0.1, shape).astype(np.float32)


def angles(*shape: int) -> Any:
    return RANDOM.uniform(0, 7, shape).astype(np.float32)


def read_beside(kind: str, stored: dict[str, Any], batch: int) -> ModelProto:
    """A linear layer on samples of (STEPS, WIDTH), then an operator with each of the constants."""
    nodes, last = [N("MatMul", ["x", "layer.weight"], ["0"])], "0"
    for at, name in enumerate(stored, 1):
        nodes.append(N(kind, [last, name], [str(at)], **({"axis": 1} if kind == "Concat" else {})))
        last = str(at)
    return made(nodes, {"x": (batch, STEPS, WIDTH)}, {"layer.weight": drawn(WIDTH, WIDTH), **stored})


def circle() -> dict[str, Any]:
    turned = angles(1, STEPS, WIDTH)
    return {"unsqueeze_1": np.cos(turned) * 1.25, "unsqueeze_2": np.sin(turned) * 1.25}


COMPUTED = {
    "a mask of zeros": lambda batch: ("Add", {"val_7": np.zeros((batch, STEPS, WIDTH), np.float32)}),
    "a mask of zeros for all": lambda batch: ("Add", {"val_7": np.zeros((1, STEPS, WIDTH), np.float32)}),
    "cosines and sines": lambda batch: ("Mul", circle()),
    "ones in a triangle": lambda batch: ("Mul", {"t": np.tri(STEPS, WIDTH, dtype=np.float32)}),
    "positions": lambda batch: ("Add", {"p": np.arange(STEPS, dtype=np.float32)[:, None] * drawn(WIDTH)}),
    "frequencies": lambda batch: ("Mul", {"f": np.float32(1e4) ** (-np.arange(WIDTH, dtype=np.float32) / WIDTH)}),
    "the root of a width": lambda batch: ("Mul", {"embed.scale": np.float32(np.sqrt(32))}),
    "a number of code": lambda batch: ("Mul", {"/m/Constant_3_output_0": drawn(STEPS, WIDTH)}),
}


@pytest.mark.parametrize("what", COMPUTED)
@given(exported=st.sampled_from(BATCHES), asked=st.sampled_from((None, *BATCHES)))
def test_numbers_that_code_computes_are_no_parameters_at_any_batch(what: str, exported: int, asked: int | None) -> None:
    kind, stored = COMPUTED[what](exported)
    assert network(read_beside(kind, stored, exported), batch_size=asked).parameters == WIDTH * WIDTH


@given(exported=st.sampled_from(BATCHES[1:]), asked=st.sampled_from((None, *BATCHES)))
def test_a_mask_of_ones_for_each_sample_is_no_parameter(exported: int, asked: int | None) -> None:
    model = read_beside("Mul", {"unsqueeze": np.ones((exported, STEPS, 1), np.float32)}, exported)
    assert network(model, batch_size=asked).parameters == WIDTH * WIDTH


KEPT = {
    "a table of positions": ("Add", lambda: drawn(1, STEPS, WIDTH), STEPS * WIDTH),
    "a scale": ("Mul", lambda: drawn(WIDTH), WIDTH),
    "a scale that nothing has trained": ("Mul", lambda: np.ones(WIDTH, np.float32), WIDTH),
    "a table that nothing has trained": ("Add", lambda: np.zeros((1, STEPS, WIDTH), np.float32), STEPS * WIDTH),
    "weights of one of two numbers": ("Mul", lambda: np.sign(drawn(STEPS, WIDTH)), STEPS * WIDTH),
}


@pytest.mark.parametrize("what", KEPT)
@given(exported=st.sampled_from(BATCHES), asked=st.sampled_from((None, *BATCHES)))
def test_parameters_stay_parameters_and_a_doubt_is_said(what: str, exported: int, asked: int | None) -> None:
    kind, values, count = KEPT[what]
    found = network(read_beside(kind, {"own.table": values()}, exported), batch_size=asked)
    assert found.parameters == WIDTH * WIDTH + count
    doubts = [note for note in found.notes if "may be constants of code" in note]
    assert bool(doubts) == ("nothing has trained" in what)


@given(exported=st.sampled_from(BATCHES[1:]), asked=st.sampled_from((None, *BATCHES)))
def test_a_matrix_that_is_repeated_for_each_sample_is_one_parameter(exported: int, asked: int | None) -> None:
    queries = np.repeat(drawn(1, 3, WIDTH), exported, 0)
    found = network(read_beside("Concat", {"expand": queries}, exported), batch_size=asked)
    assert found.parameters == WIDTH * WIDTH + 3 * WIDTH


@pytest.mark.parametrize("mixed", [False, True])
def test_sines_beside_cosines_in_one_table_are_doubted(mixed: bool) -> None:
    turned = angles(1, STEPS, WIDTH // 2)
    table = np.concatenate([np.sin(turned), np.cos(turned)], -1)
    table = table.reshape(1, STEPS, 2, -1).swapaxes(2, 3).reshape(1, STEPS, WIDTH) if mixed else table
    found = network(read_beside("Add", {"places.pe": table}, 2))
    assert found.parameters == WIDTH * WIDTH + STEPS * WIDTH
    assert any("`places.pe`" in note for note in found.notes)


@given(rows=st.integers(2, 9), heads=st.integers(2, 4), steps=st.integers(5, 7), asked=st.sampled_from((None, 3)))
def test_what_an_export_looked_up_in_a_table_counts_as_the_table(
    rows: int, heads: int, steps: int, asked: int | None
) -> None:
    """A bias for each distance, as windows have it: 2 rows to 9 for 25 pairs of steps or more."""
    distances = np.minimum(np.abs(np.subtract.outer(np.arange(steps), np.arange(steps))), rows - 1)
    bias = drawn(rows, heads)[distances].transpose(2, 0, 1)[None]
    nodes = [N("MatMul", ["x", "w"], ["h"]), N("Add", ["h", "onnx::Add_9"], ["y"])]
    shapes = {"x": (2, heads, steps, steps)}
    found = network(made(nodes, shapes, {"w": drawn(steps, steps), "onnx::Add_9": bias}), batch_size=asked)
    assert found.parameters == steps * steps + min(rows, steps) * heads


@given(exported=st.sampled_from(BATCHES[1:]), asked=st.sampled_from(BATCHES))
def test_a_matrix_that_differs_between_samples_is_read_at_its_own_batch_alone(exported: int, asked: int) -> None:
    model = read_beside("Add", {"bank": drawn(exported, STEPS, WIDTH)}, exported)
    if asked == exported:
        assert network(model, batch_size=asked).parameters == WIDTH * WIDTH + exported * STEPS * WIDTH
    else:
        with pytest.raises(LatteError, match="cannot be read at a batch of"):
            network(model, batch_size=asked)


NORMS = (
    ("InstanceNormalization", STEPS, True),
    ("LayerNormalization", WIDTH, True),
    ("LayerNormalization", WIDTH, False),
)


@pytest.mark.parametrize(("kind", "width", "bias"), NORMS)
@pytest.mark.parametrize(
    "names", [("norm.weight", "norm.bias"), ("val_3", "val_4"), ("/n/Constant_output_0", "/n/Constant_1_output_0")]
)
def test_a_norm_has_the_parameters_that_its_module_has(
    kind: str, width: int, bias: bool, names: tuple[str, str]
) -> None:
    stored = dict(zip(names, (np.ones(width, np.float32), np.zeros(width, np.float32)), strict=True))
    names = names if bias else names[:1]
    found = network(made([N(kind, ["x", *names], ["y"])], {"x": (2, STEPS, WIDTH)}, stored))
    count = width * len(names) if names[0] == "norm.weight" else 0
    assert (found.parameters, found.trained_parameters) == (count, count)


def test_weights_of_signs_are_no_turns() -> None:
    signs = {"a.weight": np.sign(drawn(1, STEPS, WIDTH)), "b.weight": np.sign(drawn(1, STEPS, WIDTH))}
    assert network(read_beside("Mul", signs, 2)).parameters == WIDTH * WIDTH + 2 * STEPS * WIDTH


def test_a_number_of_the_outermost_module_is_a_parameter() -> None:
    nodes = [N("MatMul", ["x", "w"], ["0"]), N("Exp", ["logit_scale"], ["e"]), N("Mul", ["0", "e"], ["y"])]
    found = network(made(nodes, {"x": (2, WIDTH)}, {"w": drawn(WIDTH, 3), "logit_scale": np.float32(0.3)}))
    assert found.parameters == WIDTH * 3 + 1


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose numbers lie beside it: a mask, positions and twice the same matrix, under an exporter's names."""
    matrix, path = drawn(WIDTH, WIDTH), tmp_path_factory.mktemp("beside") / "m.onnx"
    nodes = [N("MatMul", ["x", "val_1"], ["a"]), N("Add", ["a", "val_2"], ["b"]), N("Mul", ["b", "arange"], ["c"]),
             N("MatMul", ["c", "val_3"], ["y"])]  # fmt: skip
    stored = {"val_1": matrix, "val_2": np.zeros((1, STEPS, WIDTH), np.float32), "val_3": matrix.copy()}
    stored["arange"] = np.arange(STEPS, dtype=np.float32)[:, None] * np.ones(WIDTH, np.float32)
    model = made(nodes, {"x": (2, STEPS, WIDTH)}, stored)
    save_model(model, str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    return path


@pytest.mark.parametrize("asked", [None, 3])
def test_numbers_beside_a_file_are_doubted_until_they_are_compared(beside: Path, asked: int | None) -> None:
    unread, compared = (load(beside, batch_size=asked, compare_weights=each) for each in (False, True))
    assert unread.parameters == 2 * WIDTH * WIDTH + 2 * STEPS * WIDTH
    assert [("`val_2`" in note, "--compare-weights" in note) for note in unread.notes] == [(True, True), (False, True)]
    assert unread.notes[-1].startswith("`val_1` and `val_3` may be one weight")
    assert compared.parameters == WIDTH * WIDTH
    assert not any("--compare-weights" in note for note in compared.notes)


def test_matrices_that_nothing_has_trained_are_not_taken_for_one(tmp_path: Path) -> None:
    nodes = [N("MatMul", ["x", "a"], ["h"]), N("MatMul", ["h", "b"], ["y"])]
    zeros = {name: np.zeros((WIDTH, WIDTH), np.float32) for name in ("a", "b")}
    path = tmp_path / "m.onnx"
    path.write_bytes(made(nodes, {"x": (2, WIDTH)}, zeros).SerializeToString())
    assert load(path, compare_weights=True).parameters == 2 * WIDTH * WIDTH
