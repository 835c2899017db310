"""Regions that are checkpointed: what runs again, and what the step holds, against torch's own checkpoint."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from random import Random

import pytest
import torch
from test_memory import real_step, workspaces
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latte_cli import LatteError, load
from latte_cli.estimator.memory import memory
from latte_cli.estimator.steps import Step, step_calls
from latte_cli.layers import Phase
from latte_cli.network import Network
from latte_cli.network.module import random_targets
from latte_cli.network.regions import Region
from latte_cli.precisions import Precision

WITHIN = 0.005


def under(network: Network, path: str) -> Region:
    """The region of a submodule."""
    own = [node.name for node in network.nodes if node.name == path or node.name.startswith(f"{path}.")]
    return Region(name=path, nodes=tuple(own))


def checkpointed(module: nn.Module, path: str) -> None:
    part = module.get_submodule(path)
    part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def real_peak(module: nn.Module, x: Tensor, targets: Tensor) -> int:
    update = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.profiler.profile(profile_memory=True) as seen:
            real_step(module, (x,), targets, update)
    events = [event for event in seen.kineto_results.events() if event.name() == "[memory]"]
    grown = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers(), x, targets)) + max(grown)


class Residual(nn.Module):
    def __init__(self, width: int, draw: Random) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=draw.random() < 0.5)
        self.norm = draw.choice((nn.BatchNorm2d(width), nn.GroupNorm(2, width), nn.Identity()))
        self.act = draw.choice((nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Identity(), nn.Dropout(0.2)))
        self.skip, self.scale = draw.random() < 0.6, draw.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.conv(x)))
        y = y + x if self.skip else y
        return y * 2 if self.scale else y


def block(width: int, draw: Random) -> nn.Module:
    match draw.randrange(6):
        case 0 | 1:
            return Residual(width, draw)
        case 2:
            return nn.Sequential(Residual(width, draw), Residual(width, draw))
        case 3:
            return nn.Sequential(nn.Conv2d(width, width, 1), nn.MaxPool2d(3, 1, 1), nn.ReLU())
        case 4:
            return nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
    return nn.ReLU()


def images(seed: int) -> tuple[nn.Module, Tensor, list[str]]:
    """A network of blocks and other layers, an input, and paths of which some are to be checkpointed."""
    draw, width = Random(seed), 8
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    layers += [block(width, draw) for _ in range(draw.randint(3, 7))]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    chosen = [str(at) for at in range(len(layers)) if draw.random() < 0.6]
    if draw.random() < 0.3:
        layers[0].requires_grad_(False)
    return module, torch.randn(16, 3, 24, 24), chosen


def tokens(seed: int) -> tuple[nn.Module, Tensor, list[str]]:
    draw, width = Random(seed), 32
    rate = draw.choice((0.0, 0.1))
    blocks = [
        nn.TransformerEncoderLayer(width, 4, 64, rate, batch_first=True, norm_first=draw.random() < 0.5)
        for _ in range(draw.randint(2, 4))
    ]
    module = nn.Sequential(*blocks, nn.Linear(width, 16))
    return module, torch.randn(8, 64, width), [str(at) for at in range(len(blocks)) if draw.random() < 0.7]


def check(module: nn.Module, x: Tensor, chosen: Sequence[str]) -> tuple[int, int]:
    """The peak that is said and that of torch, with the regions at the paths `chosen`."""
    found = load(module, x)
    step = Step(optimizer="sgd", checkpoints=tuple(under(found, path) for path in chosen))
    for path in chosen:
        checkpointed(module, path)
    said = memory(found, step, Precision.FP32).with_workspaces(workspaces(found, step)).peak
    return said.live_bytes, real_peak(module, x, random_targets(found))


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("kind", [images, tokens])
def test_the_peak_with_checkpoints_is_that_of_torch_s_allocator(kind, seed: int) -> None:
    torch.manual_seed(seed)
    said, real = check(*kind(seed))
    assert said == pytest.approx(real, rel=WITHIN)


class Checkpointing(Residual):
    """A block that checkpoints its `forward`, not the call of the block."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(partial(Residual.forward, self), x, use_reentrant=False)


