"""Attention as one call."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from latte_cli.layers.base import ANYHOW, Layer, LayoutNeeds, Saved
from latte_cli.layers.shapes import Shape
from latte_cli.phases import Phase


@dataclass(frozen=True, kw_only=True)
class Attention(Layer):
    """Scaled dot-product attention as one call: softmax(q kᵀ) v, with `causal` or an added `mask` or neither.

    Queries are (batch, heads, queries, width), keys (batch, key_heads, keys, width), values
    (batch, key_heads, keys, value_width); `mask` is the shape of the mask, () for none, and with `trained_mask` it
    takes a gradient. With `dropout` some of the scores are left out. A CPU has no single call for either, nor for what
    is `composed`: given in a form that torch has no single call for, such as one head of keys that all queries read.
    """

    kind: ClassVar[str] = "attention"
    code: ClassVar[int] = 17

    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    causal: bool = False
    mask: Shape = ()
    dropout: bool = False
    trained_mask: bool = False
    composed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.heads % self.key_heads == 0, f"{self.heads} heads on {self.key_heads} heads of keys")

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        shapes = (
            (self.batch, self.heads, self.queries, self.width),
            (self.batch, self.key_heads, self.keys, self.width),
            (self.batch, self.key_heads, self.keys, self.value_width),
        )
        return (*shapes, self.mask) if self.mask else shapes

    @property
    def output_shape(self) -> Shape:
        return (self.batch, self.heads, self.queries, self.value_width)

    @property
    def layout_needs(self) -> LayoutNeeds:
        if self.one_call((True,) * 3 + (self.trained_mask,)):
            return ANYHOW
        return LayoutNeeds(rows=True, forward=True, kept=True)

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """Its softmax is made again from a logarithm of each row's sum, in single precision.

        Where torch makes several calls, it keeps the scaled queries and keys and the scores; with dropout it also keeps
        the mask and the scores after it. Each head then has its own keys and values.
        """
        heads = self.batch * self.heads
        if fused or self.one_call(flows):
            kept = tuple(range(len(self.input_shapes)))
            return Saved(inputs=kept, output=True, other_bytes=4 * heads * self.queries)
        scored = flows[0] or flows[1] or any(flows[3:])
        tensors = scored * (2 if self.dropout else 1) + (flows[2] and (self.dropout or not scored))
        kept_rows = self.keys * self.width * flows[0] + self.queries * self.width * flows[1]
        if scored and self.key_heads < self.heads:
            kept_rows += self.keys * self.value_width
        own_values = scored and self.key_heads == self.heads
        elements = heads * (tensors * self.queries * self.keys + kept_rows)
        return Saved(inputs=(2,) if own_values else (), elements=elements)

    def saved_count(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> int:
        """Where torch makes several calls: queries, keys and values, the scores, those after dropout, the shares."""
        if fused or self.one_call(flows):
            return super().saved_count(trains=trains, flows=flows, fused=fused)
        scored = flows[0] or flows[1] or any(flows[3:])
        return flows[0] + flows[1] + flows[2] + scored * (3 if self.dropout else 2)

    def one_call(self, flows: Sequence[bool]) -> bool:
        """Whether torch has one call for it on a CPU, by where gradients flow."""
        plain = not self.dropout and not self.composed and self.width == self.value_width
        return plain and not any(flows[3:])

    @property
    def workload(self) -> int:
        return self.batch * self.heads * self.queries * self.keys * (self.width + self.value_width)

    def flops(self, phase: Phase) -> int:
        """Two products forward; backward four, before which one call computes the scores again."""
        if phase is Phase.BACKWARD:
            products = 2 * (self.width + self.value_width) + self.width * self.one_call(
                (True,) * 3 + (self.trained_mask,)
            )
            return 2 * self.batch * self.heads * self.queries * self.keys * products
        return super().flops(phase)

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        (batch, heads, queries, width), (_, key_heads, keys, _), (*_, value_width) = inputs[:3]
        return replace(
            self,
            batch=batch,
            heads=heads,
            key_heads=key_heads,
            queries=queries,
            keys=keys,
            width=width,
            value_width=value_width,
            mask=tuple(inputs[3]) if self.mask else (),
        )
