"""Live modules as people write them: what is trained, what they are called with, what they do on the way."""

import io
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from latte_cli import load
from latte_cli.errors import LatteError
from latte_cli.estimator.memory import memory
from latte_cli.estimator.steps import Step, step_calls
from latte_cli.layers import Norm, Phase, Softmax
from latte_cli.network import Network, zoo
from latte_cli.network.channels import sub_model
from latte_cli.network.module import NetworkModule, random_inputs
from latte_cli.network.torch_program import exported
from latte_cli.network.torch_program.rules import OPAQUE, RULES
from latte_cli.precisions import Precision

HEAVY = ("convolution", "linear", "matmul", "attention")


def work(network: Network) -> tuple[float, float]:
    """FLOPs of products and convolutions, forward and backward; a backward of attention that makes no scores again."""
    forward = backward = 0.0
    for node in network.nodes:
        for phase in network.phases(node) if node.layer.kind in HEAVY else ():
            share = 4 / 5 if node.layer.kind == "attention" else 1
            forward += node.layer.flops(phase) if phase is Phase.FORWARD else 0
            backward += node.layer.flops(phase) * share if phase is not Phase.FORWARD else 0
    return forward, backward


def of_convolution(grad: Any, x: Any, weight: Any, *rest: Any, out_shape: Any = None, **more: Any) -> int:
    """torch's counter takes grouped convolutions for dense ones."""
    grad, x, weight = (each.shape if isinstance(each, Tensor) else each for each in (grad, x, weight))
    transposed, mask = rest[4], rest[7]
    return int(2 * prod(x if transposed else grad) * prod(weight) // weight[0] * sum(mask[:2]))


def counted(module: nn.Module, *arguments: Any, **keywords: Any) -> tuple[float, float, int]:
    """The FLOPs of a forward and a backward pass as torch counts them, and how many numbers get a gradient."""
    module.zero_grad(set_to_none=True)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        result = module(*arguments, **keywords)
    mapping = {torch.ops.aten.convolution_backward: of_convolution}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=mapping) as backward:
        result.float().sum().backward()
    trained = sum(p.numel() for p in module.parameters() if p.grad is not None)
    return forward.get_total_flops(), backward.get_total_flops(), trained


def agrees(module: nn.Module, *arguments: Any) -> Network:
    """Read `module` and compare with torch's own parameters and counts."""
    found = load(module, arguments)
    forward, backward, trained = counted(module, *arguments)
    assert found.parameters == sum(p.numel() for p in module.parameters())
    assert found.trained_parameters == trained
    assert work(found) == pytest.approx((forward, backward), rel=0.01)
    return found


# --- random modules


