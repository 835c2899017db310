from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from latte_cli.allocator import catalogue
from latte_cli.allocator.channels import Method, kept_channels
from latte_cli.errors import LatteError
from latte_cli.federated import models
from latte_cli.federated.aggregation import groups, part
from latte_cli.federated.data import Examples, load_examples
from latte_cli.federated.recipe import Recipe
from latte_cli.federated.training import Descent, evaluate_network, initial, train_network

LENET = models.network_from(models.content("lenet", image_size=12), batch=16)
RESNET = models.network_from(models.content("resnet8", image_size=8), batch=16)
DIGITS = load_examples("digits", channels=1, image_size=12).take(np.arange(90))
COLOURED = load_examples("digits", channels=3, image_size=8).take(np.arange(400))
RECIPE = Recipe(epochs=2, learning_rate=0.02)


pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(arrays):
    """LeNet as somebody would write it in PyTorch."""
    module = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )
    with torch.no_grad():
        for parameter, array in zip(module.parameters(), arrays.values(), strict=True):
            parameter.copy_(torch.from_numpy(array))
    return module


def test_training_is_sgd_over_shuffled_batches_the_last_of_which_is_smaller():
    first = initial(LENET, seed=1)
    module, order = by_hand(first), np.random.default_rng(5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    for _ in range(2):
        losses = []
        for batch in torch.from_numpy(order.permutation(90)).split(16):
            optimizer.zero_grad()
            loss = F.cross_entropy(
                module(torch.from_numpy(DIGITS.images)[batch]), torch.from_numpy(DIGITS.labels)[batch]
            )
            loss.backward()
            optimizer.step()
            losses += [float(loss.detach())] * len(batch)
    found = train_network(LENET, first, DIGITS, replace(RECIPE, weight_decay=0.01), seed=5)
    for parameter, (name, array) in zip(module.parameters(), found.arrays.items(), strict=True):
        np.testing.assert_allclose(array, parameter.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_proximal_term_is_part_of_the_loss_whose_gradient_is_followed():
    """FedProx's mu / 2 · ||w - w0||², by autograd."""
    first = initial(LENET, seed=1)
    module, order = by_hand(first), np.random.default_rng(5)
    begun = [parameter.detach().clone() for parameter in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    for _ in range(2):
        for batch in torch.from_numpy(order.permutation(90)).split(16):
            optimizer.zero_grad()
            scores = module(torch.from_numpy(DIGITS.images)[batch])
            away = sum(((w - w0) ** 2).sum() for w, w0 in zip(module.parameters(), begun, strict=True))
            (F.cross_entropy(scores, torch.from_numpy(DIGITS.labels)[batch]) + 2.0 / 2 * away).backward()
            optimizer.step()
    near = train_network(LENET, first, DIGITS, replace(RECIPE, weight_decay=0.01, proximal=2.0), seed=5)
    for parameter, (name, array) in zip(module.parameters(), near.arrays.items(), strict=True):
        np.testing.assert_allclose(array, parameter.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
    free = train_network(LENET, first, DIGITS, replace(RECIPE, weight_decay=0.01), seed=5)
    assert change(near, first) < 0.9 * change(free, first)


def change(found, first):
    return np.sqrt(sum(np.square(found.arrays[name] - array).sum() for name, array in first.items()))


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.9, 0.1)])
def test_descent_is_torchs_sgd_bit_by_bit(momentum, weight_decay):
    drawn = torch.Generator().manual_seed(3)
    ours, theirs = ([torch.ones(5, 7), torch.ones(9)] for _ in range(2))
    sgd = torch.optim.SGD(theirs, lr=0.03, momentum=momentum, weight_decay=weight_decay)
    descent = Descent(Recipe(learning_rate=0.03, momentum=momentum, weight_decay=weight_decay), ours)
    for step in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = None if step == 1 and mine.dim() == 1 else torch.randn(mine.shape, generator=drawn)
            other.grad = None if mine.grad is None else mine.grad.clone()
        descent.step()
        sgd.step()
        assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    descent.clear()
    assert all(mine.grad is None for mine in ours)


def test_fewer_examples_than_a_batch_count_once_each():
    first, few = initial(LENET, seed=1), DIGITS.take(np.arange(3))
    module = by_hand(first)
    loss = F.cross_entropy(module(torch.from_numpy(few.images)), torch.from_numpy(few.labels))
    loss.backward()
    found = train_network(LENET, first, few, Recipe(learning_rate=0.1, momentum=0.0), seed=0)
    wanted = first["fc3.bias"] - 0.1 * module[-1].bias.grad.numpy()
    np.testing.assert_allclose(found.arrays["fc3.bias"], wanted, rtol=1e-4, atol=1e-6)


def test_the_seed_decides_all_of_it():
    first = initial(RESNET, seed=0)
    one, same, other = (train_network(RESNET, first, COLOURED, RECIPE, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one.arrays[name], same.arrays[name]) for name in first)
    assert any(not np.array_equal(one.arrays[name], other.arrays[name]) for name in first)
    assert not np.array_equal(initial(RESNET, seed=1)["conv1.weight"], first["conv1.weight"])


def test_training_leaves_the_arrays_it_began_with_and_torchs_seed_alone():
    first = initial(RESNET, seed=0)
    before = {name: array.copy() for name, array in first.items()}
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    train_network(RESNET, first, COLOURED.take(np.arange(20)), Recipe(), seed=1)
    assert torch.rand(1) == wanted
    assert all(np.array_equal(before[name], first[name]) for name in first)


def sub_model(network, width):
    entry = catalogue(network, (width,))[0]
    channels = kept_channels(Method.ROLLING, groups(network), dict(entry.widths), round_number=1, device=2)
    return entry.of(network), channels


def test_a_sub_model_learns_in_its_own_shapes():
    small, channels = sub_model(RESNET, 0.5)
    cut = part(RESNET, initial(RESNET, seed=0), channels)
    found = train_network(small, cut, COLOURED, replace(RECIPE, epochs=4), seed=1, whole=RESNET)
    assert {name: each.shape for name, each in found.arrays.items()} == {name: each.shape for name, each in cut.items()}
    assert found.arrays["layer1.0.conv1.weight"].shape == (8, 8, 3, 3)
    assert found.loss < 1.2 < train_network(small, cut, COLOURED, replace(RECIPE, learning_rate=0.0), seed=1).loss


def test_masked_scores_do_not_teach_classes_that_are_not_there():
    present = DIGITS.take(np.flatnonzero(DIGITS.labels < 3))
    first = initial(LENET, seed=1)
    masked, plain = (
        train_network(LENET, first, present, replace(RECIPE, masked=each), seed=0) for each in (True, False)
    )
    np.testing.assert_array_equal(masked.arrays["fc3.weight"][3:], first["fc3.weight"][3:])
    assert (masked.arrays["fc3.bias"][:3] != first["fc3.bias"][:3]).all()
    assert (plain.arrays["fc3.bias"][3:] != first["fc3.bias"][3:]).all()


def test_scaled_layers_return_as_much_as_whole_ones():
    small, channels = sub_model(LENET, 0.5)
    cut = part(LENET, initial(LENET, seed=1), channels)
    still = Recipe(learning_rate=0.0, momentum=0.0, scaled=True)
    found = train_network(small, cut, DIGITS, still, seed=0, whole=LENET)
    x = torch.from_numpy(DIGITS.images)
    w = {name: torch.from_numpy(array) for name, array in cut.items()}
    for name, padding in (("conv1", 2), ("conv2", 0)):
        x = F.max_pool2d(F.relu(2 * F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)), 2)
    x = x.flatten(1)
    for name in ("fc1", "fc2"):
        x = F.relu(2 * F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]))
    loss = F.cross_entropy(F.linear(x, w["fc3.weight"], w["fc3.bias"]), torch.from_numpy(DIGITS.labels))
    assert found.loss == pytest.approx(float(loss), rel=1e-4)
    assert found.loss != pytest.approx(
        train_network(small, cut, DIGITS, replace(still, scaled=False), seed=0).loss, rel=1e-2
    )


