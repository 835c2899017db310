"""Normalisations."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from latte_cli.layers.base import POINTWISE, LayoutNeeds, Saved, Shaped
from latte_cli.layers.shapes import Shape

_LAYOUT_NEEDS = {
    "layer": LayoutNeeds(forward=True, backward=True, gradient=True),
    "batch": LayoutNeeds(channels_last=True),
    "group": LayoutNeeds(channels_last=True, kept=True, gradient=True),
    "instance": LayoutNeeds(kept=True, gradient=True),
    "rms": LayoutNeeds(channels_last=True, forward=True),
    "lrn": POINTWISE,
}


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

    @property
    def layout_needs(self) -> LayoutNeeds:
        self._check(self.function in _LAYOUT_NEEDS, f"the function `{self.function}`")
        return _LAYOUT_NEEDS[self.function]

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """What it normalised by, and its input; a CPU has no single call for an RMS norm or a local response norm."""
        if self.fixed:
            return Saved(inputs=(0,))
        if self.function == "rms" and not fused:
            scaled = prod(self.shape) if trains else 0
            return Saved(inputs=(0,), elements=self._statistics + scaled) if any(flows) else Saved(elements=scaled)
        return Saved(inputs=(0,), elements=self._statistics)

    def saved_count(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> int:
        """Its input, statistics (running ones too) and parameters; each step's tensors where torch makes several."""
        scaled = bool(self.parameter_shapes)
        match self.function:
            case "batch":
                return 5 + scaled
            case "layer":
                return 3 + 2 * scaled
            case "rms" if not fused:
                return 4 + scaled + (scaled and trains) if any(flows) else 1
            case "lrn":
                return 6
        return 3 + scaled

    @property
    def untrainable(self) -> str:
        """As `_verify_batch_size` and `_verify_spatial_size` of torch.nn.functional have it."""
        rows, channels, *image = self.shape if len(self.shape) > 1 else (1, *self.shape)
        if self.function == "batch" and not self.fixed and rows * prod(image) == 1:
            return "a batch norm needs more than one value per channel"
        if self.function == "instance" and prod(image) == 1:
            return "an instance norm needs more than one value per channel of a sample"
        if self.function == "group" and rows * channels // self.span * prod(image) == 1:
            return "a group norm needs more than one value per group"
        return ""

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
            padded = prod(self.shape) // self.shape[1] * (self.shape[1] + self.span - 1)
            return 2 * prod(self.shape) + padded  # squares, their means, and powers of these
        if self.function == "group":
            return 2 * self.shape[0] * self.span
        if self.function == "instance":  # torch repeats the scale for each image; two dimensions are one image
            return (3 if self.affine else 2) * prod(self.shape[: max(1, min(2, len(self.shape) - 1))])
        return (1 if self.function == "rms" else 2) * prod(self.shape[: -self.span])

    @property
    def buffer_bytes(self) -> int:
        """A batch norm's running mean and variance, in single precision, and the count of its steps."""
        return 8 * self.shape[1] + 8 if self.function == "batch" else 0
