"""Normalisations."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from latte_cli.layers.base import Saved, Shaped
from latte_cli.layers.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class Norm(Shaped):
    """A normalisation: `batch`, `layer`, `group`, `instance`, `rms` or `lrn`, in training mode.

    `span` is the number of groups of a group norm, of trailing dimensions of a layer or rms norm, or of channels
    that a local response norm looks at. `per_group` says that a group norm has a scale and a bias for each group. A
    `fixed` batch norm uses its running statistics, as in evaluation mode.
    """

    kind: ClassVar[str] = "norm"
    code: ClassVar[int] = 3
    operations_per_element: ClassVar[int] = 5

    function: str
    span: int = 1
    affine: bool = True
    per_group: bool = False
    fixed: bool = False

    def __post_init__(self) -> None:
        self._check(self.span > 0, f"a span of {self.span}")
        if self.function in ("layer", "rms"):
            self._check(self.span <= len(self.shape), f"{self.span} trailing dimensions in {self.shape}")
        elif self.function == "group":
            fits = len(self.shape) > 1 and self.shape[1] % self.span == 0
            self._check(fits, f"{self.span} groups of channels in {self.shape}")
        super().__post_init__()

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        if not self.affine or self.function == "lrn":
            return ()
        over_rows = self.function in ("layer", "rms")
        own = self.shape[-self.span :] if over_rows else (self.span,) if self.per_group else self.shape[1:2]
        return (own,) if self.function == "rms" else (own, own)

    def saved(self, *, trains: bool, flows: bool) -> Saved:
        return Saved(inputs=trains or not self.fixed, elements=0 if self.fixed else self._statistics)

    @property
    def reduction(self) -> int:
        if self.function in ("layer", "rms"):
            return prod(self.shape[-self.span :])
        if self.fixed:
            return 1
        return prod(self.shape) // self.shape[1] if self.function == "batch" else super().reduction

    @property
    def _statistics(self) -> int:
        """How many numbers it keeps of what it normalised by."""
        if self.function == "batch":
            return 2 * self.shape[1]
        if self.function == "lrn":
            return prod(self.shape)
        if self.function == "group":
            return 2 * self.shape[0] * self.span
        if self.function == "instance":
            return 2 * self.shape[0] * self.shape[1]
        return 2 * prod(self.shape[: -self.span])

    @property
    def buffer_bytes(self) -> int:
        """A batch norm's running mean and variance, in single precision, and the count of its steps."""
        return 8 * self.shape[1] + 8 if self.function == "batch" else 0
