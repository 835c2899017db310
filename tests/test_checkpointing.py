"""Modules whose parts are checkpointed compute what they did before, and hold less."""

import copy
import io
from pathlib import Path

import pytest
import torch
from made_rows import measurement, write
from test_checkpoints import images, real_peak, tokens
from test_memory import workspaces
from torch import Tensor, nn

import latte_cli
from latte_cli import LatteError, load
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.cpu.backend import libraries
from latte_cli.backends.host import cpu_slug
from latte_cli.devices import CPU, Device
from latte_cli.estimator.steps import Step, step_calls
from latte_cli.network import Network
from latte_cli.network.module import random_targets
from latte_cli.precisions import Precision
from latte_cli.runtime.checkpointing import set_checkpoints
from latte_cli.runtime.choices import Choices, read_choices, write_choices
from latte_cli.runtime.optimizing import own_key
from latte_cli.store import open_store
from latte_cli.tasks import Settings, Task

STEP = Step(optimizer="sgd")


class Counting(nn.Module):
    """A layer with buffers that its forward pass writes: one in place, one anew."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.linear(x).relu()


def several() -> tuple[nn.Module, Tensor]:
    parts = [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3)), Counting(), nn.Dropout(0.5)]
    return nn.Sequential(*parts, nn.Linear(8, 8), nn.BatchNorm1d(8, momentum=None), nn.Tanh(), nn.Linear(8, 3)), (
        torch.randn(6, 8)
    )


def state_after(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The gradients and the state after two steps of training."""
    torch.manual_seed(3)
    for _ in range(2):
        module(x).square().sum().backward()
    return [*(p.grad for p in module.parameters()), *module.state_dict().values()]


