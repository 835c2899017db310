"""The ONNX reader on ONNX's own cases: shapes and values as recorded, sizes that values decide, or a refusal."""

import re
import sys
import warnings
from collections import ChainMap, Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from test_onnx import network

from latte_cli.errors import LatteError
from latte_cli.layers import Shape
from latte_cli.network.module import NetworkModule
from latte_cli.network.onnx import read
from latte_cli.network.onnx.operation import Undecided
from latte_cli.network.onnx.operators import OPERATORS
from latte_cli.network.weights import Weights

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
MOST_REFUSED = 0.05
FOLDERS = {"node": 1500, "simple": 5, "light": 9, "pytorch-converted": 80, "pytorch-operator": 34}
"""The kinds of cases, and how many of each are read at least."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and the shapes of its outputs as they were recorded; None for what is no tensor."""

    folder: str
    name: str
    model: ModelProto
    shapes: tuple[tuple[int, ...] | None, ...]

    @property
    def floating(self) -> bool:
        """Whether all its inputs and outputs are tensors of floating-point numbers."""
        kinds = [value.type for value in (*self.model.graph.input, *self.model.graph.output)]
        return all(kind.HasField("tensor_type") and kind.tensor_type.elem_type in FLOATS for kind in kinds)


def shape_of(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, TensorProto):
        return tuple(value.dims)
    return tuple(np.shape(value)) if isinstance(value, np.ndarray | np.generic | float | int) else None


SMALLER = {(1, 3, 32, 32, 32): (1, 3, 8, 8, 8)}
"""Inputs that ONNX pools in Python, a window at a time, which takes most of the time of all its cases."""


@cache
def collected() -> list[Any]:
    """ONNX's own test of each operator, which takes seconds to make."""
    draw = np.random.randn
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(np.random, "randn", lambda *sizes: draw(*SMALLER.get(sizes, sizes)))
        from onnx.backend.test.case.node import collect_testcases

        found: list[Any] = collect_testcases(None)
    return found


def node_cases() -> Iterator[Case]:
    for case in collected():
        shapes = tuple(shape_of(value) for value in case.data_sets[0][1])
        yield Case(folder="node", name=case.name, model=case.model, shapes=shapes)


def stored_cases() -> Iterator[Case]:
    for path in sorted(DATA.glob("*/*/model.onnx")):
        model, folder = onnx.load(path), path.parent
        outputs = [folder / "test_data_set_0" / f"output_{at}.pb" for at in range(len(model.graph.output))]
        shapes = tuple(
            recorded(file) if value.type.HasField("tensor_type") else None
            for file, value in zip(outputs, model.graph.output, strict=True)
        )
        yield Case(folder=path.parts[-3], name=folder.name, model=model, shapes=shapes)
    for path in sorted((DATA / "light").glob("light_*.onnx")):
        shape = recorded(path.with_name(f"{path.stem}_output_0.pb"))
        yield Case(folder="light", name=path.stem, model=onnx.load(path), shapes=(shape,))


def recorded(file: Path) -> tuple[int, ...]:
    return tuple(numpy_helper.to_array(TensorProto.FromString(file.read_bytes())).shape)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [*node_cases(), *stored_cases()]


def outcome(case: Case) -> str:
    """`equal`, `named` (dimensions that only values decide), `refused`, or what went wrong."""
    outputs = dict(zip((value.name for value in case.model.graph.output), case.shapes, strict=True))
    sizes: dict[str, int] = {}
    while True:
        try:
            found = read(
                case.model.SerializeToString(), name="m", sha256="", batch_size=None, allow_unknown=False, sizes=sizes
            )
        except Undecided as error:
            wanted = re.findall(r"`(.+?)\[(\d+)\]`", error.message)
            known = {f"{name}[{at}]": shape[int(at)] for name, at in wanted if (shape := outputs.get(name)) is not None}
            if not known or known.keys() <= sizes.keys():  # a size inside the model, which is not recorded
                return "named" if wanted or ".trips=" in str(error.hint) else f"unnamed: {error.message}"
            sizes |= known
            continue
        except LatteError as error:
            named = re.search(r"`[\w.]+` node `|^operator `[\w.]+`|^the inputs are empty: `", error.message)
            return "refused" if named and error.hint else f"refused without a name: {error.message}"
        wrong = {
            name: found.shapes.get(name)
            for name, shape in outputs.items()
            if shape is not None and found.shapes.get(name) != shape
        }
        return f"wrong: {wrong}" if wrong else ("named" if sizes else "equal")


def is_open(case: Case) -> bool:
    """Whether the first dimension of the first input is 0, which an export has for one that is open."""
    tensor = case.model.graph.input[0].type.tensor_type if case.model.graph.input else None
    return tensor is not None and len(tensor.shape.dim) > 0 and tensor.shape.dim[0].dim_value == 0


ONLY_SHAPES = ("Shape", "Size")
"""Operators of which the result follows from the shape alone."""


def unread(case: Case) -> list[str] | None:
    """The inputs of a case's one operator that none of its nodes reads; None where it is refused."""
    (node,) = case.model.graph.node
    sizes: dict[str, int] = {}
    outputs = dict(zip((value.name for value in case.model.graph.output), case.shapes, strict=True))
    while True:
        try:
            found = read(case.model, name="m", sha256="", batch_size=None, allow_unknown=False, sizes=sizes)
            break
        except Undecided as error:
            wanted = re.findall(r"`(.+?)\[(\d+)\]`", error.message)
            known = {f"{name}[{at}]": shape[int(at)] for name, at in wanted if (shape := outputs.get(name)) is not None}
            if not known or known.keys() <= sizes.keys():
                return None
            sizes |= known
        except LatteError:
            return None
    read_names = {name for one in found.nodes for name in one.inputs}
    varying = {name for name, _ in found.inputs}
    return [name for name in node.input if name in varying - read_names]