class Block(nn.Module):
    """A residual block with whatever people put into one."""

    def __init__(self, draw: random.Random, width: int) -> None:
        super().__init__()
        self.heads = draw.choice((1, 2, 4))
        self.norm: nn.Module = draw.choice((nn.LayerNorm, nn.RMSNorm))(width)
        self.qkv = nn.Linear(width, 3 * width, bias=draw.random() < 0.5)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1)) if draw.random() < 0.4 else None
        self.gate = nn.Parameter(torch.zeros(())) if draw.random() < 0.3 else None
        self.lora = draw.random() < 0.4
        self.a, self.b = (
            (nn.Linear(width, 2, bias=False), nn.Linear(2, width, bias=False)) if self.lora else (None, None)
        )
        self.fused, self.causal = draw.random() < 0.6, draw.random() < 0.5
        self.cut = draw.choice((None, None, None, "detach", "no_grad"))

    def attend(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        q, k, v = (part.view(batch, steps, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            y = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, steps, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.attend(self.norm(x))
        if self.a is not None and self.b is not None:
            y = y + self.b(self.a(x))
        if self.scale is not None:
            y = y * self.scale
        x = x + y
        if self.cut == "detach":
            x = x.detach()
        if self.cut == "no_grad":
            with torch.no_grad():
                y = self.down(F.gelu(self.up(x)))
        else:
            y = self.down(F.gelu(self.up(x)))
        return x + (y if self.gate is None else y * self.gate)


class Drawn(nn.Module):
    """A network of random blocks over tokens or patches, parts of it frozen."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        width = draw.choice((8, 16))
        self.tokens = draw.random() < 0.5
        self.embed = nn.Embedding(20, width) if self.tokens else nn.Conv2d(3, width, 4, 4)
        length = 6 if self.tokens else 4
        self.places = nn.Parameter(torch.zeros(1, length, width)) if draw.random() < 0.5 else None
        self.blocks = nn.ModuleList(Block(draw, width) for _ in range(draw.choice((1, 2, 3))))
        self.head = nn.Linear(width, 20, bias=draw.random() < 0.5)
        if self.tokens and draw.random() < 0.4:
            self.head.weight = self.embed.weight
        self.register_buffer("mean", torch.zeros(width))
        for part in (self.embed, *self.blocks):
            if draw.random() < 0.35:
                part.requires_grad_(False)
        for block in self.blocks:
            if draw.random() < 0.3:
                block.norm.requires_grad_(False)
        self.head.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x if self.tokens else x.flatten(2).transpose(1, 2)
        x = x - self.mean
        x = x if self.places is None else x + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize("seed", range(24))
def test_random_modules_have_torch_s_own_parameters_and_flops(seed: int) -> None:
    draw = random.Random(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Drawn(draw)
    agrees(module, torch.randint(20, (2, 6)) if module.tokens else torch.randn(2, 3, 8, 8))


# --- what is trained


class Probe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def test_a_linear_probe_goes_back_through_its_head_alone() -> None:
    module = Probe()
    module.body.requires_grad_(False)
    found = agrees(module, torch.randn(2, 3, 8, 8))
    assert [node.name for node in found.nodes if node.output in found.trained_activations] == ["head"]
    assert found.trained_parameters == 128 * 5 + 5


def test_a_frozen_norm_and_a_dropout_in_evaluation_mode_are_what_they_are() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 4, 3))
    trained = load(module, torch.randn(2, 3, 8, 8))
    assert not any(layer.fixed for layer in trained.layers if isinstance(layer, Norm))
    assert trained.notes == ()
    module[1].eval()
    module[2].eval()
    found = load(module, torch.randn(2, 3, 8, 8))
    assert [layer.fixed for layer in found.layers if isinstance(layer, Norm)] == [True]
    assert "dropout" not in {layer.kind for layer in found.layers}
    assert "1 batch norms use their running statistics" in " ".join(found.notes)
    assert "1 dropouts do nothing" in " ".join(found.notes)


def test_buffers_are_no_parameters_even_where_a_layer_has_them_for_weights(tmp_path: Any) -> None:
    class Blurred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel: Tensor
            self.register_buffer("kernel", torch.ones(3, 1, 5, 5) / 25)
            self.mix = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(F.conv2d(x, self.kernel, groups=3, padding=2))

    module = Blurred()
    found = agrees(module, torch.randn(2, 3, 8, 8))
    assert found.buffer_bytes == 4 * 75
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(module, (torch.randn(2, 3, 8, 8),)), path)
    assert load(path).trained_parameters == 8


def test_norms_without_weights_and_layers_without_biases_have_no_parameters_of_their_own() -> None:
    plain = nn.Sequential(
        nn.Linear(6, 6, bias=False), nn.LayerNorm(6, elementwise_affine=False), nn.LayerNorm(6, bias=False)
    )
    agrees(plain, torch.randn(4, 6))
    agrees(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), torch.randn(2, 3, 8, 8))


def test_tied_weights_count_once_and_unused_ones_are_named(tmp_path: Any) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.embed.weight
            self.idle = nn.Parameter(torch.zeros(7))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x))

    path = tmp_path / "m.pt2"
    with torch.device("meta"):
        without_data = load(Tied(), torch.zeros(2, 3, dtype=torch.long))
    module = Tied()
    torch.export.save(torch.export.export(module, (torch.randint(20, (2, 3)),)), path)
    for found in (load(module, torch.randint(20, (2, 3))), load(path), without_data):
        assert found.parameters == 167
        assert found.trained_parameters == 160
        assert any("no gradient reaches `idle`" in note for note in found.notes)


def test_weights_without_data_are_told_apart_or_counted_by_themselves_with_a_note(tmp_path: Any) -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.LayerNorm(6))
        example = torch.zeros(2, 6)
    agrees(module, example)
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(module, (example,)), path)
    found = load(path)
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert any("has no data for 6 of its weights" in note for note in found.notes)


def test_what_is_frozen_stays_frozen_beside_what_the_user_freezes() -> None:
    from latte_cli.network.training import freeze_parameters

    module = Probe()
    module.body[0].requires_grad_(False)
    found = freeze_parameters(load(module, torch.randn(2, 3, 8, 8)), ["body.3"])
    assert {"body.0.weight", "body.3.weight"} <= found.frozen
    with pytest.raises(LatteError, match="all parameters are frozen"):
        freeze_parameters(found, ["body.1", "head"])


class Named(nn.Module):
    """Its tensors are called as what the program calls an input, an operator's result and another result."""

    def __init__(self) -> None:
        super().__init__()
        self.t, self.x_ = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(6))
        self.x: Tensor
        self.register_buffer("x", torch.ones(8))
        self.left = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x * self.x) * self.x_
        return (self.t.exp() * left @ left.t()).t()


@pytest.mark.parametrize("dynamic", [False, True])
def test_tensors_may_be_called_as_an_activation_is(dynamic: bool, tmp_path: Any) -> None:
    module, example = Named(), torch.randn(3, 8)
    found = agrees(module, example)
    assert found.buffer_bytes == 32
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("n")},) if dynamic else None)
    torch.export.save(program, tmp_path / "m.pt2")
    again = load(tmp_path / "m.pt2", batch_size=3 if dynamic else None)
    assert (again.parameters, work(again)) == (found.parameters, work(found))


