"""Programs of torch.export, and live modules, become the networks that their ONNX exports become."""

import copy
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from latte_cli import load
from latte_cli.errors import LatteError
from latte_cli.layers import Attention, Embedding, Layer, Phase, Pool, Recurrent
from latte_cli.network import Network, zoo
from latte_cli.network.module import NetworkModule
from latte_cli.network.torch_program import exported, model

SIZES = {"alexnet": 63, "mobilenet_v1": 32, "mobilenet_v2": 32, "resnet18": 32}
DEEPER = ("resnet20", "resnet34", "resnet50", "vgg11", "vgg16")
"""Networks with more of the same layers as ResNet-8, ResNet-18, the MobileNets and AlexNet have."""


def work(network: Network) -> Counter[Layer]:
    """The layers that cost anything, in whatever order."""
    return Counter(layer for layer in network.layers if not layer.free)


def flops(network: Network) -> dict[Phase, int]:
    return {phase: sum(layer.flops(phase) for layer in network.layers) for phase in Phase}


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in DEEPER])
def test_the_zoo_reads_the_same_both_ways(name: str, tmp_path: Path) -> None:
    path, program = tmp_path / f"{name}.onnx", tmp_path / f"{name}.pt2"
    path.write_bytes(zoo.export(name, image_size=SIZES.get(name)))
    first = load(path, batch_size=2)
    program.write_bytes(exported(NetworkModule(first), torch.randn(first.inputs[0][1])))
    second = load(program)
    assert work(second) == work(first)
    assert flops(second) == flops(first)
    assert second.parameters == first.parameters
    assert work(load(program, batch_size=4)) == work(load(path, batch_size=4))


# --- modules as people write them


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.places = nn.Parameter(torch.zeros(1, 17, 32))
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.depthwise = nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.scale, self.head = nn.Parameter(torch.ones(16)), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(F.gelu(self.up(y))) * self.scale
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 32), nn.Embedding(8, 32)
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 128), nn.GELU("tanh"), nn.Linear(128, 32))
        self.head = nn.Linear(32, 50, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        b, t, _ = x.shape
        q, k, v = (part.view(b, t, 4, 8).transpose(1, 2) for part in self.qkv(self.norm(x)).split(32, 2))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, 32))
        return self.head(x + self.mlp(x))


class Speech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(8, 16, 3, 2, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.lstm = nn.LSTM(16, 12, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.front(x).transpose(1, 2))
        return self.head(states[:, -1])


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        y = F.interpolate(self.up(self.middle(skip)), scale_factor=2.0)
        return self.last(torch.cat([F.max_pool2d(y, 2), F.hardtanh(skip)], 1)).clamp(min=0.0)


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 16, 16)


MODULES: dict[str, tuple[type[nn.Module], Any]] = {
    "vit": (Vit, images),
    "convnext": (ConvNext, images),
    "gpt": (Gpt, lambda batch: torch.randint(50, (batch, 8))),
    "speech": (Speech, lambda batch: torch.randn(batch, 8, 20)),
    "unet": (UNet, images),
}


@cache
def live(name: str) -> tuple[nn.Module, Network]:
    """A module and what is read of it."""
    kind, example = MODULES[name]
    module = kind()
    return module, load(module, example(2))


@pytest.mark.parametrize("name", list(MODULES))
def test_a_module_is_read_whole_with_its_parameters_and_flops(name: str) -> None:
    module, found = live(name)
    own = sum(p.numel() for p in module.parameters())
    assert found.parameters == found.trained_parameters == own
    assert found.unknown == ()
    again = load(module, MODULES[name][1](2), batch_size=6)
    assert again.batch_size == 6
    assert flops(again)[Phase.FORWARD] > 2 * flops(found)[Phase.FORWARD]
    assert again.parameters == own


