"""Sub-models as files, run by ONNX's reference evaluator and as torch modules."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from latte_cli.errors import LatteError
from latte_cli.network import load, zoo
from latte_cli.network.channels import Positions, channel_groups, resize
from latte_cli.network.depth import dropped_blocks, without
from latte_cli.network.module import NetworkModule
from latte_cli.network.parts import Cutter
from latte_cli.network.weights import weights


def saved(folder, name, *, weights=True, image_size=None):
    path = folder / f"{name}.onnx"
    path.write_bytes(zoo.export(name, weights=weights, image_size=image_size, batch_size=2))
    return path


def drawn(network, seed=0, share=0.5):
    generator = np.random.default_rng(seed)
    return {
        group.name: sorted(generator.permutation(group.channels)[: group.width(share)].tolist())
        for group in channel_groups(network)
    }


def run(path, image):
    return ReferenceEvaluator(onnx.load(path)).run(None, {"input": image})[0]


@pytest.mark.parametrize(("name", "size"), [("lenet", None), ("resnet8", None), ("mobilenet_v2", 32), ("vgg11", 32)])
def test_a_part_computes_what_the_resized_module_does_with_the_weights_at_its_positions(tmp_path, name, size):
    path = saved(tmp_path, name, image_size=size)
    network = load(path)
    kept = drawn(network)
    part = Cutter(path, network).part(kept)
    (tmp_path / "part.onnx").write_bytes(part.onnx)
    onnx.checker.check_model(part.onnx)
    whole, indices = weights(path), Positions(network)
    expected = {
        key: np.asarray(whole[key])[np.ix_(*index)]
        for key, index in {**indices.parameters(kept), **indices.statistics(kept)}.items()
    }
    assert {key: value.shape for key, value in part.arrays.items()} == {k: v.shape for k, v in expected.items()}
    assert all(np.array_equal(part.arrays[key], value) for key, value in expected.items())
    resized = resize(network, {group: len(channels) for group, channels in kept.items()})
    module = NetworkModule(resized, weights=part.arrays).eval()
    image = np.random.default_rng(1).normal(size=network.inputs[0][1]).astype(np.float32)
    read = load(tmp_path / "part.onnx")
    assert read.layers == resized.layers
    with torch.no_grad():
        own = module(torch.from_numpy(image)).numpy()
        again = NetworkModule(read, weights=weights(tmp_path / "part.onnx")).eval()(torch.from_numpy(image)).numpy()
    assert np.array_equal(own, again)
    if not indices.statistics({}):  # the evaluator takes a batch's own statistics
        assert np.allclose(run(tmp_path / "part.onnx", image), own, rtol=1e-3, atol=1e-4 * np.abs(own).max())


def test_the_whole_kept_is_the_whole(tmp_path):
    path = saved(tmp_path, "lenet")
    network = load(path)
    part = Cutter(path, network).part({})
    (tmp_path / "part.onnx").write_bytes(part.onnx)
    image = np.random.default_rng(1).normal(size=network.inputs[0][1]).astype(np.float32)
    assert np.array_equal(run(tmp_path / "part.onnx", image), run(path, image))


def test_residual_blocks_are_left_out_with_all_that_only_they_need(tmp_path):
    path = saved(tmp_path, "resnet20")
    network = load(path)
    names = dropped_blocks(network, 0.5)
    part = Cutter(path, network).part({}, names)
    (tmp_path / "part.onnx").write_bytes(part.onnx)
    shorter = without(network, names)
    assert load(tmp_path / "part.onnx").layers == shorter.layers
    assert load(tmp_path / "part.onnx").parameters == shorter.parameters < network.parameters
    again = NetworkModule(load(tmp_path / "part.onnx"), weights=weights(tmp_path / "part.onnx")).eval()
    image = torch.randn(network.inputs[0][1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(image), NetworkModule(shorter, weights=weights(path)).eval()(image))


def test_a_file_without_weights_gives_one_without_weights(tmp_path):
    path = saved(tmp_path, "resnet8", weights=False)
    network = load(path)
    kept = drawn(network)
    part = Cutter(path, network).part(kept)
    assert part.arrays == {}
    (tmp_path / "part.onnx").write_bytes(part.onnx)
    assert load(tmp_path / "part.onnx").parameters == resize(network, {k: len(v) for k, v in kept.items()}).parameters
    with pytest.raises(LatteError, match="holds no weights"):
        Cutter(path, network).importance()


def test_importance_is_the_norm_of_the_weights_that_make_a_channel(tmp_path):
    path = saved(tmp_path, "lenet")
    network = load(path)
    found = Cutter(path, network).importance()
    assert set(found) == {group.name for group in channel_groups(network)}
    first = next(node for node in network.nodes if node.parameters)
    own = np.sqrt((np.asarray(weights(path)[first.parameters[0]]) ** 2).sum(axis=(1, 2, 3)))
    assert found[first.name] == pytest.approx(own, rel=1e-5)


def test_importance_adds_up_over_the_convolutions_of_a_residual_group(tmp_path):
    path = saved(tmp_path, "resnet8")
    network = load(path)
    group = max(channel_groups(network), key=lambda each: len(each.nodes))
    nodes = {node.name: node for node in network.nodes}
    squares = [np.asarray(weights(path)[nodes[name].parameters[0]]) ** 2 for name in group.nodes]
    own = np.sqrt(sum(each.sum(axis=(1, 2, 3)) for each in squares))
    assert Cutter(path, network).importance()[group.name] == pytest.approx(own, rel=1e-5)


def test_a_shape_in_the_file_that_fixes_the_channels_is_that_of_the_part(tmp_path):
    make = onnx.helper
    nodes = [
        make.make_node("Conv", ["input", "w"], ["c"], name="conv"),
        make.make_node("Reshape", ["c", "shape"], ["r"], name="reshape"),
        make.make_node("Gemm", ["r", "v"], ["y"], name="head"),
    ]
    tensors = [
        onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"),
        onnx.numpy_helper.from_array(np.array([2, 4 * 4], np.int64), "shape"),
        onnx.numpy_helper.from_array(np.ones((16, 5), np.float32), "v"),
    ]
    value = make.make_tensor_value_info
    graph = make.make_graph(
        nodes,
        "fixed",
        [value("input", onnx.TensorProto.FLOAT, (2, 3, 4, 4))],
        [value("y", onnx.TensorProto.FLOAT, (2, 5))],
        tensors,
    )
    path = tmp_path / "fixed.onnx"
    path.write_bytes(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)]).SerializeToString())
    network = load(path)
    found = load(Cutter(path, network).part({"conv": [0, 1]}).onnx)
    assert found.shapes["r"] == (2, 2 * 4)
    assert found.layers == resize(network, {"conv": 2}).layers


def test_a_program_of_torch_export_is_refused(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 5))
    path = tmp_path / "module.pt2"
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 4, 4),)), path)
    with pytest.raises(LatteError, match=r"is a program of torch\.export"):
        Cutter(path, load(path))
