"""Optimizers: what their records say against torch, and that a record is all there is to one."""

import inspect
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch.utils._foreach_utils import _get_foreach_kernels_supported_devices

from latte_cli.backends.torch.layers import cpu_growth
from latte_cli.errors import LatteError
from latte_cli.estimator.memory import memory
from latte_cli.estimator.steps import Step
from latte_cli.layers import Optimizer, Phase, layer_from_text
from latte_cli.network import zoo
from latte_cli.network.module import optimizer
from latte_cli.network.onnx import read
from latte_cli.optimizers import COUNTER_BYTES, OPTIMIZERS, UpdateRule, measured_name, one_by_one, update_rule
from latte_cli.precisions import Precision

NAMES = [name for name in OPTIMIZERS if name != "none"]
SHAPES: list[tuple[tuple[int, ...], ...]] = [
    ((1000,), (10,), (5000,), (3000,), (7,)),
    ((5000,), (1000,), (3000,)),
    ((64, 32, 3, 3), (64,), (100, 50), (100,)),
    ((100,), (64, 3, 7, 7), (10, 64), (10,), ()),
]
SCALARS_BYTES = 12  # the learning rate and the like, as tensors of one number


def updated(name: str, shapes: Sequence[tuple[int, ...]]) -> tuple[torch.optim.Optimizer, int]:
    """An optimizer after some steps, and the most that torch's allocator adds in the next."""
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    update = optimizer(name, weights)
    assert update is not None
    for step in range(8):  # the sixth step of RAdam is the first that it rectifies
        for weight in weights:
            weight.grad = torch.full_like(weight, 0.1)
        if step < 7:
            update.step()
    peak, left, _ = cpu_growth(lambda: update.step)
    assert left == 0
    return update, peak


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_torch_s_allocator_holds_as_much_as_the_record_says(name: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    update, peak = updated(name, shapes)
    rule = OPTIMIZERS[name]
    assert 0 <= peak - 4 * rule.temporary(shapes) <= SCALARS_BYTES
    states = sum(v.nbytes for kept in update.state.values() for v in kept.values() if isinstance(v, torch.Tensor))
    assert states == 4 * rule.state_numbers(shapes) + COUNTER_BYTES * rule.counters * len(shapes)


@pytest.mark.parametrize("name", NAMES)
def test_what_torch_takes_on_a_gpu_is_what_its_defaults_say(name: str) -> None:
    """`_default_to_fused_or_foreach` asks the types of devices alone; Adafactor does not ask it."""
    rule = OPTIMIZERS[name]
    module = inspect.getmodule(getattr(torch.optim, rule.torch_class))
    assert module is not None
    asks = "_default_to_fused_or_foreach(" in inspect.getsource(module)
    asks |= rule.torch_class == "AdamW"  # which is an Adam
    typed = "foreach" in rule.arguments or "fused" in rule.arguments
    assert rule.on_gpus == (f"{name}-foreach" if asks and not typed else "")
    assert {"cuda"} <= set(_get_foreach_kernels_supported_devices())
    assert "cpu" not in _get_foreach_kernels_supported_devices()


def test_an_implementation_that_torch_takes_by_itself_is_measured_by_the_plain_name() -> None:
    assert measured_name("adamw-foreach", on_gpu=True) == "adamw"
    assert measured_name("adamw-foreach", on_gpu=False) == "adamw-foreach"
    assert measured_name("adamw-fused", on_gpu=True) == "adamw-fused"
    assert measured_name("adafactor-foreach", on_gpu=True) == "adafactor-foreach"
    assert update_rule("adamw", on_gpu=True) == OPTIMIZERS["adamw-foreach"]
    assert update_rule("adamw") == OPTIMIZERS["adamw"]


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
    triple = partial(one_by_one, own=3, before=0)
    monkeypatch.setitem(OPTIMIZERS, "lion", UpdateRule(states=1, temporary=triple, torch_class="Adagrad"))
    network = read(zoo.export("resnet8"), name="resnet8", sha256="", batch_size=2, allow_unknown=False)
    update = memory(network, Step(optimizer="lion"), Precision.FP32).timeline[-1]
    assert update.optimizer_bytes == 4 * network.parameters
    assert update.temporary_bytes == 3 * 4 * max(network.trained_sizes.values())
    assert network.optimizer("lion").elements_moved(Phase.UPDATE) == 5 * network.parameters
    assert isinstance(optimizer("lion", [torch.nn.Parameter(torch.zeros(1))]), torch.optim.Adagrad)
