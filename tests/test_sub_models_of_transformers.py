"""Sub-models of networks with attention and recurrence, against the same modules written by hand with smaller sizes."""

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from torch import Tensor, nn

from latte_cli import load
from latte_cli.allocator.sub_models import catalogue
from latte_cli.layers import Copy, Layer, View
from latte_cli.network import Network
from latte_cli.network.channels import Resizing, importance, positions, sub_model
from latte_cli.network.module import NetworkModule
from latte_cli.network.parts import Cutter
from latte_cli.network.weights import weights

HEAD = 4
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


class Packed(nn.Module):
    """A block of GPT: queries, keys and values of one linear layer, taken apart in one of three ways."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        self.way, self.norm1, self.norm2 = way, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.register_buffer("mask", torch.full((6, 6), float("-inf")).triu(1))

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        batch, steps, width = x.shape
        packed, heads = self.qkv(x), width // HEAD
        if self.way == "reshaped":
            return packed.reshape(batch, steps, 3, heads, HEAD).permute(2, 0, 3, 1, 4).unbind(0)
        if self.way == "interleaved":
            return packed.reshape(batch, steps, heads, 3 * HEAD).transpose(1, 2).chunk(3, -1)
        parts = (packed[..., at * width : (at + 1) * width] for at in range(3))
        parts = parts if self.way == "sliced" else packed.split(width, -1)
        return tuple(part.view(batch, steps, heads, HEAD).transpose(1, 2) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.norm1(x))
        if self.way == "sliced":
            scores = q @ k.transpose(-2, -1) * HEAD**-0.5 + self.mask
            read = scores.softmax(-1) @ v
        else:
            read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(read.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self, scale: int = 1, way: str = "split", tied: bool = False) -> None:
        super().__init__()
        width = 16 // scale
        self.token, self.position = nn.Embedding(11, width), nn.Embedding(6, width)
        self.block, self.norm = Packed(width, way), nn.LayerNorm(width)
        self.head = nn.Linear(width, 11, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.block(x)))


class LongGpt(Gpt):
    """Has more positions than channels, as most have."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__(scale)
        self.position = nn.Embedding(16, 16 // scale)


class VisionTransformer(nn.Module):
    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        width = 16 // scale
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.first, self.positions = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        more: dict[str, Any] = {"batch_first": True, "norm_first": True, "dropout": 0.0}
        self.block = nn.TransformerEncoderLayer(width, width // HEAD, 2 * width, **more)
        self.scale, self.norm = nn.Parameter(torch.ones(width)), nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(x + self.scale * self.block(x))[:, 0])


class Rms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Llama(nn.Module):
    """One block with grouped heads, rotated queries and keys, and gated products."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        width, wide = 32 // scale, 24 // scale
        self.token, self.norm1, self.norm2, self.norm = nn.Embedding(11, width), Rms(width), Rms(width), Rms(width)
        self.q, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k, self.v = nn.Linear(width, width // 2, bias=False), nn.Linear(width, width // 2, bias=False)
        self.gate, self.up = nn.Linear(width, wide, bias=False), nn.Linear(width, wide, bias=False)
        self.down, self.head = nn.Linear(wide, width, bias=False), nn.Linear(width, 11, bias=False)
        angles = torch.outer(torch.arange(6.0), 100.0 ** -torch.arange(0, 1, 2 / HEAD)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turned(self, x: Tensor) -> Tensor:
        half = torch.cat([-x[..., HEAD // 2 :], x[..., : HEAD // 2]], -1)
        return x * self.cos + half * self.sin

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens)
        batch, steps, width = x.shape
        y = self.norm1(x)
        q, k, v = (each(y).view(batch, steps, -1, HEAD).transpose(1, 2) for each in (self.q, self.k, self.v))
        q, k = self.turned(q), self.turned(k)
        k, v = (each[:, :, None].expand(-1, -1, 2, -1, -1).reshape(q.shape) for each in (k, v))
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(read.transpose(1, 2).reshape(batch, steps, width))
        y = self.norm2(x)
        return self.head(self.norm(x + self.down(F.silu(self.gate(y)) * self.up(y))))


class Classifier(nn.Module):
    def __init__(self, scale: int = 1, kind: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        more: dict[str, Any] = {"batch_first": True, "bidirectional": True}
        self.token = nn.Embedding(11, 8 // scale)
        self.states = kind(8 // scale, 12 // scale, 2, **more)
        self.head = nn.Linear(24 // scale, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.states(self.token(tokens))[0][:, -1])


CASES: dict[str, tuple[Callable[..., nn.Module], Tensor]] = {
    **{f"gpt {way}": (lambda scale=1, way=way: Gpt(scale, way), TOKENS)
       for way in ("split", "sliced", "reshaped", "interleaved")},
    "gpt long": (LongGpt, TOKENS),
    "gpt tied": (lambda scale=1: Gpt(scale, tied=True), TOKENS),
    "vit": (VisionTransformer, IMAGES),
    "llama": (Llama, TOKENS),
    "lstm": (Classifier, TOKENS),
    "gru": (lambda scale=1: Classifier(scale, nn.GRU), TOKENS),
}  # fmt: skip


class Whole(NamedTuple):
    """A module, its network, and its weights by the network's names."""

    module: nn.Module
    network: Network
    arrays: Mapping[str, np.ndarray]


@cache
def whole(name: str) -> Whole:
    make, example = CASES[name]
    torch.manual_seed(0)
    module = make().eval()
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The tensor attributes self.states")
        path = Path(folder) / "whole.pt2"
        torch.export.save(torch.export.export(module, (example,)), path)
        network, found = load(path), weights(path)
        names = {each for node in network.nodes for each in network.parameter_names(node)}
        return Whole(module, network, {each: np.array(found[each]) for each in sorted(names)})


def computing(network: Network) -> list[Layer]:
    """Its layers but for those that lay data elsewhere, which are free where there is a single head."""
    return [layer for layer in network.layers if not isinstance(layer, View | Copy)]


@pytest.mark.parametrize("scale", (2, 4))
@pytest.mark.parametrize("name", CASES)
def test_a_sub_model_is_the_module_written_with_smaller_sizes(name: str, scale: int) -> None:
    make, example = CASES[name]
    found = sub_model(whole(name).network, 1 / scale)
    small = make(scale).eval()
    written = load(small, example)
    assert computing(found) == computing(written)
    assert found.parameters == written.parameters == sum(each.numel() for each in small.parameters())
    assert not found.notes


def kept_of(network: Network, scale: int) -> dict[str, list[int]]:
    """As many of each group's channels as `scale` leaves, drawn."""
    draw = np.random.default_rng(1)
    groups = Resizing(network).groups
    return {
        group.name: sorted(map(int, draw.choice(group.channels, group.channels // scale, replace=False)))
        for group in groups
    }


def cut(network: Network, arrays: Mapping[str, np.ndarray], kept: dict[str, list[int]]) -> dict[str, np.ndarray]:
    return {
        name: np.ascontiguousarray(arrays[name][np.ix_(*at)])
        for name, at in positions(network, kept).items()
        if name in arrays
    }


def apart(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Torch's tensors of a recurrent layer, which are stacked by direction in one array whose name names them all."""
    found = {}
    for name, array in arrays.items():
        names = name.split("+")
        ways = 2 if len(names) > 1 else 1
        pieces = np.split(array, len(names) // ways, axis=1) if ways > 1 else [array[None]]
        found |= {one: torch.tensor(pieces[at // ways][at % ways]) for at, one in enumerate(names)}
    return found


@pytest.mark.parametrize("name", CASES)
def test_with_weights_it_computes_what_the_smaller_module_computes(name: str) -> None:
    make, example = CASES[name]
    _, network, arrays = whole(name)
    parts = cut(network, arrays, kept_of(network, 2))
    small = make(2).eval()
    own = small.state_dict()
    small.load_state_dict({**own, **{each: value for each, value in apart(parts).items() if each in own}})
    ours = NetworkModule(sub_model(network, 1 / 2), weights=parts).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(example), small(example), rtol=1e-4, atol=1e-5)


def rows_of(heads: list[int], size: int = HEAD) -> list[int]:
    return [head * size + at for head in heads for at in range(size)]


def test_whole_heads_are_cut_with_those_of_the_keys_that_they_read() -> None:
    network = whole("llama").network
    groups = {group.name: group for group in Resizing(network).groups}
    heads = next(group for group in groups.values() if group.channels == 4)
    where = positions(network, {heads.name: [0, 3]})
    queries, keys = rows_of([0, 1, 6, 7]), rows_of([0, 3])
    assert [where[f"{name}.weight"][0].tolist() for name in "qkv"] == [queries, keys, keys]
    assert where["out.weight"][1].tolist() == queries
    assert all(len(where[f"{name}.weight"][1]) == 32 for name in "qkv")


@pytest.mark.parametrize(("way", "starts"), [("split", (0, 16, 32)), ("reshaped", (0, 16, 32))])
def test_packed_projections_are_cut_in_each_of_their_parts(way: str, starts: tuple[int, ...]) -> None:
    network = whole(f"gpt {way}").network
    heads = next(group for group in Resizing(network).groups if group.channels == 16 // HEAD)
    where = positions(network, {heads.name: [1, 2]})
    assert where["block.qkv.weight"][0].tolist() == [start + row for start in starts for row in rows_of([1, 2])]
    assert where["block.out.weight"][1].tolist() == rows_of([1, 2])


def test_interleaved_projections_are_cut_head_by_head() -> None:
    network = whole("gpt interleaved").network
    heads = next(group for group in Resizing(network).groups if group.channels == 16 // HEAD)
    where = positions(network, {heads.name: [3]})
    assert where["block.qkv.weight"][0].tolist() == rows_of([3], 3 * HEAD)


def test_the_importance_of_a_head_is_the_norm_of_all_that_makes_it() -> None:
    _, network, arrays = whole("gpt split")
    heads = next(group for group in Resizing(network).groups if group.channels == 16 // HEAD)
    found = importance(network, (heads,), arrays)[heads.name]
    assert found == pytest.approx(np.sqrt((arrays["block.qkv.weight"].reshape(3, 4, -1) ** 2).sum(axis=(0, 2))))


def test_an_onnx_file_of_such_a_network_has_a_catalogue_of_sub_models_that_can_be_written(tmp_path: Path) -> None:
    path, module = tmp_path / "model.onnx", Gpt().eval()
    for parameter in module.parameters():  # equal ones become one in the file
        nn.init.uniform_(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (TOKENS,), path, dynamo=False)
    network = load(path)
    entries = catalogue(network, (1, 0.5, 0.25))
    assert [entry.width for entry in entries] == [1, 0.5, 0.25]
    sizes = [sum(each.numel() for each in Gpt(scale).parameters()) for scale in (1, 2, 4)]
    assert [entry.parameters for entry in entries] == sizes
    for entry in entries[1:]:
        kept = {group: list(range(channels)) for group, channels in entry.widths}
        assert load(Cutter(path, network).part(kept).onnx).parameters == entry.parameters
