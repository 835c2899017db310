"""The memory of a training step against what torch's own allocator counts on the CPU."""

import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate
from random import Random

import pytest
import torch
from torch import Tensor, nn

from latte_cli import load
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.cpu.backend import CpuBackend
from latte_cli.estimator.memory import memory, moment_of, returned_bytes
from latte_cli.estimator.steps import LOSS, UPDATE, Step, step_calls
from latte_cli.estimator.storages import Storages
from latte_cli.layers import Layer, Other, Phase
from latte_cli.network import Network, zoo
from latte_cli.network import training as views
from latte_cli.network.module import NetworkModule, optimizer, random_inputs, random_targets
from latte_cli.network.module import training_step as real_step
from latte_cli.network.onnx import read
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Task

SIZES = {
    **{"alexnet": 63, "mobilenet_v1": 64, "mobilenet_v2": 64, "resnet18": 64, "resnet34": 32, "resnet50": 64},
    **{"vgg11": 32, "vgg16": 32},
}
WITHIN = 0.05
STATELESS = ("alexnet", "resnet34", "resnet50", "vgg11", "vgg16")
"""Adam has twice their many weights to update, which are kinds of layers that the smaller networks have as well."""


def network(name: str, batch_size: int) -> Network:
    content = zoo.export(name, image_size=SIZES.get(name))
    return read(content, name=name, sha256="", batch_size=batch_size, allow_unknown=False)


@lru_cache
def backend() -> CpuBackend:
    return CpuBackend(threads=1)


@cache
def workspace_bytes(layer: Layer, phase: Phase, layout: Layout = Layout.NCHW) -> int:
    settings = backend().settings(Precision.FP32, layout)
    task = Task(layer=layer, phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=settings)
    return backend().prepare(task).facts().workspace_bytes or 0


def workspaces(found: Network, step: Step) -> dict[tuple[str, Phase], int]:
    beside, last = (LOSS, UPDATE), Storages(found).channels_last
    layouts = {True: Layout.CHANNELS_LAST, False: Layout.NCHW}
    runs = (work for work in step_calls(found, step) if not isinstance(work.layer, Other))
    works = [work for work in runs if not work.layer.free and work.name not in beside]
    return {
        (work.name, work.phase): workspace_bytes(work.layer, work.phase, layouts[work.name in last]) for work in works
    }


