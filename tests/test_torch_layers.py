"""Operands and calls of layers, as far as no device decides."""

from itertools import chain
from pathlib import Path

import pytest
import torch
from made_up import made_up_package, printed

from latte_cli.backends.torch.layers import (
    FRAMEWORK_CONVOLUTIONS,
    activations_type,
    backward_call,
    layer_call,
    module_precision,
    operands,
    overhead_s,
    weights_type,
)
from latte_cli.layers import Activation, Concat, Convolution, Elementwise, Layer, Linear, Optimizer, Phase, Transfer
from latte_cli.precisions import Precision
from latte_cli.tasks import Settings

AUTOCAST = Settings(precision=Precision.BF16_AUTOCAST)
LAYER = Convolution(batch=2, in_channels=3, out_channels=4, input=(8, 8), kernel=(3, 3), bias=True)


def test_autocast_keeps_weights_in_single_precision_and_computes_in_half() -> None:
    o = operands(LAYER, AUTOCAST)
    assert o.x.dtype == o.gy.dtype == torch.bfloat16
    assert weights_type(Precision.BF16_AUTOCAST) == torch.float32
    assert o.master is not None
    assert o.master.dtype == torch.float32
    assert torch.equal(o.weight(), o.master.bfloat16())
    assert FRAMEWORK_CONVOLUTIONS[Phase.FORWARD](LAYER, o).dtype == torch.bfloat16
    assert FRAMEWORK_CONVOLUTIONS[Phase.BACKWARD_FILTER](LAYER, o).dtype == torch.float32
    assert FRAMEWORK_CONVOLUTIONS[Phase.BACKWARD_DATA](LAYER, o).dtype == torch.bfloat16


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_elsewhere_weights_are_what_is_computed_with(precision: Precision) -> None:
    o = operands(LAYER, Settings(precision=precision))
    assert o.master is None
    assert o.weight() is o.w
    assert o.gradient(o.w) is o.w
    assert weights_type(precision) == o.w.dtype


def test_recorded_operands_make_autograd_follow_and_leave_the_others_alone() -> None:
    o = operands(LAYER, Settings())
    out = FRAMEWORK_CONVOLUTIONS[Phase.FORWARD](LAYER, o.record())
    assert out.requires_grad
    assert not o.w.requires_grad
    assert not FRAMEWORK_CONVOLUTIONS[Phase.FORWARD](LAYER, o).requires_grad


def test_gradients_of_a_linear_layer_under_autocast_are_those_of_its_master_weights() -> None:
    call = layer_call(Linear(rows=4, in_features=6, out_features=5), Phase.BACKWARD_FILTER, AUTOCAST)
    results = call.call()
    assert isinstance(results, tuple)
    assert [(each.dtype, tuple(each.shape)) for each in results] == [(torch.float32, (5, 6)), (torch.bfloat16, (5,))]


@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (Elementwise(operation="add", shapes=((2, 3), (2, 3))), 2),
        (Concat(shapes=((2, 3), (2, 5))), 2),
    ],
)
def test_gradients_that_share_their_data_are_not_copied(layer: Layer, count: int) -> None:
    """As within a network, whose nodes hand gradients on; at leaves, autograd would copy each that is shared."""
    results = layer_call(layer, Phase.BACKWARD, Settings()).call()
    assert isinstance(results, tuple)
    assert len(results) == count
    assert len({each.untyped_storage().data_ptr() for each in results}) == 1


def test_a_batch_is_copied_in_single_precision_under_autocast() -> None:
    copied = layer_call(Transfer(elements=12), Phase.FORWARD, AUTOCAST).call()
    assert isinstance(copied, torch.Tensor)
    assert copied.dtype == torch.float32


def test_an_update_cannot_be_repeated_without_new_gradients() -> None:
    update = layer_call(Optimizer(function="sgd", tensors=2, elements=10), Phase.UPDATE, Settings())
    assert not update.repeatable
    assert layer_call(Activation(function="relu", shape=(2, 3)), Phase.BACKWARD, Settings()).repeatable


def test_dropping_what_a_backward_call_left_keeps_the_next_from_adding_to_it() -> None:
    leaf = torch.ones(3, requires_grad=True)
    call = backward_call(leaf * 2, [leaf])
    call.call()
    once = leaf.grad
    assert once is not None
    call.drop()
    call.call()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, once)


@pytest.mark.parametrize(
    ("short_s", "long_s", "cost_s"),
    [(4.0, 4.0, 4.0), (4.0, 8.0, 3.8), (1.0, 100.0, 0.0)],
    ids=["free nodes", "nodes of 0.2 s", "nodes that cost more than the call"],
)
def test_a_backward_call_is_charged_for_its_node_and_never_less_than_nothing(
    short_s: float, long_s: float, cost_s: float
) -> None:
    recorded = [(0.0, short_s)] * 300 + [(0.0, long_s)] * 300
    ticks = chain.from_iterable(recorded)
    assert overhead_s("cpu", lambda: next(ticks)) == pytest.approx(cost_s)
    assert next(ticks, None) is None


@pytest.mark.parametrize("precision", Precision)
def test_torch_s_types_have_the_bytes_of_the_precision(precision: Precision) -> None:
    assert activations_type(precision).itemsize == precision.element_bytes
    assert weights_type(precision).itemsize == precision.arithmetic.weight_bytes


def test_a_module_s_type_says_its_arithmetic_where_there_is_one() -> None:
    types = (torch.float32, torch.bfloat16, torch.float16)
    assert list(map(module_precision, types)) == [Precision.FP32, Precision.BF16, Precision.FP16]
    assert module_precision(torch.float64) is None


STEP = """
from latte_cli.backends.torch.training import RunRequest, NetworkTraining

training = NetworkTraining(RunRequest(model="resnet8", batch_size=2, precision="made_up"))
print({tensor.dtype for tensor in (*training.module.parameters(), *training.inputs)})
"""


def test_a_precision_that_is_added_runs_in_its_own_type_and_not_in_fp32(tmp_path: Path) -> None:
    assert printed(made_up_package(tmp_path), STEP).strip() == "{torch.float64}"