def test_a_spectral_norm_of_either_kind_is_read() -> None:
    for norm in (nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm):
        module = nn.Sequential(norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 3)).train()
        found = load(module, torch.randn(4, 8))
        assert found.trained_parameters == 8 * 6 + 6 + 6 * 3 + 3


# --- modules as people write them, whole and at half their width


class Latents(nn.Module):
    """Attention whose queries are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, 3, 8))
        self.attention = nn.MultiheadAttention(8, 2, kdim=5, vdim=5, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.latents.expand(x.shape[0], -1, -1)
        return self.head(queries + self.attention(queries, x, x, need_weights=False)[0])


class Fields(nn.Module):
    """Tables that are each given a part of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.tables, self.head = nn.ModuleList(nn.Embedding(9, 4) for _ in range(3)), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([table(x[:, at]) for at, table in enumerate(self.tables)], 1))


class Neighbours(nn.Module):
    """Products with inputs on either side, by a bank of matrices, and by the matrices that rows choose."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 5)
        self.bank, self.chosen = nn.Parameter(torch.randn(5, 8, 6)), nn.Parameter(torch.randn(5, 5, 4))

    def forward(self, x: Tensor) -> Tensor:
        near = x[:, :, :5]
        y = self.second(near @ self.first(x)) @ near
        y = y + (x.transpose(0, 1) @ self.bank).transpose(0, 1)[..., :5]
        return y @ self.chosen[x.mean((1, 2)).long() % 5]


class Sums(nn.Module):
    """Equations that sum over nothing, as attention without a softmax has them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.gains, self.head = nn.Linear(8, 18), nn.Parameter(torch.ones(6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).softmax(-1).chunk(3, -1)
        norms = 1 / torch.einsum("bnd,bd->bn", q, k.sum(1))
        y = torch.einsum("bnd,bde,bn->bne", q, torch.einsum("bnd,bne->bde", k, v), norms)
        y = y + torch.einsum("d,bnd->bnd", self.gains, v) + torch.einsum("bn,bd->bdn", norms, v[:, 0]).transpose(1, 2)
        return self.head(y)


def biases_alone(module: nn.Module) -> nn.Module:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return module


WRITTEN: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "slopes of channels": lambda: (
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten(), nn.Linear(96, 4), nn.PReLU(4)),
        torch.randn(2, 3, 6, 6),
    ),
    "a pool over channels": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.LocalResponseNorm(2), nn.Flatten(), nn.Linear(64, 3)),
        torch.randn(2, 3, 6, 6),
    ),
    "trained queries": lambda: (Latents(), torch.randn(2, 6, 5)),
    "products with inputs": lambda: (Neighbours(), torch.randn(3, 5, 8)),
    "trained biases": lambda: (
        biases_alone(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3))),
        torch.randn(2, 3, 6, 6),
    ),
    "equations that sum over nothing": lambda: (Sums(), torch.randn(2, 5, 8)),
    "a table for each field": lambda: (Fields(), torch.randint(9, (2, 3))),
}


