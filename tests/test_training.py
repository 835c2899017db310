"""Networks as they are trained: norms put back, parameters frozen, passes accumulated, losses."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from made_rows import DEVICE, profile, step_layers
from onnx import helper, numpy_helper

from latte_cli.errors import LatteError
from latte_cli.estimator import ACCUMULATION, LOSS, UPDATE, Estimator, Step
from latte_cli.estimator.steps import step_calls
from latte_cli.layers import Convolution, Elementwise, Norm, Phase
from latte_cli.network import Network, zoo
from latte_cli.network.onnx import read
from latte_cli.network.training import folded_norms, freeze_parameters, with_norms
from latte_cli.store import open_store


def network(content: bytes, batch_size: int = 4) -> Network:
    return read(content, name="m", sha256="", batch_size=batch_size, allow_unknown=False)


def folded(content: bytes) -> bytes:
    """The model as an export for inference has it: each norm folded into the convolution before it, no dropout."""
    model = onnx.load_model_from_string(content)
    graph, convolutions = model.graph, {}
    kept, renamed = [], {}
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = renamed.get(name, name)
        if node.op_type == "Conv":
            convolutions[node.output[0]] = node
        if node.op_type == "BatchNormalization":
            node_before = convolutions[node.input[0]]
            node_before.input.append(f"{node_before.name}.folded")
            channels = next(
                iter(read(content, name="m", sha256="", batch_size=1, allow_unknown=False).shapes[node.output[0]][1:2])
            )
            graph.initializer.append(
                numpy_helper.from_array(np.zeros(channels, np.float32), f"{node_before.name}.folded")
            )
        if node.op_type in ("BatchNormalization", "Dropout"):
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    return bytes(model.SerializeToString())


RESNET = zoo.export("resnet18", image_size=32)


def test_norms_that_an_export_folded_away_are_put_back() -> None:
    trained, inference = network(RESNET), network(folded(RESNET))
    assert not any(isinstance(layer, Norm) for layer in inference.layers)
    again = with_norms(inference)
    assert Counter(again.layers) == Counter(trained.layers)
    assert again.parameters == trained.parameters
    shapes = dict(again.inputs)
    for node in again.nodes:
        assert node.layer.input_shapes == tuple(shapes[name] for name in node.inputs)
        shapes[node.output] = node.layer.output_shape


def test_the_estimate_with_restored_norms_is_that_of_the_training_export(tmp_path) -> None:
    trained = network(RESNET)
    store = open_store(str(tmp_path / "store"), shipped=False)
    profile(store, [*step_layers(trained), *network(folded(RESNET)).layers])
    estimates = [Estimator(store, DEVICE.slug).estimate(one) for one in (trained, with_norms(network(folded(RESNET))))]
    assert estimates[0].step_s == pytest.approx(estimates[1].step_s)
    assert "norms-folded" not in {warning.code for warning in estimates[0].warnings}
    folded_away = Estimator(store, DEVICE.slug).estimate(network(folded(RESNET)), "none")
    (warning,) = [warning for warning in folded_away.warnings if warning.code == "norms-folded"]
    assert "--restore-norms" in warning.message


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_no_network_of_the_zoo_is_taken_for_an_export_for_inference(name: str) -> None:
    """VGG and AlexNet never had norms: their dropout tells; LeNet and the custom CNN are too small to tell."""
    assert folded_norms(network(zoo.export(name))) == 0


def test_vgg_without_its_dropout_is_suspected_and_resnet_s_last_layer_keeps_its_bias() -> None:
    assert folded_norms(network(folded(zoo.export("vgg11", image_size=32)))) == 8
    assert folded_norms(network(folded(RESNET))) == 20
    assert [node.layer for node in with_norms(network(RESNET)).nodes] == list(network(RESNET).layers)


# --- frozen parameters

NET = network(zoo.export("resnet8"))


def works(found: Network, **step: object) -> Counter[tuple[str, Phase]]:
    return Counter((work.name, work.phase) for work in step_calls(found, Step(**step)))  # type: ignore[arg-type]


def test_frozen_layers_have_no_filter_gradient_and_no_update() -> None:
    half = freeze_parameters(NET, ["layer3.0.conv1"])
    assert ("layer3.0.conv1", Phase.BACKWARD_FILTER) not in works(half)
    assert ("layer3.0.conv1", Phase.BACKWARD_DATA) in works(half)
    weight = next(node.layer.parameters for node in NET.nodes if node.name == "layer3.0.conv1")
    assert half.trained_parameters == NET.parameters - weight == half.optimizer("sgd").elements
    assert half.parameters == NET.parameters


def test_what_lies_before_the_first_trained_layer_has_no_backward_at_all() -> None:
    late = freeze_parameters(NET, ["conv1", "bn1", "layer1.*", "layer2.*"])
    backward = {name for name, phase in works(late) if phase not in (Phase.FORWARD, Phase.UPDATE)}
    assert not {name for name in backward if name.startswith(("conv1", "bn1", "relu", "layer1", "layer2"))}
    assert ("layer3.0.conv1", Phase.BACKWARD_FILTER) in works(late)
    assert ("layer3.0.conv1", Phase.BACKWARD_DATA) not in works(late)


def test_patterns_match_parameters_layers_and_what_is_inside_them() -> None:
    assert freeze_parameters(NET, ["fc"]).frozen == {"fc.weight", "fc.bias"}
    assert freeze_parameters(NET, ["layer1"]).frozen == freeze_parameters(NET, ["layer1.*"]).frozen
    assert freeze_parameters(NET, ["*.bias"]).frozen == {name for name in NET.trained_sizes if name.endswith(".bias")}
    assert freeze_parameters(NET, []) == NET


def test_a_pattern_that_matches_nothing_gets_a_near_match() -> None:
    with pytest.raises(LatteError, match="unknown parameter or layer `layr3") as caught:
        freeze_parameters(NET, ["layr3.0"])
    assert caught.value.hint == "did you mean `layer3.0`?"
    with pytest.raises(LatteError, match="all parameters are frozen"):
        freeze_parameters(NET, ["*"])


# --- accumulation and losses


def test_accumulated_passes_share_one_update_and_add_their_gradients(tmp_path) -> None:
    added = Elementwise(operation="add", shapes=((NET.parameters,),) * 2)
    store = open_store(str(tmp_path / "store"), shipped=False)
    profile(store, [*step_layers(NET), added])
    once, thrice = (Estimator(store, DEVICE.slug).estimate(NET, Step(accumulate=count)) for count in (1, 3))
    assert thrice.forward_s == pytest.approx(3 * once.forward_s)
    assert thrice.backward_s == pytest.approx(3 * once.backward_s)
    assert thrice.update_s == pytest.approx(once.update_s)
    (part,) = [part for part in thrice.parts if part.name == ACCUMULATION]
    assert part.count == 2
    assert thrice.epoch_s(1200) == pytest.approx(100 * thrice.step_s)
    assert once.epoch_s(1200) == pytest.approx(300 * once.step_s)


def test_the_loss_may_be_another_or_none() -> None:
    kinds = {
        loss: [w.layer.kind for w in step_calls(NET, Step(loss=loss)) if w.name == LOSS] for loss in ("mse", "none")
    }
    assert set(kinds["mse"]) == {"elementwise", "reduce"}
    assert kinds["none"] == []
    assert (UPDATE, Phase.UPDATE) in works(NET, loss="none")


def test_the_loss_is_of_the_last_output_that_is_trained() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "v"], ["scores"]),
        helper.make_node("Shape", ["x"], ["shape"]),
    ]
    stored = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in (("w", (8, 4)), ("v", (4, 10)))
    ]
    outputs = [helper.make_tensor_value_info(name, 1, None) for name in ("hidden", "scores", "shape")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, (2, 8))], outputs, initializer=stored)
    found = network(helper.make_model(graph).SerializeToString(), 2)
    assert found.outputs == ("hidden", "scores", "shape")
    assert (found.scores, found.loss().classes) == ("scores", 10)


def test_a_convolution_without_bias_stays_as_it_is() -> None:
    plain = replace(NET, nodes=tuple(node for node in NET.nodes))
    assert with_norms(plain) == NET
    assert all(not layer.bias for layer in NET.layers if isinstance(layer, Convolution))