def test_kinds_of_their_own_are_recognised() -> None:
    gpt, speech = (live(name)[1] for name in ("gpt", "speech"))
    attention = Attention(batch=2, heads=4, key_heads=4, queries=8, keys=8, width=8, value_width=8, causal=True)
    assert attention in gpt.layers
    assert Embedding(rows=16, entries=50, width=32) in gpt.layers
    assert Recurrent(function="lstm", steps=10, batch=2, inputs=16, hidden=12, directions=2) in speech.layers
    assert "tokens.weight" in {name for node in gpt.nodes for name in node.parameters}


def test_symbolic_sizes_are_open_dimensions(tmp_path: Path) -> None:
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("length", min=8)}
    program = torch.export.export(nn.Conv1d(3, 4, 3), (torch.randn(2, 3, 20),), dynamic_shapes=(dims,))
    path = tmp_path / "m.pt2"
    torch.export.save(program, path)
    with pytest.raises(LatteError, match="leaves the size of `s") as caught:
        load(path)
    name = str(caught.value.hint).partition("--shape ")[2].partition("=")[0]
    assert load(path, batch_size=5, sizes={name: 12}).shapes["conv1d"] == (5, 4, 10)
    assert load(path, sizes={"input[0]": 6, "input[2]": 12}).shapes["conv1d"] == (6, 4, 10)
    with pytest.raises(LatteError, match=r"batch size cannot be 5 and `input\[0\]` 6"):
        load(path, batch_size=5, sizes={"input[0]": 6, name: 12})


def test_differences_of_neighbours_are_followed() -> None:
    class Differing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            starts = torch.diff(x > 0, dim=1, prepend=x[:, :1] > 0)
            return torch.diff(x, n=2, dim=1, append=x[:, :1]) + starts[:, 1:]

    found = load(Differing(), torch.randn(2, 5))
    assert found.shapes[found.outputs[0]] == (2, 4)


def test_a_weight_with_a_length_of_its_own_has_both_as_parameters() -> None:
    module = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3), dim=2)
    found = load(module, torch.randn(2, 4, 8))
    assert found.trained_parameters == sum(each.numel() for each in module.parameters())
    assert not found.unpriced


POOLS = {"average": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
         "max": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)}  # fmt: skip


@pytest.mark.parametrize("function", list(POOLS))
@pytest.mark.parametrize("sizes", [(8,), (2, 9), (1, 6, 7)])
@pytest.mark.parametrize("wanted", [1, 3, 7])
def test_an_adaptive_pool_reads_what_torch_s_windows_read(function: str, sizes: tuple[int, ...], wanted: int) -> None:
    pool = POOLS[function][len(sizes) - 1](wanted)
    found = load(pool, torch.randn(2, 3, *sizes), batch_size=4)
    x = torch.rand(4, 3, *sizes)
    result = pool(x)
    assert torch.equal(NetworkModule(found)(x), result)
    windows = [[-(-(at + 1) * size // wanted) - at * size // wanted for at in range(wanted)] for size in sizes]
    (layer,) = found.layers
    assert isinstance(layer, Pool)
    assert layer.output_shape == tuple(result.shape)
    assert layer.flops(Phase.FORWARD) == 4 * 3 * prod(map(sum, windows))
    assert layer.kernel == tuple(map(max, windows))


def test_an_adaptive_pool_of_an_open_size_has_the_windows_of_the_size_asked_for(tmp_path: Path) -> None:
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("length", min=8)}
    program = torch.export.export(nn.AdaptiveAvgPool1d(4), (torch.randn(2, 3, 20),), dynamic_shapes=(dims,))
    path = tmp_path / "m.pt2"
    torch.export.save(program, path)
    with pytest.raises(LatteError) as caught:
        load(path)
    name = str(caught.value.hint).partition("--shape ")[2].partition("=")[0]
    even, uneven = (load(path, batch_size=5, sizes={name: size}).layers[0] for size in (12, 13))
    assert even == Pool(function="average", batch=5, channels=3, input=(12,), kernel=(3,), stride=(3,))
    assert uneven == Pool(function="average", batch=5, channels=3, input=(13,), adaptive=(4,))


def test_an_operator_without_a_rule_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x.relu()).relu()

    with pytest.raises(LatteError, match=r"operator `aten.special_bessel_j0.default` of node"):
        load(Odd(), torch.randn(2, 3))


def test_what_torch_cannot_export_is_one_line() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(LatteError, match="torch cannot export `Odd`") as caught:
        load(Odd(), torch.randn(2, 3))
    assert "\n" not in caught.value.message


# --- files


@pytest.fixture(scope="module")
def saved() -> bytes:
    return exported(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)),
                    torch.randn(2, 3, 5, 5))  # fmt: skip