def sub_model_runs(network: Network) -> None:
    """At half its width it runs as a module with the parameters that it is said to have, if it has channels."""
    try:
        sub = sub_model(network, 0.5)
    except LatteError as exc:
        assert "no channels that can be cut" in exc.message
        return
    forward, backward, trained = counted(NetworkModule(sub).train(), *random_inputs(sub))
    assert (*work(sub), sub.trained_parameters) == pytest.approx((forward, backward, trained), rel=0.01)


@pytest.mark.parametrize("name", list(WRITTEN))
def test_modules_as_written_are_read_whole_and_run_at_half_their_width(name: str) -> None:
    module, example = WRITTEN[name]()
    sub_model_runs(agrees(module, example))


class Translated(nn.Module):
    """A decoder that has of its encoder only the states that it begins with, or begins with trained ones."""

    def __init__(self, cells: type[nn.RNNBase], layers: int, trained: bool) -> None:
        super().__init__()
        self.read, self.write = cells(8, 6, layers, batch_first=True), cells(8, 6, layers, batch_first=True)
        self.first = nn.Parameter(torch.randn(layers, 1, 6)) if trained else None
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = self.read(x)[1]
        if self.first is not None:
            first = self.first.expand(-1, x.shape[0], -1).contiguous()
            state = (first, state[1]) if isinstance(state, tuple) else first
        return self.head(self.write(x, state)[0])


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cells", [nn.LSTM, nn.GRU, nn.RNN])
def test_first_states_of_recurrent_layers_are_read(cells: type[nn.RNNBase], layers: int, trained: bool) -> None:
    module, example = Translated(cells, layers, trained), torch.randn(2, 5, 8)
    found = load(module, example)
    forward, _, updated = counted(module, example)
    assert found.parameters == sum(p.numel() for p in module.parameters())
    assert found.trained_parameters == updated
    products = sum(node.layer.flops(Phase.FORWARD) for node in found.nodes if node.layer.kind in (*HEAVY, "recurrent"))
    if cells is not nn.LSTM and not trained:  # torch counts no LSTM, and LATTE no encoder that nothing reads
        assert products == forward


def test_a_recurrent_layer_that_is_used_twice_or_frozen_is_so_in_its_sub_model() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.cells = nn.Linear(8, 8), nn.GRU(8, 6, batch_first=True, bidirectional=True)
            self.still, self.head = nn.GRU(12, 6, batch_first=True).requires_grad_(False), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner(x)
            return self.head(self.still(self.cells(x)[0] - self.cells(x.flip(1))[0])[0])

    sub = sub_model(load(Twice(), torch.randn(2, 5, 8)), 0.5)
    module = NetworkModule(sub).train()
    assert sum(p.numel() for p in module.parameters()) == sub.parameters
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == sub.trained_parameters


# --- what modules are called with, and what they return


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8)

    def forward(self, left: Tensor, right: Tensor | None = None, *, double: bool = False) -> Tensor:
        y = self.left(left)
        y = y if right is None else y + self.right(right)
        return y * 2 if double else y


def test_examples_are_tensors_tuples_dicts_or_tuples_that_end_in_a_dict() -> None:
    left, right = torch.randn(3, 4), torch.randn(3, 6)
    assert load(Pair(), left).parameters == 40 + 56
    for example in ((left, right), {"left": left, "right": right}, (left, {"right": right, "double": True})):
        found = load(Pair(), example)
        assert found.trained_parameters == 40 + 56
        assert load(Pair(), example, batch_size=7).shapes[found.outputs[0]] == (7, 8)


def test_a_dict_may_be_the_one_argument_itself() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"out": self.fc(batch["x"]), "again": batch["x"] * 2}

    found = load(Named(), {"x": torch.randn(3, 4)})
    assert found.shapes[found.scores] == (3, 2)


@dataclass
class Record:
    logits: Tensor
    states: tuple[Tensor, ...]
    cache: Any = None


class Result(NamedTuple):
    logits: Tensor
    aux: Tensor


@pytest.mark.parametrize("kind", ["record", "named tuple", "dict", "nested"])
def test_the_scores_are_found_in_whatever_a_module_returns(kind: str) -> None:
    class Returning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.aux = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            logits, aux = self.head(h), self.aux(h)
            if kind == "record":
                return Record(logits, (h, aux), object())
            if kind == "named tuple":
                return Result(logits, aux)
            return {"logits": logits, "aux": aux} if kind == "dict" else {"logits": {"a": logits}, "rest": [h, (aux,)]}

    module = Returning()
    found = load(module, torch.randn(2, 4))
    assert found.shapes[found.scores] == (2, 3)
    assert found.parameters == sum(p.numel() for p in module.parameters())