def real_peak_bytes(found: Network, step: Step) -> int:
    """The peak of the second step: what lives from step to step, and the most that torch's allocator adds to it."""
    module = NetworkModule(found)
    for name, parameter in zip(names(found), parameters(module), strict=True):
        parameter.requires_grad_(name not in found.frozen)
    update = optimizer(step.optimizer, [p for p in module.parameters() if p.requires_grad])
    inputs, targets = random_inputs(found), random_targets(found)
    real_step(module, inputs, targets, update)
    module.zero_grad(set_to_none=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.profiler.profile(profile_memory=True) as seen:
            real_step(module, inputs, targets, update)
        events = [event for event in seen.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    lasting = [*module.parameters(), *module.buffers(), *inputs, targets]
    states = [value for state in (update.state.values() if update else ()) for value in state.values()]
    lasting += [value for value in states if isinstance(value, torch.Tensor)]
    return sum(tensor.nbytes for tensor in lasting) + max(accumulate(changes))


class Last(nn.Module):
    """A recurrent network whose last step is scored."""

    def __init__(self, cells: nn.Module) -> None:
        super().__init__()
        self.cells, self.out = cells, nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cells(x)[0][:, -1])


class ByHand(nn.Module):
    """An activation that is written as a formula."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * torch.pow(x, 3.0))))


class Scan(nn.Module):
    """Steps over parts of a sequence, each of which has a gradient as large as the sequence while it is added."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.out = nn.Linear(64, 128), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        kept, given = self.gates(x).chunk(2, dim=-1)
        kept, given, state = kept.sigmoid(), given.tanh(), torch.zeros(64)
        for step in range(6):
            state = kept[:, step] * state + given[:, step]
        return self.out(state)


class Choice(nn.Module):
    """Rows in an order that the input decides, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x)
        for column in range(5):
            rows = rows[x[:, column].argsort()]
        return self.out(rows)


def written(name: str) -> tuple[nn.Module, Tensor]:
    """A module as users write it, with an input."""
    if name in ("LSTM", "GRU", "RNN"):
        return Last(getattr(nn, name)(32, 48, batch_first=True)), torch.randn(4, 24, 32)
    if name == "choice":
        return Choice(), torch.randn(200, 64)
    if name == "scan":
        return Scan(), torch.randn(32, 6, 64)
    if name.startswith("attention"):
        rate = float(name.split()[-1])
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=rate)
        return nn.Sequential(layer, nn.Linear(32, 10)), torch.randn(3, 40, 32)
    if name == "dropped channels":
        spread = [nn.Dropout2d(0.1) for _ in range(4)]
        return nn.Sequential(nn.Conv2d(3, 16, 3), *spread, nn.Flatten(), nn.Linear(16 * 36, 4)), torch.randn(4, 3, 8, 8)
    return nn.Sequential(nn.Linear(64, 64), ByHand(), ByHand(), nn.Linear(64, 10)), torch.randn(200, 64)


@pytest.mark.parametrize(
    "name",
    [
        "LSTM",
        "GRU",
        "RNN",
        "attention with dropout 0.0",
        "attention with dropout 0.1",
        "dropped channels",
        "by hand",
        "scan",
        "choice",
    ],
)
def test_the_peak_of_a_module_is_that_of_torch_s_allocator(name: str) -> None:
    module, x = written(name)
    check_peak(module, x, WITHIN)


def check_peak(module: nn.Module, x: Tensor, within: float, loss: str = "cross-entropy") -> None:
    """The peak of a step of a module as its user writes it; what of it is frozen does not train."""
    found, step = load(module, x), Step(optimizer="sgd", loss=loss)
    update = torch.optim.SGD(module.parameters(), lr=1e-6)
    targets = random_targets(found) if loss == "cross-entropy" else torch.randn(found.shapes[found.scores])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.profiler.profile(profile_memory=True) as seen:
            (real_step if loss == "cross-entropy" else squared_step)(module, (x,), targets, update)
        events = [event for event in seen.kineto_results.events() if event.name() == "[memory]"]
    grown = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    real = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers(), x, targets)) + max(grown)
    estimated = memory(found, step, Precision.FP32).with_workspaces(workspaces(found, step)).peak
    assert estimated.live_bytes == pytest.approx(real, rel=within), estimated


def squared_step(module: nn.Module, inputs: Sequence[Tensor], targets: Tensor, update: torch.optim.Optimizer) -> None:
    """A step with the mean squared error as its loss."""
    result = module(*inputs)
    loss = nn.functional.mse_loss(result, targets)
    loss.backward()
    update.step()


@pytest.mark.parametrize("width", [16, 1024])
def test_the_mean_squared_error_holds_what_its_mean_was_taken_of(width: int) -> None:
    check_peak(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, width)), torch.randn(256, 16), 0.005, "mse")


@pytest.mark.parametrize(
    "layer", [nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(8), nn.GroupNorm(1, 8), nn.Dropout(0.1), nn.GELU(), nn.Softmax(1)]
)
def test_a_frozen_layer_drops_what_it_makes_for_a_backward_pass(layer: nn.Module) -> None:
    frozen = nn.Sequential(nn.Conv2d(3, 8, 1), layer, layer).requires_grad_(False)
    module = nn.Sequential(frozen, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    check_peak(module, torch.randn(8, 3, 32, 32), 0.005)


class Recurring(nn.Module):
    """Recurrent layers, perhaps behind a layer that trains, whose states are scored all together or at the end."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = Random(seed)
        kind, inputs, hidden = (
            draw.choice((nn.GRU, nn.GRU, nn.RNN, nn.LSTM)),
            draw.choice((8, 100)),
            draw.choice((8, 48)),
        )
        options = {
            "bidirectional": draw.random() < 0.5,
            "batch_first": draw.random() < 0.5,
            "bias": draw.random() < 0.8,
        }
        layers, batch, steps = draw.choice((1, 1, 2)), draw.choice((1, 4, 16)), draw.choice((3, 10, 40))
        self.first = nn.Linear(inputs, inputs) if draw.random() < 0.3 else nn.Identity()
        self.cells = kind(inputs, hidden, layers, dropout=0.2 * (layers > 1), **options)
        self.out = nn.Linear(hidden * (1 + options["bidirectional"]), 10)
        self.last, self.time = draw.random() < 0.5, 1 if options["batch_first"] else 0
        self.example = torch.randn(*((batch, steps) if options["batch_first"] else (steps, batch)), inputs)

    def forward(self, x: Tensor) -> Tensor:
        states = self.cells(self.first(x))[0]
        return self.out(states.select(self.time, -1) if self.last else states.mean(self.time))


@pytest.mark.parametrize("seed", range(14))
def test_the_peak_of_recurrent_layers_is_that_of_torch_s_allocator(seed: int) -> None:
    torch.manual_seed(seed)
    module = Recurring(seed)
    check_peak(module, module.example, WITHIN)


class Permuted(nn.Module):
    """A layer that sees the dimensions of its input in another order, and whose output is turned back."""

    def __init__(self, layer: nn.Module, order: Sequence[int], *, contiguous: bool) -> None:
        super().__init__()
        self.layer, self.order, self.contiguous = layer, order, contiguous

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(*self.order)
        y = self.layer(x.contiguous() if self.contiguous else x)
        return y.permute(*(self.order.index(axis) for axis in range(y.dim())))


def permuting(seed: int) -> nn.Module:
    """A chain of layers, some of which read activations that the one before has laid otherwise."""
    draw, width = Random(seed), 16
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(6):
        kernel = draw.choice((1, 3, 7))
        groups = draw.choice((1, 2, width)) if kernel > 1 else 1  # one thread computes other 1x1 groups one by one
        layer = draw.choice(
            (
                nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=groups),
                nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()),
                nn.GroupNorm(4, width),
                nn.MaxPool2d(3, 1, 1),
                nn.AvgPool2d(3, 1, 1),
                nn.Softmax(dim=1),
                nn.GELU(),
            )
        )
        on_channels = draw.choice((nn.LayerNorm(width), nn.Linear(width, width), nn.Softmax(dim=-1)))
        contiguous = draw.random() < 0.3
        layers.append(
            draw.choice(
                (
                    layer,
                    Permuted(layer, (0, 1, 3, 2), contiguous=contiguous),
                    Permuted(on_channels, (0, 2, 3, 1), contiguous=contiguous),
                    Permuted(on_channels, (0, 3, 2, 1), contiguous=contiguous),
                )
            )
        )
    return nn.Sequential(*layers, nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 10))


