"""Optimizers: what their records say against torch, and that a record is all there is to one."""

import pytest
import torch

from latte_cli.errors import LatteError
from latte_cli.estimator.memory import memory
from latte_cli.estimator.steps import Step
from latte_cli.layers import Optimizer, Phase, layer_from_text
from latte_cli.network import zoo
from latte_cli.network.module import optimizer
from latte_cli.network.onnx import read
from latte_cli.optimizers import OPTIMIZERS, UpdateRule, update_rule
from latte_cli.precisions import Precision


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "none"])
def test_torch_keeps_as_many_numbers_for_a_parameter_as_the_record_says(name: str) -> None:
    weight = torch.nn.Parameter(torch.zeros(7))
    update = optimizer(name, [weight])
    assert update is not None
    weight.grad = torch.ones(7)
    update.step()
    kept = [value for value in update.state[weight].values() if isinstance(value, torch.Tensor) and value.numel() == 7]
    assert len(kept) == OPTIMIZERS[name].states


def test_no_optimizer_is_made_for_none_and_an_unknown_one_has_a_near_match() -> None:
    assert optimizer("none", []) is None
    with pytest.raises(LatteError) as error:
        update_rule("momentun")
    assert error.value.hint == "did you mean `momentum`?"


def test_an_optimizer_has_the_arguments_of_its_record() -> None:
    update = optimizer("momentum", [torch.nn.Parameter(torch.zeros(1))])
    assert update is not None
    assert (update.defaults["lr"], update.defaults["momentum"]) == (1e-3, 0.9)


def test_an_update_by_an_unknown_optimizer_is_no_layer() -> None:
    with pytest.raises(LatteError, match="cannot have the function `lion`"):
        Optimizer(function="lion", tensors=1, elements=2)
    with pytest.raises(LatteError, match="cannot have the function"):
        layer_from_text('{"kind":"optimizer","function":"lion","tensors":1,"elements":2}')


def test_a_record_is_all_there_is_to_an_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "adagrad", UpdateRule(states=1, temporaries=3, torch_class="Adagrad"))
    network = read(zoo.export("resnet8"), name="resnet8", sha256="", batch_size=2, allow_unknown=False)
    update = memory(network, Step(optimizer="adagrad"), Precision.FP32).timeline[-1]
    assert update.optimizer_bytes == 4 * network.parameters
    assert update.temporary_bytes == 3 * 4 * max(network.trained_sizes.values())
    assert network.optimizer("adagrad").elements_moved(Phase.UPDATE) == 5 * network.parameters
    assert isinstance(optimizer("adagrad", [torch.nn.Parameter(torch.zeros(1))]), torch.optim.Adagrad)