def test_a_loss_inside_the_forward_pass_is_the_start_of_the_backward_pass() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 10)

        def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.head(x)
            return F.cross_entropy(logits, labels), logits

    found = load(WithLoss(), (torch.randn(6, 4), torch.randint(10, (6,))))
    assert found.shapes[found.scores] == ()
    assert Softmax(shape=(6, 10), axis=1, log=True) in found.layers


def test_the_batch_of_a_live_module_is_that_of_an_export_at_it() -> None:
    class TimeMajor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0].reshape(-1, 4)

    small, large = (load(TimeMajor(), torch.randn(batch, 4, 8), batch_size=4) for batch in (4, 2))
    assert work(small) == work(large)
    assert small.shapes == large.shapes


# --- what modules do on the way


def reads(function: Callable[..., Any], *arguments: Any, **options: Any) -> Network:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(arguments[0].shape[-1], arguments[0].shape[-1])

        def forward(self, x: Tensor, *rest: Any) -> Any:
            return function(self.fc(x), *rest)

    return load(Module(), arguments, **options)


@pytest.mark.parametrize("mask", [(), (5, 5), (1, 5, 5)])
def test_attention_without_heads_has_its_batch_first(mask: tuple[int, ...], tmp_path: Any) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24)
            self.mask = nn.Buffer(torch.zeros(mask)) if mask else None

        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1), attn_mask=self.mask)

    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(Plain(), (torch.randn(2, 5, 8),)), path)
    found, right = load(path, batch_size=6), load(Plain(), torch.randn(6, 5, 8))
    assert work(found) == work(right)
    assert work(found)[0] == counted(Plain(), torch.randn(6, 5, 8))[0]
    assert found.shapes[found.outputs[0]] == (6, 5, 8)


def test_the_costlier_branch_of_a_condition_is_taken() -> None:
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.thin = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda x: self.wide(x).relu(), lambda x: x * 2, (x,))

    found = load(Either(), torch.randn(3, 8))
    assert [layer.kind for layer in found.layers if layer.kind in HEAVY] == ["linear"]
    assert any("which costs more" in note for note in found.notes)


def test_autocast_regions_are_read_where_they_stand() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                x = self.first(x)
            return self.second(x.float())

    agrees(Cast(), torch.randn(3, 8))


def test_checkpointed_regions_are_read_or_said_to_be_there() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.body, x, use_reentrant=False))

    class Elsewhere(Again):
        def forward(self, x: Tensor) -> Tensor:
            return self.again(x)

        def again(self, x: Tensor) -> Tensor:
            called = checkpoint
            return self.head(called(self.body, x, use_reentrant=False))

    class Renamed(Again):
        def forward(self, x: Tensor) -> Tensor:
            called = checkpoint
            return self.head(called(self.body, x, use_reentrant=False))

    class Within(Elsewhere):
        def again(self, x: Tensor) -> Tensor:
            called = checkpoint
            return self.head(called(lambda y: self.body(y), x, use_reentrant=False))

    class Hidden(Elsewhere):
        def again(self, x: Tensor) -> Tensor:
            called = checkpoint
            return self.head(called(lambda y: self.body(y) * 2, x, use_reentrant=False))

    for module in (Again(), Renamed(), Elsewhere(), Within()):
        found = load(module, torch.randn(3, 8))
        assert [region.nodes for region in found.checkpoints] == [("body",)]
        assert not found.notes
    (note,) = load(Hidden(), torch.randn(3, 8)).notes
    assert "its code checkpoints regions" in note


def test_work_in_place_is_read_by_whoever_reads_the_tensor_afterwards() -> None:
    def after(x: Tensor) -> Tensor:
        y = x * 2
        y.sigmoid_()
        return y + 1

    def through_a_view(x: Tensor) -> Tensor:
        y = x * 2
        y[:, 0].sigmoid_()
        return y + 1

    assert "sigmoid" in {layer.variant for layer in reads(after, torch.randn(3, 4)).layers}
    assert "sigmoid" in {layer.variant for layer in reads(through_a_view, torch.randn(3, 4)).layers}


