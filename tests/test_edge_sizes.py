"""Layers at their smallest and oddest sizes: torch's training step holds LATTE's shapes and refusals to account."""

from collections.abc import Callable
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from running import ended
from torch import Tensor, nn

from latte_cli.errors import LatteError
from latte_cli.estimator import Step, Untrainable, step_calls
from latte_cli.layers import Norm
from latte_cli.network import load
from latte_cli.network.module import layer_module

SIZES = (1, 2, 3)
IMAGES = [(1, 4, 1, 1), (2, 4, 1, 1), (1, 4, 2, 1), (1, 4, 3, 3), (2, 4, 5, 7), (2, 4, 2, 2), (2, 4, 0, 4)]
STEPS = [(1, 1, 4), (1, 2, 4), (3, 1, 4), (1, 3, 4), (3, 2, 4), (3, 0, 4)]


class Calls(nn.Module):
    """A linear layer and a function of what it returns."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x))


def behind(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 1), *layers)


OF_IMAGES: dict[str, nn.Module] = {
    "batch norm": nn.BatchNorm2d(4),
    "instance norm": nn.InstanceNorm2d(4, affine=True),
    "group norm": nn.GroupNorm(2, 4),
    "max pool": behind(nn.MaxPool2d(2, 3, 1, ceil_mode=True)),
    "dilated pool": behind(nn.MaxPool2d(3, 2, 1, dilation=2)),
    "average pool": behind(nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    "adaptive pool": behind(nn.AdaptiveAvgPool2d(3)),
    "convolution": nn.Conv2d(4, 6, 3),
    "transposed convolution": nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1),
    "cut convolution": nn.ConvTranspose2d(4, 6, 2, 1, 2),
    "reflection": behind(nn.ReflectionPad2d(2)),
    "replication": behind(nn.ReplicationPad2d(2)),
    "circular": behind(nn.CircularPad2d(2)),
    "unshuffle": behind(nn.PixelUnshuffle(2)),
}
OF_STEPS: dict[str, nn.Module] = {
    "halves": Calls(lambda x: F.glu(x, 1)),
    "narrow": Calls(lambda x: x.narrow(1, 0, 2)),
    "softmax": Calls(lambda x: x.softmax(1)),
    "largest": Calls(lambda x: x.topk(2, dim=1).values),
    "place": Calls(lambda x: x[:, -2]),
    "product": Calls(lambda x: x @ x.transpose(1, 2)),
}


def shape_of_a_step(module: nn.Module, *shape: int) -> tuple[int, ...] | None:
    """The shape of what a training step of a module returns; None where torch refuses it."""
    try:
        found = deepcopy(module).train()(torch.randn(shape))
        found.sum().backward()
    except (ValueError, RuntimeError, IndexError):
        return None
    return tuple(found.shape)


def shape_that_is_priced(model: object, example: object = None, **sizes: Any) -> tuple[int, ...] | None:
    try:
        network = load(model, example, **sizes)
        list(step_calls(network, Step()))
    except LatteError:
        return None
    return network.shapes[network.outputs[0]]


@pytest.mark.parametrize("name", [*OF_IMAGES, *OF_STEPS])
def test_what_torch_refuses_is_not_priced_and_the_rest_has_torch_s_shapes(name: str) -> None:
    module, edges = (OF_IMAGES[name], IMAGES) if name in OF_IMAGES else (OF_STEPS[name], STEPS)
    shape, open_axes = ((2, 4, 12, 10), (0, 2, 3)) if name in OF_IMAGES else ((3, 8, 4), (0, 1))
    dims = (dict.fromkeys(open_axes, torch.export.Dim.AUTO),)
    program = torch.export.export(deepcopy(module).train(), (torch.randn(shape),), dynamic_shapes=dims)
    (given,) = (each.arg.name for each in program.graph_signature.input_specs if each.kind.name == "USER_INPUT")
    (value,) = (node.meta["val"] for node in program.graph.nodes if node.name == given)
    known = {axis for axis in open_axes[1:] if not isinstance(value.shape[axis], int)}
    priced = 0
    for edge in edges:
        true = shape_of_a_step(module, *edge)
        sizes = {f"{given}[{axis}]": edge[axis] for axis in known}
        found = shape_that_is_priced(program, batch_size=edge[0], sizes=sizes)
        assert found == true or (found is None and 0 in edge), edge
        assert shape_that_is_priced(module, torch.randn(edge)) in (true, None), edge
        priced += found is not None
    assert priced


def test_an_image_that_nothing_is_left_of_is_not_priced() -> None:
    module = behind(nn.Upsample(scale_factor=0.5))
    assert shape_that_is_priced(module, torch.randn(1, 4, 2, 2)) == (1, 4, 1, 1)
    assert shape_that_is_priced(module, torch.randn(1, 4, 2, 1)) is None


def test_parts_of_an_open_size_have_the_size_that_the_model_gives_them() -> None:
    module = Calls(lambda x: x.split(6, dim=1)[0])
    program = torch.export.export(module, (torch.randn(3, 8, 4),), dynamic_shapes=({1: torch.export.Dim.AUTO},))
    found = {size: shape_that_is_priced(program, sizes={"x[1]": size}) for size in (6, 7, 8, 12, 13)}
    assert found == {6: None, **dict.fromkeys((7, 8, 12), (3, 6, 4)), 13: None}


def test_an_example_without_a_sample_is_not_read_as_one() -> None:
    with pytest.raises(LatteError, match="has no sample"):
        load(nn.Linear(4, 3), torch.randn(0, 4))


@pytest.mark.parametrize("function", ["batch", "fixed batch", "instance", "group", "layer", "rms"])
def test_a_norm_over_one_value_is_refused_as_torch_refuses_it(function: str) -> None:
    found = set()
    for rank in (2, 3, 4):
        for shape in product(SIZES, (1, 2, 4), *([SIZES] * (rank - 2))):
            for span in [each for each in (1, 2, 4) if shape[1] % each == 0] if function == "group" else [1]:
                if function == "instance" and rank == 2:  # torch reads them as one image without a batch
                    continue
                fixed = function.startswith("fixed")
                layer = Norm(function=function.split()[-1], shape=shape, span=span, fixed=fixed)
                refused = shape_of_a_step(layer_module(layer, {}), *shape) is None
                assert bool(layer.untrainable) == refused, layer
                found.add(refused)
    assert found == ({True, False} if function in ("batch", "instance", "group") else {False})


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a batch norm behind global pooling, whose batch is open."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten()).train()
    dims = ({0: torch.export.Dim("batch", min=1, max=512)},)
    found = tmp_path_factory.mktemp("models") / "pooled.pt2"
    torch.export.save(torch.export.export(module, (torch.randn(4, 3, 8, 8),), dynamic_shapes=dims), found)
    return found


def test_a_batch_that_torch_refuses_is_refused_with_a_cure(pooled: Path, tmp_path: Path) -> None:
    words = ("estimate", pooled, "--device", "reference", "--store", tmp_path / "none", "--batch-size")
    code, out, err = ended(*words, 1)
    assert (code, out) == (1, "")
    assert "torch refuses to train" in err
    assert "hint: a larger `--batch-size`" in err
    assert ended(*words, 2).returncode == 0


def test_other_batches_are_shown_and_searched_without_it(pooled: Path, tmp_path: Path) -> None:
    words = ("estimate", pooled, "--device", "reference", "--store", tmp_path / "none", "--batch-size")
    code, out, err = ended(*words, "1,2", "--format", "csv")
    assert (code, len(out.splitlines())) == (0, 2), err
    assert "left out: torch refuses" in err
    code, out, err = ended(*words, "max:1GiB")
    assert code == 0, err
    assert "the largest batch that fits" in err
    code, out, err = ended(*words, "max:1MiB")
    assert code == 3
    assert "at batch 2 takes at least" in err


def test_sub_models_of_such_a_step_are_not_planned(pooled: Path) -> None:
    with pytest.raises(Untrainable, match="more than one value per channel"):
        list(step_calls(load(pooled, batch_size=1), Step()))