def test_a_program_is_read_without_torch(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"  # the content tells, not the name
    path.write_bytes(saved)
    script = (
        "import sys; from latte_cli import load; n = load(sys.argv[1]);"
        "sys.exit(str((n.parameters, sorted({'torch', 'pickle'} & set(sys.modules) - {'pickle'}))))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.stderr.strip() == "(305, [])"


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def pickles(touch: Any) -> Iterator[bytes]:
    yield from (pickle.dumps(touch, protocol) for protocol in (2, 3, 4, 5))
    for name in ("m/data.pkl", "m/constants.pkl"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(name, pickle.dumps(touch))
            archive.writestr("m/code/__torch__.py", "")
        yield packed.getvalue()
    whole = io.BytesIO()
    torch.save(nn.Linear(2, 3), whole)
    yield whole.getvalue()


def test_pickled_modules_are_refused_and_never_opened(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for content in pickles(Touch(made)):
        path = tmp_path / "m.pt"
        path.write_bytes(content)
        with pytest.raises(LatteError, match="is a pickled module") as caught:
            load(path)
        assert "torch.export.save" in str(caught.value.hint)
        assert "torch.onnx" not in str(caught.value.hint)  # it needs a package that LATTE does not install
    assert not made.exists()


def repacked(saved: bytes, graph: Any) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("m/models/model.json", graph if isinstance(graph, bytes) else json.dumps(graph))
    return packed.getvalue()


def graph_of(saved: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("model.json")]
        found: dict[str, Any] = json.loads(archive.read(name))
        return found


def test_a_newer_schema_says_so(saved: bytes) -> None:
    graph = graph_of(saved) | {"schema_version": {"major": 99, "minor": 0}}
    with pytest.raises(LatteError, match="is of schema 99; up to 8 is read"):
        model(repacked(saved, graph), "m")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "holds no program"),
        (b"{", "is not JSON"),
        (b"[" * 5000, "nested 5000 deep"),
        (b'{"a": 1}', "no program"),
    ],
)
def test_json_that_is_no_program_is_refused(saved: bytes, content: bytes, message: str) -> None:
    with pytest.raises(LatteError, match=message):
        model(repacked(saved, content), "m")


def test_an_archive_cut_anywhere_is_refused(saved: bytes) -> None:
    for end in range(4, len(saved), len(saved) // 40):
        with pytest.raises(LatteError):
            model(saved[:end], "m")


ODD: list[Any] = [
    None,
    -1,
    0,
    2**62,
    1.5,
    "",
    "x",
    [],
    {},
    [1],
    {"as_int": 3},
    {"as_tensor": {"name": "nowhere"}},
    True,
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from places(each, (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_graph_is_a_network_or_one_line(saved: bytes, data: st.DataObject) -> None:
    from latte_cli.network.onnx import read

    graph = copy.deepcopy(graph_of(saved))
    paths = [path for path in places(graph["graph_module"], ("graph_module",)) if len(path) > 1]
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=3)):
        target: Any = graph
        try:
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(ODD)))  # a later change may go into it
        except (KeyError, IndexError, TypeError):  # an earlier change took it away
            continue
    try:
        made = model(repacked(saved, graph), "m")
        read(made, name="m", sha256="", batch_size=None, allow_unknown=False)
    except LatteError as error:
        assert error.hint
        assert "\n" not in error.message