def test_a_program_that_changes_a_part_in_place_is_refused_by_name(tmp_path: Any) -> None:
    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y.diagonal().sigmoid_()
            return y + 1

    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(Parts(), (torch.randn(3, 4),)), path)
    with pytest.raises(LatteError, match="changes a part of `mul` in place") as caught:
        load(path)
    assert "run_decompositions" in str(caught.value.hint)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_computed_weights_are_named_or_read(norm: str) -> None:
    module = nn.Sequential(getattr(nn.utils.parametrizations, norm)(nn.Linear(6, 4)), nn.Linear(4, 2))
    try:
        found = load(module, torch.randn(3, 6))
    except LatteError as error:
        assert error.hint
    else:
        assert found.parameters == sum(p.numel() for p in module.parameters())


SIZED: dict[str, Callable[[Tensor], Any]] = {
    "a mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "masked_select": lambda x: torch.masked_select(x, x > 0),
}


@pytest.mark.parametrize("name", list(SIZED))
def test_sizes_that_values_decide_are_asked_for(name: str) -> None:
    with pytest.raises(LatteError, match="only the values of the model's inputs decide") as caught:
        reads(SIZED[name], torch.randn(3, 4))
    asked = str(caught.value.hint).partition("'")[2].partition("=")[0]
    assert reads(SIZED[name], torch.randn(3, 4), sizes={asked: 5}).shapes[asked.partition("[")[0]][0] == 5


OPERATORS: dict[str, Callable[[Tensor], Any]] = {
    "diff": lambda x: x.diff(dim=1),
    "min of two": lambda x: torch.min(x, x * 2),
    "ne": lambda x: x * (x != 0),
    "glu": F.glu,
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "vector norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "norm 3": lambda x: x.norm(3, dim=-1),
    "vecdot": lambda x: torch.linalg.vecdot(x, x),
    "cdist": lambda x: torch.cdist(x, x),
    "argsort": lambda x: x.gather(1, x.argsort(1)),
    "sort": lambda x: x.sort(1).values,
    "topk": lambda x: x.topk(2).values,
    "max": lambda x: x.max(1).values,
    "any": lambda x: x * (x > 0).any(),
    "one_hot": lambda x: x @ F.one_hot(torch.arange(8), 8).float(),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.view(1, 4, 4, 4), 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x.view(1, 4, 4, 4), 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x.view(1, 4, 4, 4), 2),
    "grid_sample": lambda x: F.grid_sample(x.view(1, 4, 4, 4), torch.zeros(1, 3, 3, 2), align_corners=False),
    "unfold": lambda x: F.unfold(x.view(1, 4, 4, 4), 2),
    "windows": lambda x: x.unfold(1, 4, 2),
    "index_put": lambda x: x.index_put((torch.tensor([0, 1]),), torch.zeros(2, 8)),
    "indices": lambda x: x[torch.arange(8), torch.arange(8)],
    "indices of a grid": lambda x: x[torch.arange(3)[:, None], torch.arange(5)[None]],
    "indices apart": lambda x: x.view(2, 4, 8)[torch.tensor([0, 1]), :, torch.tensor([1, 2])],
    "counted": lambda x: x * (x > 0).cumsum(1),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "inverse": lambda x: torch.linalg.inv(x @ x.T),
    "svd": lambda x: torch.linalg.svd(x)[1],
    "fft": lambda x: torch.fft.rfft(x).abs(),
    "stft": lambda x: torch.stft(x, 4, return_complex=True, window=torch.ones(4)).abs(),
    "rand": lambda x: x + torch.rand_like(x) + torch.rand(8, 8),
    "drop path": lambda x: x * x.new_empty(8, 1).bernoulli_(0.9),
    "roll": lambda x: x.roll(1, 0),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=0),
    "max_unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x.view(1, 4, 4, 4), 2, return_indices=True), 2),
    "mse": lambda x: F.mse_loss(x, x * 2),
    "smooth l1": lambda x: F.smooth_l1_loss(x, x * 2),
    "binary": lambda x: F.binary_cross_entropy_with_logits(x, x.sigmoid()),
    "likelihood": lambda x: F.nll_loss(x.log_softmax(1), torch.zeros(8, dtype=torch.long)),
    "cosine": lambda x: F.cosine_similarity(x, x * 2),
    "normalize": lambda x: F.normalize(x, dim=1),
    "addmv": lambda x: torch.addmv(x[0], x, x[1]),
    "outer": lambda x: torch.outer(x[0], x[1]),
    "var": lambda x: torch.var_mean(x, 1)[0],
    "attention of 3": lambda x: F.scaled_dot_product_attention(*(x.view(2, 4, 8),) * 3),
    "attention of 5": lambda x: F.scaled_dot_product_attention(*(x.view(1, 2, 1, 4, 8),) * 3),
    "attention with dropout": lambda x: F.scaled_dot_product_attention(*(x.view(1, 2, 4, 8),) * 3, dropout_p=0.1),
}


