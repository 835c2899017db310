"""Attention as one call."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from latte_cli.layers.base import Layer, Phase, Saved
from latte_cli.layers.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class Attention(Layer):
    """Scaled dot-product attention as one call: softmax(q kᵀ) v, with `causal` or an added `mask` or neither.

    Queries are (batch, heads, queries, width), keys (batch, key_heads, keys, width), values
    (batch, key_heads, keys, value_width); `mask` is the shape of the mask, () for none. With `dropout` some of the
    scores are left out, which a CPU has no single call for.
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

    def saved(self, *, trains: bool, flows: bool) -> Saved:
        """Its softmax is made again from a logarithm of each row's sum, in single precision.

        With dropout that is one call on GPUs only: elsewhere queries and keys are scaled beforehand, and the scores,
        what is left out of them and what remains are kept.
        """
        if self.dropout:
            scores = self.batch * self.heads * self.queries * self.keys
            scaled = self.batch * self.heads * (self.queries + self.keys) * self.width
            return Saved(inputs=True, elements=3 * scores + scaled)
        return Saved(inputs=True, output=True, other_bytes=4 * self.batch * self.heads * self.queries)

    @property
    def workload(self) -> int:
        return self.batch * self.heads * self.queries * self.keys * (self.width + self.value_width)

    def flops(self, phase: Phase) -> int:
        """Two products forward; backward computes the scores again and then four products."""
        if phase is Phase.BACKWARD:
            products = 3 * self.width + 2 * self.value_width
            return 2 * self.batch * self.heads * self.queries * self.keys * products
        return super().flops(phase)

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
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