@pytest.mark.parametrize("seed", range(16))
def test_the_peak_of_layers_on_permuted_inputs_is_that_of_torch_s_allocator(seed: int) -> None:
    torch.manual_seed(seed)
    check_peak(permuting(seed), torch.randn(4, 3, 14, 14), WITHIN)


def names(found: Network) -> list[str]:
    return [name for node in found.nodes for name in found.parameter_names(node)]


def parameters(module: NetworkModule) -> list[torch.nn.Parameter]:
    return [parameter for layer in module.layers for parameter in layer.parameters()]


@pytest.mark.parametrize(
    ("name", "function", "batch_size"),
    [*((name, "sgd", 4) for name in zoo.ZOO), *((name, "adam", 8) for name in zoo.ZOO if name not in STATELESS)],
)
def test_the_peak_is_that_of_torch_s_allocator(name: str, function: str, batch_size: int) -> None:
    found, step = network(name, batch_size), Step(optimizer=function)
    estimated = memory(found, step, Precision.FP32).with_workspaces(workspaces(found, step)).peak
    assert estimated.live_bytes == pytest.approx(real_peak_bytes(found, step), rel=WITHIN), estimated


def test_a_network_that_is_half_frozen_holds_less() -> None:
    whole = network("resnet18", 8)
    half = views.freeze_parameters(whole, ["conv1", "bn1", "layer1", "layer2"])
    step = Step(optimizer="momentum")
    estimated = [
        memory(one, step, Precision.FP32).with_workspaces(workspaces(one, step)).peak.live_bytes
        for one in (whole, half)
    ]
    assert estimated[1] < estimated[0]
    assert estimated[1] == pytest.approx(real_peak_bytes(half, step), rel=WITHIN)