@pytest.mark.parametrize(
    "names",
    [("0",), ("1",), ("0", "1", "4"), ("[0:3]",), ("[0:2]", "[3:6]"), ("0", "0.1", "[3:5]"), ("0[0:3]", "1", "[4:6]")],
)
def test_gradients_and_state_are_those_without(names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    module, x = several()
    plain = copy.deepcopy(module)
    set_checkpoints(module, names)
    assert [*module.state_dict()] == [*plain.state_dict()]
    for own, other in zip(state_after(module, x), state_after(plain, x), strict=True):
        assert torch.equal(own, other)


def test_a_copy_runs_its_own_parameters_and_a_pickle_runs_too() -> None:
    module, x = several()
    set_checkpoints(module, ("0", "[3:5]"))
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        for parameter in other.parameters():
            parameter.data.zero_()
        assert other(x).abs().sum() == 0
        assert module(x).abs().sum() > 0


def test_checkpoints_are_taken_off_again() -> None:
    module, x = several()
    module[1].forward = own = module[1].forward
    held = saved(module, x)
    set_checkpoints(module, ("0", "1", "[3:6]"))
    assert saved(module, x) < held
    set_checkpoints(module, ())
    assert saved(module, x) == held
    assert module[1].forward is own
    assert "forward" not in vars(module[0])
    with torch.no_grad():
        set_checkpoints(module, ("0",))
        assert module(x).grad_fn is None


def saved(module: nn.Module, x: Tensor) -> int:
    """The bytes that autograd keeps."""
    kept: dict[int, int] = {}
    hooks = (lambda t: kept.update({t.data_ptr(): t.nbytes}) or t, lambda t: t)
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        module(x)
    return sum(kept.values())


@pytest.mark.parametrize("name", ["7.weight", "nothing", "[5:9]", "1[0:1]"])
def test_a_part_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(LatteError, match="has no part"):
        set_checkpoints(several()[0], (name,))


@pytest.mark.parametrize("names", [("[0:2]", "[1:3]"), ("[0:4]", "[1:3]"), ("0[0:2]", "1", "0[1:3]")])
def test_slices_that_overlap_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(LatteError, match="overlap"):
        set_checkpoints(several()[0], names)


def test_one_name_is_no_list_of_names() -> None:
    with pytest.raises(LatteError, match="one name"):
        set_checkpoints(several()[0], "[0:3]")


def test_a_name_that_is_there_twice_counts_once() -> None:
    module, x = several()
    set_checkpoints(module, ("0", "0", "[3:5]", "[3:5]"))
    assert module(x).grad_fn is not None


@pytest.mark.parametrize("limit", [-1, "1GiB", 1.5])
def test_a_limit_that_is_no_number_of_bytes_is_refused(limit: object) -> None:
    module, x = several()
    with pytest.raises(LatteError, match="not a number of bytes"):
        latte_cli.optimize(module, x, device="reference", memory_limit=limit)


def test_choices_hold_checkpoints(tmp_path) -> None:
    module, x = several()
    choices = Choices(key=own_key(torch.device("cpu"), Precision.FP32), strategy="latte", checkpoints=("0", "[3:5]"))
    write_choices(tmp_path / "choices.json", choices)
    assert read_choices(tmp_path / "choices.json") == (choices,)
    held = saved(module, x)
    latte_cli.optimize(module, choices=tmp_path / "choices.json")
    assert latte_cli.optimization_of(module).checkpoints == ("0", "[3:5]")
    assert saved(module, x) < held


def store_of(path: Path, *networks: Network) -> str:
    """A profile of this machine with the workspaces of each call of the networks, and made times."""
    store = open_store(str(path / "store"), shipped=False)
    device = Device(slug=cpu_slug(1), kind=CPU, name="this", libraries=libraries())
    settings = Settings(threads=1, library_versions=libraries())
    rows = {}
    for network in networks:
        used = workspaces(network, STEP)
        for work in step_calls(network, STEP):
            if not work.layer.free:
                task = Task(layer=work.layer, phase=work.phase, algorithm=FRAMEWORK_DEFAULT, settings=settings)
                needed = used.get((work.name, work.phase), 0)
                rows[task] = measurement(task, device=device, workspace_bytes=needed)
    write(store, rows.values())
    return store.uri


@pytest.mark.parametrize(("kind", "shares"), [(images, (0.9, 0.85)), (tokens, (0.85, 0.7))])
def test_a_module_is_made_to_train_under_a_limit(kind, shares: tuple[float, ...], tmp_path: Path) -> None:
    torch.manual_seed(3)
    module, x, _ = kind(3)
    network = load(module, x)
    targets, store = random_targets(network), store_of(tmp_path, network)
    plain = copy.deepcopy(module)
    full = real_peak(module, x, targets)
    for share in shares:
        limit = int(share * full)
        own = latte_cli.optimize(copy.deepcopy(plain), x, store=store, memory_limit=limit, checkpoint="auto")
        done = latte_cli.optimization_of(own)
        assert done.checkpoints, done.reasons
        unpriced = [reason for reason in done.reasons if "call of torch.utils.checkpoint" in reason]
        assert len(unpriced) == 1  # the profile has no rows of it
        assert real_peak(own, x, targets) <= limit
    impossible = latte_cli.optimize(copy.deepcopy(plain), x, store=store, memory_limit=2**10, checkpoint="auto")
    assert "whatever is checkpointed" in " ".join(latte_cli.optimization_of(impossible).reasons)


def test_each_shape_of_inputs_has_its_own_checkpoints(tmp_path: Path) -> None:
    module, x, _ = images(3)
    small, large = x[:4], x
    networks = [load(module, one) for one in (small, large)]
    peaks = [real_peak(module, one, random_targets(found)) for one, found in zip((small, large), networks, strict=True)]
    limit = (peaks[0] + 3 * peaks[1]) // 4
    latte_cli.optimize(module, store=store_of(tmp_path, *networks), memory_limit=limit, checkpoint="auto")
    state = latte_cli.optimization_of(module)
    for _ in range(2):
        module(small)
        assert state.checkpoints == ()
        module(large)
        assert state.checkpoints
    assert len(state.choices) == 2


def test_checkpoints_without_a_limit_are_refused() -> None:
    module, x = several()
    with pytest.raises(LatteError, match="without a limit"):
        latte_cli.optimize(module, x, device="reference", checkpoint="auto")
    with pytest.raises(LatteError, match="unknown checkpoint"):
        latte_cli.optimize(module, x, device="reference", checkpoint="all", memory_limit=2**20)