def test_every_input_of_an_operator_is_read_by_one_of_its_nodes(cases: list[Case]) -> None:
    single = [case for case in cases if case.folder == "node" and len(case.model.graph.node) == 1]
    found = {case.name: unread(case) for case in single if case.model.graph.node[0].op_type not in ONLY_SHAPES}
    assert {name: names for name, names in found.items() if names} == {}
    assert sum(names is not None for names in found.values()) > 900


def test_each_case_has_the_recorded_shapes_or_says_why_not(
    cases: list[Case], capsys: pytest.CaptureFixture[str]
) -> None:
    found = [(case, outcome(case)) for case in cases]
    counts = Counter((case.folder, ending) for case, ending in found)
    open_batch = [case.name for case in cases if is_open(case)]
    assert len(open_batch) < 10
    wrong = [
        f"{case.name}: {ending}"
        for case, ending in found
        if ending not in ("equal", "named", "refused") and case.name not in open_batch
    ]
    assert not wrong, "\n".join(wrong)
    with capsys.disabled():
        for folder in FOLDERS:
            told = ", ".join(f"{counts[folder, ending]} {ending}" for ending in ("equal", "named", "refused"))
            sys.stdout.write(f"\n{folder}: {told}")
    for folder, least in FOLDERS.items():
        assert counts[folder, "equal"] + counts[folder, "named"] >= least, folder
    floating = [ending for case, ending in found if case.floating]
    assert floating.count("refused") <= MOST_REFUSED * len(floating)
    assert len(floating) > 800


def operator_cases() -> Iterator[tuple[str, ModelProto, Shape]]:
    """ONNX's own test of each operator, all inputs but the first made constants."""
    for case in collected():
        model = ModelProto()
        model.CopyFrom(case.model)  # other tests read the same cases
        graph = model.graph
        if not all(node.op_type in OPERATORS and not node.domain for node in graph.node):
            continue
        shape = tuple(size.dim_value for size in graph.output[0].type.tensor_type.shape.dim)
        try:
            stored = [
                numpy_helper.from_array(np.asarray(value), given.name)
                for given, value in zip(graph.input[1:], case.data_sets[0][0][1:], strict=False)
            ]
        except (NotImplementedError, KeyError, TypeError, ValueError):  # sequences and the like
            continue
        graph.initializer.extend(stored)
        yield case.name, model, shape


def test_every_operator_has_the_shapes_of_onnx_own_cases() -> None:
    read_well, wrong = 0, []
    for name, case, shape in operator_cases():
        try:
            found = network(case)
        except LatteError:  # a form that is refused by name, or an input without elements
            continue
        if 0 in shape:  # a size of 0 means one that is left open
            continue
        read_well += 1
        if found.shapes[found.outputs[0]] != shape:
            wrong.append((name, found.shapes[found.outputs[0]], shape))
    assert wrong == []
    assert read_well > 600


# --- what they compute


def agrees(model: ModelProto, inputs: list[Any], outputs: list[Any]) -> str:
    """`equal`, or why not: it cannot be read or run, or gives something else."""
    content = model.SerializeToString()
    try:
        found = read(content, name="m", sha256="", batch_size=None, allow_unknown=False)
        arrays = {value.name: np.asarray(array) for value, array in zip(model.graph.input, inputs, strict=True)}
        module = NetworkModule(
            found, weights=ChainMap(arrays, Weights(ModelProto.FromString(content), Path("m.onnx")))
        ).eval()  # type: ignore[arg-type]
    except (LatteError, Undecided):
        return "not run"
    given = {value.name: torch.tensor(array) for value, array in zip(model.graph.input, inputs, strict=True)}
    try:
        results = module(*(given[name] for name, _ in found.inputs))
    except (TypeError, RuntimeError, ValueError) as error:
        return f"fails: {error}"
    results = results if isinstance(results, tuple) else (results,)
    names = [value.name for value in model.graph.output]
    for name, result in zip(found.outputs, results, strict=True):
        expected = torch.tensor(np.asarray(outputs[names.index(name)]))
        if expected.shape != result.shape or not torch.allclose(
            result.detach().to(expected.dtype), expected, rtol=1e-3, atol=1e-4, equal_nan=True
        ):
            return "different"
    return "equal"


DIFFERENT = (
    # dropout in training mode and random numbers differ from run to run; what is recorded is one of them
    *("training_dropout", "dropout_random", "bernoulli", "random", "multinomial"),
    "l2normalization_axis_0",  # 0 / 0, which ONNX's case takes for 0
)


def test_onnx_s_own_floating_point_cases_are_computed_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    for case in collected():
        kinds = [value.type for value in (*case.model.graph.input, *case.model.graph.output)]
        plain = all(kind.HasField("tensor_type") and kind.tensor_type.elem_type == TensorProto.FLOAT for kind in kinds)
        if not plain or any(name in case.name for name in DIFFERENT) or "expanded" in case.name:
            continue
        inputs, outputs = case.data_sets[0]
        ending = agrees(case.model, list(inputs), list(outputs))
        counts[ending.partition(":")[0]] += 1
        wrong += [f"{case.name}: {ending}"] * (ending not in ("equal", "not run"))
    with capsys.disabled():
        sys.stdout.write(f"\nONNX's floating-point cases: {dict(counts)}\n")
    assert not wrong, "\n".join(wrong)
    assert counts["equal"] > 0.6 * counts.total()