@pytest.mark.parametrize("name", list(OPERATORS))
def test_operators_that_real_networks_use_are_read(name: str) -> None:
    found = reads(OPERATORS[name], torch.randn(8, 8))
    own = OPERATORS[name](torch.randn(8, 8))
    assert found.shapes[found.outputs[-1]] == tuple(own.shape)
    assert found.unknown == ()


CELLS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTMCell(8, 6),
    "gru": lambda: nn.GRUCell(8, 6),
    "rnn": lambda: nn.RNNCell(8, 6),
    "bilinear": lambda: nn.Bilinear(8, 6, 5),
}


@pytest.mark.parametrize("name", list(CELLS))
def test_single_steps_have_their_parameters_and_products(name: str) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = CELLS[name]()

        def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
            y = self.cell(x, (hidden, hidden * 2) if name == "lstm" else hidden)
            return y[0] + y[1] if isinstance(y, tuple) else y

    module, arguments = One(), (torch.randn(3, 8), torch.randn(3, 6))
    if name != "bilinear":  # which torch computes as one call that its counter does not know
        agrees(module, *arguments)
    found = load(module, arguments)
    assert found.parameters == sum(p.numel() for p in module.parameters())


def test_an_embedding_bag_is_a_look_up() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(20, 8, mode="sum"), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.bag(x))

    found = load(Bag(), torch.randint(20, (3, 5)))
    assert found.parameters == 160 + 18
    assert "embedding" in {layer.kind for layer in found.layers}


def test_a_projecting_lstm_is_refused_by_name() -> None:
    with pytest.raises(LatteError, match="proj_size"):
        load(nn.LSTM(8, 6, proj_size=3), torch.randn(4, 2, 8))


def core() -> Iterator[Any]:
    for name in torch.ops.aten:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            operator = getattr(packet, overload)
            if torch.Tag.core in operator.tags:
                yield operator


def test_every_core_operator_of_torch_is_read_taken_apart_or_known_by_name() -> None:
    from torch._decomp import decomposition_table

    missing = {
        str(operator)
        for operator in core()
        if (kind := str(operator).split(".")[1].removesuffix("_")) not in RULES and kind not in OPAQUE
        if operator not in decomposition_table and not kind.endswith("_backward") and not kind.startswith("sym_")
    }
    assert missing == set()


# --- what may be loaded


def test_programs_models_and_bytes_are_loaded_as_they_are() -> None:
    module, example = nn.Linear(4, 2), torch.randn(3, 4)
    program = torch.export.export(module, (example,))
    onnx = zoo.export("alexnet", image_size=63)
    for model in (program, exported(module, example), onnx, ModelProto.FromString(onnx)):
        assert load(model).parameters in (10, load(onnx).parameters)
    assert all(float(weight.detach().abs().sum()) > 0 for weight in program.state_dict.values())
    assert load(program, batch_size=5).batch_size == 5


@pytest.mark.parametrize("model", [3, [1, 2], object(), lambda x: x])
def test_what_is_no_model_says_what_is(model: Any) -> None:
    with pytest.raises(LatteError, match="is no model") as caught:
        load(model)
    assert "ExportedProgram" in str(caught.value.hint)


def test_a_module_without_an_example_asks_for_one() -> None:
    with pytest.raises(LatteError, match="without an example") as caught:
        load(nn.Linear(2, 3))
    assert "dict of keyword arguments" in str(caught.value.hint)


def test_torchscript_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(nn.Linear(2, 3), torch.randn(1, 2))
    with pytest.raises(LatteError, match="TorchScript"):
        load(traced, torch.randn(1, 2))


def test_the_batch_of_a_live_module_may_lie_along_another_axis() -> None:
    found = load(nn.LSTM(8, 6), torch.randn(5, 2, 8), batch_size=4, batch_axis=1)
    assert found.inputs[0][1] == (5, 4, 8)


