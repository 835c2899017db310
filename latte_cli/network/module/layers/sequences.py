"""Layers of sequences: look-ups, recurrent layers, attention."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from latte_cli.errors import LatteError
from latte_cli.layers import Attention, Embedding, Recurrent
from latte_cli.network.module.layers.function import Attributes, Builders, Function


class _Embedding(nn.Embedding):
    """A look-up; indices may come as any integers, and as the numbers that replace them while it is timed."""

    def forward(self, indices: Tensor) -> Tensor:
        return super().forward(indices if not indices.is_floating_point() else indices.long())


def _embedding(layer: Embedding, attributes: Attributes) -> nn.Module:
    return _Embedding(layer.entries, layer.width)


_CELLS: dict[str, type[nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class _Recurrent(nn.Module):
    """A recurrent layer whose hidden states come out as ONNX has them: (steps, directions, batch, hidden)."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        cells = _CELLS[layer.function]
        self.cells = cells(layer.inputs, layer.hidden, bias=layer.bias, bidirectional=layer.directions == 2)
        self.shape = (layer.steps, layer.batch, layer.directions, layer.hidden)

    def forward(self, x: Tensor, *first: Tensor) -> Tensor:
        states: Tensor = self.cells(x, *((first,) if len(first) > 1 else first))[0]
        return states.view(self.shape).transpose(1, 2)


def _recurrent(layer: Recurrent, attributes: Attributes) -> nn.Module:
    ways = {1: "forward", 2: "bidirectional"}
    odd = attributes.get("direction", ways[layer.directions]) != ways[layer.directions]
    if odd or layer.peepholes or "activations" in attributes or "clip" in attributes:
        raise LatteError(f"a `{layer.function}` of this form cannot be run", hint="torch's own forms can")
    if layer.function == "gru" and not attributes.get("linear_before_reset", 1):
        raise LatteError("a GRU that resets before its product cannot be run", hint="`linear_before_reset` is torch's")
    return _Recurrent(layer)


_UNKNOWN_ATTENTION = ("softcap", "left_window_size", "right_window_size", "window_size", "qk_matmul_output_mode")


def _in_several_calls(query: Tensor, *others: Any, **options: Any) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(query, *others, **options)


def attention(layer: Attention, attributes: Attributes) -> Function:
    """Attention as one call of torch; raises LatteError for a form that it does not have."""
    odd = [name for name in _UNKNOWN_ATTENTION if attributes.get(name)]
    if odd:
        raise LatteError(f"attention with `{odd[0]}` cannot be run", hint="leave the attribute out")
    given: dict[str, Any] = {"is_causal": layer.causal}
    compute: Callable[..., Tensor] = F.scaled_dot_product_attention
    if layer.composed:
        compute = _in_several_calls
    else:
        given["enable_gqa"] = layer.key_heads < layer.heads
    if layer.causal and layer.queries != layer.keys:
        raise LatteError("causal attention with a past cannot be run", hint="export it with a mask")
    if layer.dropout:
        given["dropout_p"] = attributes.get("dropout", 0.1)
    if "scale" in attributes:
        given["scale"] = attributes["scale"]
    return Function(partial(compute, **given))


BUILDERS: Builders = {Embedding: _embedding, Recurrent: _recurrent, Attention: attention}
