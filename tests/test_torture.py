"""A share of `make torture`: hostile files and signals at random moments, and the faults that it found."""

import gzip
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from running import ended

from latte_cli.errors import LatteError
from latte_cli.files import first_bytes
from latte_cli.importers import ImportSource, import_file
from latte_cli.network import load
from latte_cli.store import open_store
from latte_cli.store.columns import read_columns

FILES, SIGNALS = (Path(__file__).parent / "torture" / name for name in ("files.py", "signals.py"))


@pytest.mark.timeout(300)
def test_hostile_files_are_read_or_refused_in_one_line() -> None:
    command = [sys.executable, str(FILES), "--count", "150", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "files: 150, faults: 0, seed 1" in done.stdout


@pytest.mark.timeout(300)
def test_signals_at_random_moments_leave_nothing_behind() -> None:
    command = [sys.executable, str(SIGNALS), "--count", "6", "--kills", "0", "--only", "compact,merge"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "signals: 6, kills: 0, faults: 0" in done.stdout


WEIGHT = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
CPU = "reference-amd-epyc-family-26-model-2-2c-2t"


def model(path: Path, *nodes: Any, shape: Sequence[int] = (1, 3, 8, 8), stored: Sequence[TensorProto] = ()) -> Path:
    """A model of these nodes, from `x` to `y`."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    between = helper.make_tensor_value_info("u", TensorProto.FLOAT, [1, 4, 6, 6])
    graph = helper.make_graph(list(nodes), "g", inputs, [output], initializer=stored, value_info=[between])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("some.where", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def test_layers_after_an_operator_that_is_not_known_are_estimated(tmp_path: Path) -> None:
    nodes = (
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Strange", ["c"], ["u"], domain="some.where"),
        helper.make_node("Relu", ["u"], ["y"]),
    )
    path = model(tmp_path / "m.onnx", *nodes, stored=[WEIGHT])
    network = load(path, allow_unknown=True)
    assert network.shapes["u"] == (1, 4, 6, 6)
    done = ended("estimate", path, "--device", CPU, "--allow-unknown")
    assert done.returncode == 0, done.stderr


def test_a_shape_of_millions_of_dimensions_is_refused_before_anyone_makes_a_list_of_it(tmp_path: Path) -> None:
    sizes = TensorProto(name="s", data_type=TensorProto.INT64, dims=[2**27])
    nodes = (helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"]))
    with pytest.raises(LatteError, match="its result would have 134217728 dimensions"):
        load(model(tmp_path / "m.onnx", *nodes, stored=[sizes]))


def test_a_network_whose_scores_are_empty_says_so(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", helper.make_node("Softmax", ["x"], ["y"]), shape=(4, 0))
    done = ended("estimate", path, "--device", CPU, "--optimizer", "none")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: `y` holds no scores: its shape is (4, 0)")


def test_a_pipe_is_no_model_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(LatteError, match="it is not a file"):
        load(tmp_path / "m.onnx")


def test_a_name_of_megabytes_is_shortened_on_a_terminal(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", helper.make_node("Relu", ["n" * 10**6], ["y"]))
    done = ended("estimate", path, "--device", CPU)
    assert done.returncode == 1
    assert max(map(len, done.stderr.splitlines())) <= 2000


@pytest.mark.parametrize("content", ["device,class,samples,samples\na,b,1,2\n", "device,class,class\na,b,b\n"])
def test_a_column_that_is_there_twice_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "d.csv").write_text(content)
    with pytest.raises(LatteError, match="is there twice"):
        read_columns(tmp_path / "d.csv", ("device", "class"), ("samples",))


@pytest.mark.parametrize("lines", [["a" * (1 << 21)], ["a," * 3 + "b" * 200_000, "1,2"]])
@pytest.mark.parametrize("source", list(ImportSource))
def test_an_import_with_an_endless_line_is_refused(tmp_path: Path, source: ImportSource, lines: list[str]) -> None:
    path = tmp_path / "gfx90878.HIP.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(LatteError) as caught:
        import_file(path, source, open_store(str(tmp_path / "store"), shipped=False), name="some")
    assert caught.value.hint


def test_a_small_document_takes_little_memory_whatever_its_bound_is(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"12345")
    assert first_bytes(tmp_path / "small", 1 << 50) == b"12345"
    assert first_bytes(tmp_path / "small", 3) == b"1234"