class Scaled(nn.Module):
    """Part of a module that writes a number as a tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x / torch.sqrt(torch.tensor(8.0))


def test_numbers_in_a_module_s_code_are_neither_parameters_nor_buffers() -> None:
    found = load(nn.Sequential(nn.Linear(8, 8), nn.Sequential(Scaled())), torch.randn(4, 8))
    assert (found.parameters, found.trained_parameters, found.buffer_bytes) == (72, 72, 0)
    assert "multiply_constant" in {layer.variant for layer in found.layers}


class Gelu(torch.autograd.Function):
    """An activation whose backward pass keeps its input alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(1.7 * x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


class ByFunction(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Gelu.apply(x)


def test_functions_with_a_backward_pass_of_their_own_are_named() -> None:
    found = load(nn.Sequential(nn.Linear(8, 8), ByFunction()), torch.randn(3, 8))
    assert [note for note in found.notes if "`Gelu`" in note and "autograd function" in note]


class Asking(nn.Module):
    """Asks for the gradient of what it reads, as regions that are checkpointed need it."""

    def __init__(self, wanted: bool) -> None:
        super().__init__()
        self.wanted, self.linear = wanted, nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.view(-1, 8)
        x.requires_grad = self.wanted
        return self.linear(x)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_gradient_that_code_asks_for_is_said(wanted: bool) -> None:
    found = load(Asking(wanted), torch.randn(3, 2, 4))
    assert any("asks for the gradient" in note for note in found.notes) is wanted


@pytest.mark.parametrize("batch_size", [None, 5])
def test_an_input_that_asks_for_a_gradient_gets_it(batch_size: int | None) -> None:
    module, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), torch.randn(batch_size or 3, 8, requires_grad=True)
    module[0].requires_grad_(False)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, (x,)), buffer)
    forward, backward, _ = counted(module, x)
    for found in (load(module, x[:3].detach().requires_grad_(), batch_size=batch_size), load(buffer.getvalue())):
        assert work(found) == (forward, backward)
        held = memory(found, Step(), Precision.FP32).timeline[-1]
        assert held.temporary_bytes >= x.nbytes


def test_no_gradient_passes_places_counts_and_truths() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near, self.far = nn.Linear(16, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.near(x)
            kept, order = (h > 0).to(h.dtype), h.sum(1).argsort()
            best, places = h.topk(8, 1)
            return self.far(h * kept)[order] + best + h.argmax(1, keepdim=True) + places.int()

    found = agrees(Chosen(), torch.randn(5, 16))
    back = {call.name for call in step_calls(found, Step()) if call.phase is not Phase.FORWARD}
    assert {"near", "mul", "far", "index", "topk"} <= back
    assert back.isdisjoint({"gt", "to", "sum_1", "argsort", "argmax", "topk/1"})


class NormsTwice(nn.Module):
    """A norm that is called twice, so that its running statistics are there once."""

    def __init__(self, **how: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, **how)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.norm(self.conv(self.norm(self.conv(x))))
        return found


class StandardisedWeights(nn.Module):
    """A convolution whose weights are normalised in each step, without running statistics (NFNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv2d(4, 4, 3, padding=1), nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.conv.weight.reshape(1, 4, -1)
        normed = nn.functional.batch_norm(rows, None, None, weight=self.gain, training=True)
        return nn.functional.conv2d(x, normed.reshape_as(self.conv.weight), self.conv.bias)


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize(
    "module",
    [NormsTwice(), NormsTwice(track_running_stats=False), NormsTwice(affine=False), StandardisedWeights()],
    ids=["twice", "without statistics", "without parameters", "of weights"],
)
def test_running_statistics_are_those_that_the_module_has(module: nn.Module, exported: bool) -> None:
    x = (torch.zeros(3, 4, 8, 8),)
    found = load(torch.export.export(module, x)) if exported else load(module, x)
    assert found.buffer_bytes == sum(buffer.nbytes for buffer in module.buffers())
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize(("dtype", "name"), [(torch.float64, "fp64"), (torch.float16, "fp16"), (torch.float32, "")])
def test_weights_of_another_precision_are_noted(dtype: torch.dtype, name: str, exported: bool) -> None:
    module, x = nn.Linear(8, 3).to(dtype), (torch.zeros(2, 8, dtype=dtype),)
    notes = load(torch.export.export(module, x) if exported else module, *([] if exported else [x])).notes
    assert [note.startswith(f"2 of its 2 weights are stored as {name}") for note in notes] == [True] * bool(name)