def test_a_score_is_the_share_of_right_answers_and_the_mean_loss():
    arrays = initial(LENET, seed=1)
    scores = by_hand(arrays)(torch.from_numpy(DIGITS.images)).detach()
    labels = torch.from_numpy(DIGITS.labels)
    found = evaluate_network(LENET, arrays, DIGITS, statistics=DIGITS)
    assert found.accuracy == pytest.approx(float((scores.argmax(1) == labels).float().mean()))
    assert found.loss == pytest.approx(float(F.cross_entropy(scores, labels).detach()), rel=1e-5)


def test_statistics_of_batch_norms_are_those_of_the_given_examples():
    found = train_network(RESNET, initial(RESNET, seed=0), COLOURED, replace(RECIPE, epochs=5), seed=1)
    score = evaluate_network(RESNET, found.arrays, COLOURED, statistics=COLOURED)
    assert score.accuracy > 0.9
    louder = {**found.arrays, "conv1.weight": 100 * found.arrays["conv1.weight"]}
    assert evaluate_network(RESNET, louder, COLOURED, statistics=COLOURED).accuracy == pytest.approx(
        score.accuracy, abs=0.01
    )
    dark = Examples(images=COLOURED.images - 5, labels=COLOURED.labels)
    assert evaluate_network(RESNET, found.arrays, COLOURED, statistics=dark).accuracy < score.accuracy - 0.2


