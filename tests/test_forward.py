"""Modules exported to ONNX and by torch.export compute, train and are priced as their originals, with their weights."""

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import made_rows
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from test_torch_program import MODULES
from torch import nn

from latte_cli.errors import LatteError
from latte_cli.estimator import Estimator
from latte_cli.layers import Layer
from latte_cli.network import Network, load
from latte_cli.network.module import NetworkModule, training_step
from latte_cli.network.torch_program import exported
from latte_cli.network.weights import Weights, weights
from latte_cli.store import open_store


@pytest.fixture(scope="module", autouse=True)
def _one_table_of_operators() -> Iterator[None]:
    """For each export torch puts the same table of its operators together, which takes longer than the export."""
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ImportError):  # only some versions of torch have it there
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@cache
def original(name: str) -> tuple[nn.Module, Any]:
    """A module with weights, which no test trains; and what it is called with."""
    kind, example = MODULES[name]
    torch.manual_seed(3)
    module = kind().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer += 0.1 * torch.rand(buffer.shape)
    return module, example(2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


def onnx_file(folder: Path, name: str, opset: int) -> Path:
    """The module's export, made once."""
    path = folder / f"{name}-{opset}.onnx"
    if not path.exists():
        module, x = original(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (x,), path, dynamo=True, opset_version=opset, external_data=False, verbose=False)
    return path


def program_file(folder: Path, name: str) -> Path:
    """The module's program of torch.export, made once."""
    path = folder / f"{name}.pt2"
    if not path.exists():
        path.write_bytes(exported(*original(name)))
    return path


def assert_computes_the_same(path: Path, name: str) -> None:
    module, x = original(name)
    again = NetworkModule(load(path), weights=weights(path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(MODULES))
@pytest.mark.parametrize("opset", [18, 23])
def test_an_export_computes_what_the_module_does(name: str, opset: int, folder: Path) -> None:
    assert_computes_the_same(onnx_file(folder, name, opset), name)


@pytest.mark.parametrize("name", list(MODULES))
def test_a_program_computes_what_the_module_does(name: str, folder: Path) -> None:
    assert_computes_the_same(program_file(folder, name), name)


def test_steps_of_training_change_the_output_as_in_the_module(folder: Path) -> None:
    path = onnx_file(folder, "convnext", 18)
    whole, x = original("convnext")
    module = copy.deepcopy(whole)
    again = NetworkModule(load(path), weights=weights(path))
    targets = torch.tensor([1, 2])
    for each in (module, again):
        update = torch.optim.SGD(each.parameters(), lr=0.05)
        for _ in range(2):
            training_step(each.train(), (x,), targets, update)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), module.eval()(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", list(MODULES))
@pytest.mark.parametrize("opset", [18, 23])
def test_torch_s_onnx_exporter_gives_the_same_products(name: str, opset: int, folder: Path) -> None:
    first, second = load(program_file(folder, name)), load(onnx_file(folder, name, opset))
    products = ("convolution", "linear", "recurrent", "embedding")

    def count(network: Network) -> Counter[Layer]:
        return Counter(layer for layer in network.layers if layer.kind in products)

    assert count(second) == count(first)
    assert second.unknown == ()


@pytest.mark.parametrize("name", list(MODULES))
def test_transformers_and_recurrent_networks_are_priced_whole(name: str, folder: Path, tmp_path: Path) -> None:
    networks = [load(onnx_file(folder, name, 23)), load(program_file(folder, name))]
    store = open_store(str(tmp_path / "store"), shipped=False)
    made_rows.profile(store, [layer for network in networks for layer in made_rows.step_layers(network)])
    for one in networks:
        found = Estimator(store, made_rows.DEVICE.slug).estimate(one)
        assert not found.missing
        assert {part.name for part in found.parts} >= {node.name for node in one.nodes}


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
