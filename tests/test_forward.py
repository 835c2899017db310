"""What was read from a file computes what the file says, with the file's weights, and trains as the original does."""

import sys
import warnings
from collections import ChainMap, Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from test_onnx_backend import Undecided
from test_torch_program import MODULES
from torch import nn

from latte_cli.errors import LatteError
from latte_cli.network import load
from latte_cli.network.module import NetworkModule, training_step
from latte_cli.network.onnx import read
from latte_cli.network.torch_program import exported
from latte_cli.network.weights import Weights, weights


def written(name: str, path: Path, opset: int) -> tuple[nn.Module, Any]:
    """A module of its own weights, exported; and what it is called with."""
    kind, example = MODULES[name]
    torch.manual_seed(3)
    module = kind().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer += 0.1 * torch.rand(buffer.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (example(2),), path, dynamo=True, opset_version=opset, external_data=False, verbose=False
        )
    return module, example(2)


@pytest.mark.parametrize("name", list(MODULES))
@pytest.mark.parametrize("opset", [18, 23])
def test_an_export_computes_what_the_module_does(name: str, opset: int, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    module, x = written(name, path, opset)
    again = NetworkModule(load(path), weights=weights(path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(MODULES))
def test_a_program_computes_what_the_module_does(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    module, x = written(name, path, 18)
    path.write_bytes(exported(module, x))
    again = NetworkModule(load(path), weights=weights(path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x), module(x), rtol=1e-4, atol=1e-5)


def test_steps_of_training_change_the_output_as_in_the_module(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    module, x = written("convnext", path, 18)
    again = NetworkModule(load(path), weights=weights(path))
    targets = torch.tensor([1, 2])
    for each in (module, again):
        update = torch.optim.SGD(each.parameters(), lr=0.05)
        for _ in range(2):
            training_step(each.train(), (x,), targets, update)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), module.eval()(x), rtol=1e-3, atol=1e-4)


# --- weights


def test_weights_that_follow_from_others_are_computed() -> None:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("Mul", ["t", "two"], ["doubled"]),
        helper.make_node("MatMul", ["x", "doubled"], ["y"]),
    ]
    stored = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.float32(2), "two")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, (4, 3))],
                              [helper.make_tensor_value_info("y", 1, None)], initializer=stored)  # fmt: skip
    found = Weights(helper.make_model(graph), Path("m.onnx"))
    np.testing.assert_array_equal(found["doubled"], 2 * w.T)
    with pytest.raises(KeyError):
        found["y"]


def test_external_data_are_read_from_the_model_s_folder(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "w.bin").write_bytes(bytes(16) + values.tobytes())
    tensor = TensorProto(name="w", dims=[3, 4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, text in {"location": "w.bin", "offset": "16"}.items():
        tensor.external_data.add(key=key, value=text)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, (2, 3))],
        [helper.make_tensor_value_info("y", 1, None)], initializer=[tensor],
    )  # fmt: skip
    path.write_bytes(helper.make_model(graph).SerializeToString())
    np.testing.assert_array_equal(weights(path)["w"], values)
    (tmp_path / "w.bin").write_bytes(bytes(20))
    with pytest.raises(LatteError, match="do not fill its shape"):
        weights(path)["w"]


# --- ONNX's own cases


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    counts: Counter[str] = Counter()
    wrong = []
    for case in cases:
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