def test_a_score_does_not_depend_on_the_batch_size():
    arrays = initial(RESNET, seed=3)
    other = models.network_from(models.content("resnet8", image_size=8), batch=40)
    first, second = (evaluate_network(each, arrays, COLOURED, statistics=COLOURED) for each in (RESNET, other))
    assert first.loss == pytest.approx(second.loss, rel=0.02)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (DIGITS.take(np.arange(0)), "there are no examples"),
        (COLOURED, r"the examples have the shape \(3, 8, 8\)"),
        (replace(DIGITS, labels=DIGITS.labels + 1), "there are labels from 1 to 10"),
        (replace(DIGITS, labels=DIGITS.labels - 1), "there are labels from -1 to 8"),
    ],
)
def test_examples_that_do_not_suit_the_network_are_named(bad, message):
    with pytest.raises(LatteError, match=message) as error:
        train_network(LENET, initial(LENET, seed=0), bad, RECIPE, seed=0)
    assert error.value.hint
    with pytest.raises(LatteError, match=message):
        evaluate_network(LENET, initial(LENET, seed=0), bad, statistics=DIGITS)


def test_training_that_diverges_is_no_result():
    with pytest.raises(LatteError, match="training diverged after 2 epochs"):
        train_network(LENET, initial(LENET, seed=0), DIGITS, Recipe(epochs=2, learning_rate=1e9), seed=0)


def test_arrays_of_another_sub_model_are_named():
    small, _ = sub_model(LENET, 0.5)
    with pytest.raises(LatteError, match=r"`conv1.weight` has the shape \(6, 1, 5, 5\)"):
        train_network(small, initial(LENET, seed=0), DIGITS, RECIPE, seed=0)


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LatteError, match="`lenett` is no model"):
        models.content("lenett")
    with pytest.raises(LatteError, match="cannot read"):
        models.content(str(tmp_path / "missing.onnx"))


def test_a_model_file_is_sent_as_its_graph(tmp_path):
    from latte_cli.network import zoo
    from latte_cli.network.weights import weights

    path = tmp_path / "model.onnx"
    path.write_bytes(zoo.export("custom_cnn", weights=True, image_size=28, seed=4))
    sent = models.content(str(path))
    assert len(sent) < path.stat().st_size / 2
    network = models.network_from(sent, batch=8)
    assert network is models.network_from(sent, batch=8)
    found = initial(network, seed=0, weights=weights(path))
    np.testing.assert_array_equal(found["conv1.weight"], weights(path)["conv1.weight"])


def test_a_network_with_trained_constants_is_refused():
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    slope = numpy_helper.from_array(np.ones((4, 1, 1), np.float32), "slope")
    weight = numpy_helper.from_array(np.ones((4, 1, 1, 1), np.float32), "weight")
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["y"], name="conv"),
        helper.make_node("Mul", ["y", "slope"], ["z"], name="scale"),
    ]
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", count, 2, 2))
        for name, count in (("x", 1), ("z", 4))
    ]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], [weight, slope])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    assert onnx.load_model_from_string(content)
    with pytest.raises(LatteError, match=r"slope.* holds constants"):
        models.network_from(content, batch=2)
