"""Layers: what a network is made of; each kind whole in its class, `LAYERS` names them all."""

import json
from dataclasses import fields
from functools import lru_cache
from typing import Any, get_origin

from latte_cli.errors import LatteError
from latte_cli.layers.attention import Attention
from latte_cli.layers.base import INDEX_BYTES, Layer, LayoutNeeds, Saved, StrideOrder
from latte_cli.layers.convolution import Convolution
from latte_cli.layers.copies import Concat, Copy, View
from latte_cli.layers.embedding import Embedding
from latte_cli.layers.norms import Norm
from latte_cli.layers.other import Other
from latte_cli.layers.pointwise import Activation, Dropout, Elementwise
from latte_cli.layers.products import Linear, MatMul
from latte_cli.layers.recurrent import Recurrent
from latte_cli.layers.reductions import Pool, Reduce
from latte_cli.layers.shapes import Shape, broadcast, reshape_runs, scaled_reshape, wide
from latte_cli.layers.softmax import Softmax, SoftmaxCrossEntropy
from latte_cli.layers.steps import CHECKPOINTS, Checkpoint, Optimizer, Transfer, Whole
from latte_cli.layers.stored import Stored
from latte_cli.phases import Phase

__all__ = [
    "CHECKPOINTS",
    "INDEX_BYTES",
    "LAYERS",
    "Activation",
    "Attention",
    "Checkpoint",
    "Concat",
    "Convolution",
    "Copy",
    "Dropout",
    "Elementwise",
    "Embedding",
    "Layer",
    "LayoutNeeds",
    "Linear",
    "MatMul",
    "Norm",
    "Optimizer",
    "Other",
    "Phase",
    "Pool",
    "Recurrent",
    "Reduce",
    "Saved",
    "Shape",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Stored",
    "StrideOrder",
    "Transfer",
    "View",
    "Whole",
    "broadcast",
    "layer_from_text",
    "layer_text",
    "reshape_runs",
    "scaled_reshape",
    "wide",
]

LAYERS: tuple[type[Layer], ...] = (
    Convolution,
    Linear,
    MatMul,
    Norm,
    Activation,
    Dropout,
    Softmax,
    SoftmaxCrossEntropy,
    Pool,
    Elementwise,
    Concat,
    Reduce,
    Copy,
    View,
    Optimizer,
    Embedding,
    Recurrent,
    Attention,
    Other,
    Transfer,
    Whole,
    Stored,
    Checkpoint,
)
"""Every layer kind, in any order."""

_BY_KIND = {layer.kind: layer for layer in LAYERS}


@lru_cache(maxsize=65536)
def layer_text(layer: Layer) -> str:
    """The canonical text of a layer: compact JSON, the same for equal layers in every process.

    Fields at their default are left out, so that a field added later changes no text already written.
    """
    values = ((field, getattr(layer, field.name)) for field in fields(layer))
    body = {field.name: value for field, value in values if value != field.default}
    return json.dumps({"kind": layer.kind, **body}, separators=(",", ":"))


@lru_cache(maxsize=1 << 18)  # chosen: those of a million rows, so that the phases of a layer share it
def layer_from_text(text: str) -> Layer:
    """The layer that `layer_text` wrote; raises LatteError for any other text."""
    try:
        body = json.loads(text)
        layer = _BY_KIND[body.pop("kind")]
        types = _field_types(layer)
        return layer(**{name: _check_type(_as_tuples(value), types[name]) for name, value in body.items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise LatteError(f"not a layer: {text[:80]}", hint="was it written by a newer version?") from exc


@lru_cache(maxsize=64)  # chosen: more than there are kinds
def _field_types(layer: type[Layer]) -> dict[str, Any]:
    return {field.name: get_origin(field.type) or field.type for field in fields(layer)}


def _as_tuples(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(_as_tuples(item) if isinstance(item, list) else _check_type(item, int) for item in value)


def _check_type(value: Any, kind: object) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of {kind}")
    return value