def test_the_timeline_names_every_call_and_its_parts_add_up() -> None:
    found = network("resnet8", 4)
    timeline = memory(found, Step(optimizer="adam"), Precision.FP32).timeline
    assert [moment.name for moment in timeline[: len(found.nodes)]] == [node.name for node in found.nodes]
    assert timeline[-1].name == "(update)"
    assert timeline[-1].gradients_bytes == 4 * found.parameters
    counts = 4 * len(found.trained_sizes)  # of the steps of each tensor
    assert timeline[-1].optimizer_bytes == 8 * found.parameters + counts
    assert timeline[0].gradients_bytes == 0
    peak = max(moment.live_bytes for moment in timeline)
    assert memory(found, Step(optimizer="adam"), Precision.FP32).peak.live_bytes == peak


@pytest.mark.parametrize("loss", ["cross-entropy", "mse", "none"])
def test_each_call_of_a_step_has_its_moment_whatever_the_loss(loss: str) -> None:
    found, step = network("resnet8", 4), Step(loss=loss)
    moments = [(one.name, one.phase) for one in memory(found, step, Precision.FP32).timeline]
    assert set(moments) == {(work.name, moment_of(work.phase)) for work in step_calls(found, step)}
    held = memory(found, step, Precision.FP32).timeline[-1]
    assert held.gradients_bytes == 4 * found.trained_parameters


def test_sixteen_bits_halve_the_activations_and_autocast_keeps_the_weights() -> None:
    found = network("resnet8", 32)
    full, half, mixed = (
        memory(found, Step(), precision).peak for precision in (Precision.FP32, Precision.BF16, Precision.BF16_AUTOCAST)
    )
    assert half.activations_bytes < 0.6 * full.activations_bytes
    assert mixed.parameters_bytes == full.parameters_bytes
    assert half.parameters_bytes < 0.6 * full.parameters_bytes


def test_what_glibc_gives_back_after_a_step_is_gradients_above_all_that_forward_held():
    with torch.device("meta"):
        deep = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(40)))
        short = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(15)))
        wide = nn.Sequential(nn.Linear(1024, 10 * 1024, bias=False), nn.Linear(10 * 1024, 1024, bias=False))
        examples = torch.zeros(2, 1024), torch.zeros(20_000, 1024)
    returned = {}
    for name, module, example in (
        ("deep", deep, examples[0]),
        ("much held", deep, examples[1]),
        ("under the threshold", short, examples[0]),
        ("blocks beside the heap", wide, examples[0]),
    ):
        found = load(module, (example,))
        returned[name] = returned_bytes(found, memory(found, Step(), Precision.FP32).timeline, Precision.FP32)
    assert 0.95 * 40 * 4 * 1024**2 < returned.pop("deep") < 40 * 4 * 1024**2
    assert set(returned.values()) == {0}
