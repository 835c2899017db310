"""The estimated peak of a training step against what torch's allocator counts on a GPU."""

import pytest
import torch

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.contract import Unsupported
from latte_cli.backends.cuda.backend import CudaBackend
from latte_cli.estimator.memory import memory
from latte_cli.estimator.steps import LOSS, UPDATE, Step, step_calls
from latte_cli.layers import Phase
from latte_cli.network import zoo
from latte_cli.network.module import NetworkModule, optimizer, random_inputs, random_targets
from latte_cli.network.module import training_step as real_step
from latte_cli.network.onnx import read
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Task

WITHIN = 0.05


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg11", "alexnet"])
@pytest.mark.parametrize("function", ["sgd", "adam"])
def test_the_peak_is_that_of_torch_s_allocator(name: str, function: str, backend: CudaBackend) -> None:
    found = read(zoo.export(name), name=name, sha256="", batch_size=16, allow_unknown=False)
    step, settings = Step(optimizer=function), backend.settings(Precision.FP32, Layout.NCHW)
    workspaces: dict[tuple[str, Phase], int] = {}
    for work in step_calls(found, step):
        if work.layer.free or work.name in (LOSS, UPDATE):
            continue
        task = Task(layer=work.layer, phase=work.phase, algorithm=FRAMEWORK_DEFAULT, settings=settings)
        try:
            ready = backend.prepare(task)
        except Unsupported:
            continue
        workspaces[work.name, work.phase] = ready.facts().workspace_bytes or 0
    del ready
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    module = NetworkModule(found).cuda()
    update = optimizer(function, module.parameters())
    inputs = tuple(tensor.cuda() for tensor in random_inputs(found))
    targets = random_targets(found).cuda()
    for _ in range(2):
        real_step(module, inputs, targets, update)
    torch.cuda.reset_peak_memory_stats()
    real_step(module, inputs, targets, update)
    peak = torch.cuda.max_memory_allocated() - held
    estimated = memory(found, step, Precision.FP32, fused=True).with_workspaces(workspaces).peak
    assert estimated.live_bytes == pytest.approx(peak, rel=WITHIN), estimated
