"""Convolutions that run with cuDNN's algorithms by name compute what torch's own do."""

import copy

import pytest
import torch
from module_clock import ModuleClock
from torch import nn

import latte_cli
from latte_cli.backends.native import cudnn
from latte_cli.layers import Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.runtime import Binding, Choices
from latte_cli.runtime.convolution import TunedConv2d, layer_of, wrapper_s
from latte_cli.runtime.optimizing import own_key

SHAPE = (4, 16, 20, 20)
LAYERS = {
    "3x3": lambda: nn.Conv2d(16, 32, 3, padding=1),
    "1x1": lambda: nn.Conv2d(16, 32, 1, bias=False),
    "strided": lambda: nn.Conv2d(16, 32, 3, stride=2, padding=1),
    "grouped": lambda: nn.Conv2d(16, 32, 3, padding=1, groups=4),
}


def gradients(module, x):
    x = x.detach().clone().requires_grad_()
    module.zero_grad(set_to_none=True)
    y = module(x)
    y.square().sum().backward()
    return y.detach(), x.grad, *(parameter.grad for parameter in module.parameters())


@pytest.mark.parametrize("layout", [None, Layout.CHANNELS_LAST])
@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:.*refuses.*")
def test_every_algorithm_of_cudnn_computes_what_torch_does(name, phase, layout):
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    plain, x = nn.Sequential(LAYERS[name]()).cuda(), torch.randn(SHAPE, device="cuda")
    expected, layer = gradients(plain, x), layer_of(plain[0], SHAPE)
    ran = 0
    for algorithm in cudnn.algorithms(layer, phase):
        binding = Binding(layer=layer, phase=phase, algorithm=algorithm, gain_s=1e-6)
        key = own_key(torch.device("cuda", 0), Precision.FP32)
        choices = Choices(key=key, strategy="latte", layout=layout, bindings=(binding,))
        tuned = latte_cli.optimize(copy.deepcopy(plain), choices=choices)
        assert isinstance(tuned[0], TunedConv2d)
        for one, other in zip(gradients(tuned, x), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        ran += not latte_cli.optimization_of(tuned).reasons
    assert ran


def test_streams_are_kept():
    torch.manual_seed(0)
    plain, x = nn.Sequential(LAYERS["3x3"]()).cuda(), torch.randn(SHAPE, device="cuda")
    layer = layer_of(plain[0], SHAPE)
    algorithm = cudnn.algorithms(layer, Phase.FORWARD)[0]
    binding = Binding(layer=layer, phase=Phase.FORWARD, algorithm=algorithm, gain_s=1e-6)
    key = own_key(torch.device("cuda", 0), Precision.FP32)
    tuned = latte_cli.optimize(copy.deepcopy(plain), choices=Choices(key=key, strategy="latte", bindings=(binding,)))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(10):
            busy = busy @ busy / 64
        y = tuned(x + busy[0, 0] * 0)
    side.synchronize()
    torch.testing.assert_close(y, plain(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("plain_s", "wrapped_s", "cost_s"), [(1.0, 3.0, 2.0), (3.0, 1.0, 0.0)])
def test_the_wrapper_costs_what_calls_through_it_take_longer(plain_s, wrapped_s, cost_s):
    with ModuleClock({nn.Conv2d: plain_s, TunedConv2d: wrapped_s}) as clock:
        assert wrapper_s("cuda", clock) == cost_s
