"""The part of a module that a layer lies in, as documents name it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from running import here
from torch import export, nn, onnx, randn

from latte_cli.layers import Phase
from latte_cli.network import Network, load
from latte_cli.network.zoo import export as zoo_export


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(x))


def module() -> nn.Module:
    return nn.Sequential(nn.Sequential(Block(), nn.MaxPool2d(2)), nn.Flatten(), nn.Linear(36, 5))


def paths(network: Network) -> dict[str, str | None]:
    return {node.layer.kind: node.module for node in network.nodes if not node.layer.free}


EXPECTED = {"convolution": "0.0.conv", "activation": "0.0.relu", "pool": "0.1", "linear": "2"}


def test_a_program_says_the_parts_of_its_module(tmp_path: Path) -> None:
    export.save(export.export(module().train(), (randn(2, 3, 8, 8),)), tmp_path / "m.pt2")
    assert paths(load(tmp_path / "m.pt2")) == EXPECTED


def test_a_live_module_says_them(tmp_path: Path) -> None:
    assert paths(load(module().train(), (randn(2, 3, 8, 8),))) == EXPECTED


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_of_torchs_exporter_says_them_in_its_names(tmp_path: Path) -> None:
    onnx.export(module().eval(), (randn(2, 3, 8, 8),), tmp_path / "m.onnx", dynamo=False)
    assert paths(load(tmp_path / "m.onnx")) == EXPECTED


def test_a_file_says_them_by_its_parameters_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "lenet.onnx").write_bytes(zoo_export("lenet"))
    found = {node.name: node.module for node in load(tmp_path / "lenet.onnx").nodes}
    assert found["conv1"] == "conv1"
    assert None in found.values()


@pytest.mark.parametrize(
    ("name", "parameters", "path"),
    [
        ("x", ("a.b.weight", "a.b.bias"), "a.b"),
        ("x", ("a.weight", "b.bias"), None),
        ("x", ("onnx::MatMul_12",), None),
        ("x", ("model/dense/kernel:0",), None),
        ("x", ("a.weight[0:3]",), "a"),
        ("/layer1/layer1.0/conv1/Conv", (), "layer1.0.conv1"),
        ("/features/features.0/features.0.1/Relu", (), "features.0.1"),
        ("/Add", (), None),
        ("a/b/c", (), None),
    ],
)
def test_names_that_tell_and_names_that_do_not(name: str, parameters: tuple[str, ...], path: str | None) -> None:
    from made_rows import network

    assert replace(network().nodes[0], name=name, parameters=parameters).module == path


def test_an_estimate_says_shapes_and_flops_of_each_phase(tmp_path: Path) -> None:
    (tmp_path / "lenet.onnx").write_bytes(zoo_export("lenet"))
    words = ("--batch-size", 8, "--device", "reference", "--format", "json")
    [entry] = json.loads(here("estimate", tmp_path / "lenet.onnx", *words).stdout)["estimates"]
    nodes = {node.name: node for node in load(tmp_path / "lenet.onnx", batch_size=8).nodes}
    for layer in entry["layers"]:
        if node := nodes.get(layer["name"]):
            assert layer["flops"] == node.layer.flops(Phase(layer["phase"]))
            assert layer["input_shapes"] == [list(shape) for shape in node.layer.input_shapes]
            assert layer["output_shape"] == list(node.layer.output_shape)
            assert layer["parameter_shapes"] == [list(shape) for shape in node.layer.parameter_shapes]
            assert layer["module"] == node.module