class Scaled(Residual):
    """A block with a parameter that no layer holds."""

    def __init__(self, width: int, draw: Random) -> None:
        super().__init__(width, draw)
        self.gamma = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gamma


class Own(nn.Module):
    """A module that checkpoints its parts itself, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        count = {"list": 4, "reentrant": 1}.get(way, 2)
        kind = {"own forward": Checkpointing, "scaled": Scaled}.get(way, Residual)
        self.blocks = nn.ModuleList(kind(8, Random(seed)) for seed in range(count))
        self.first, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.way == "list":
            for each in self.blocks:
                x = checkpoint(each, x, use_reentrant=False)
        elif self.way == "own forward":
            x = self.blocks[1](self.blocks[0](x))
        elif self.way in ("closure", "scaled"):
            for at in range(len(self.blocks)):
                x = checkpoint(self.slice(at, at + 1), x, use_reentrant=False)
        elif self.way == "closure of several":
            x = checkpoint(self.slice(0, 2), x, use_reentrant=False)
        elif self.way == "one":
            x = self.blocks[1](checkpoint(self.blocks[0], x, use_reentrant=False))
        elif self.way == "function":
            x = checkpoint(self.part, x, use_reentrant=False)
        elif self.way == "reentrant":
            x = checkpoint(self.blocks[0], x, use_reentrant=True)
        return self.out(x.mean((2, 3)))

    def slice(self, start: int, stop: int) -> Callable[[Tensor], Tensor]:
        """Blocks one after the other, as a function."""

        def run(x: Tensor) -> Tensor:
            for block in self.blocks[start:stop]:
                x = block(x)
            return x

        return run

    def part(self, x: Tensor) -> Tensor:
        return self.blocks[1](self.blocks[0](x)) * 2


@pytest.mark.parametrize(
    ("way", "names"),
    [
        ("list", [f"blocks.{at}" for at in range(4)]),
        ("one", ["blocks.0"]),
        *((way, ["blocks.0", "blocks.1"]) for way in ("own forward", "closure", "scaled")),
    ],
)
def test_regions_that_a_module_checkpoints_are_read_and_priced(way: str, names: list[str]) -> None:
    torch.manual_seed(0)
    module, x = Own(way), torch.randn(16, 3, 24, 24)
    found = load(module, x)
    assert [region.name for region in found.checkpoints] == names
    assert not found.notes
    said, real = check(module, x, ())
    assert said == pytest.approx(real, rel=WITHIN)
    again = [work for work in step_calls(found, Step()) if work.again]
    assert {work.phase for work in again} == {Phase.FORWARD}
    assert {work.name for work in again} <= {name for region in found.checkpoints for name in region.nodes}


@pytest.mark.parametrize("way", ["function", "reentrant", "closure of several"])
def test_regions_that_a_program_does_not_show_are_named_and_not_priced(way: str) -> None:
    found = load(Own(way), torch.randn(2, 3, 24, 24))
    assert found.checkpoints == ()
    note = found.notes[-1]
    assert "is not priced" in note
    assert "blocks.0.conv" in note


def test_what_runs_again_stops_at_the_last_tensor_that_is_needed() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.last = nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.act(self.first(x))) * 2

    found = load(nn.Sequential(Block(), nn.Linear(8, 3)), torch.randn(4, 8))
    calls = [*step_calls(found, Step(checkpoints=(under(found, "0"),), accumulate=3))]
    assert [(work.name, work.count) for work in reversed(calls) if work.again] == [("0.first", 3), ("0.act", 3)]


def test_regions_that_overlap_or_are_not_there_are_refused() -> None:
    found = load(nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 3)), torch.randn(4, 8))
    with pytest.raises(LatteError, match="overlap"):
        memory(found, Step(checkpoints=(under(found, "0"), under(found, "0.1"))), Precision.FP32)
    for nodes in (("0.0", "1"), ("nothing",), ()):
        with pytest.raises(LatteError, match="not consecutive"):
            memory(found, Step(checkpoints=(Region(name="r", nodes=nodes),)), Precision.FP32)
