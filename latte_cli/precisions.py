"""Precisions and layouts: the arithmetic of a model, and how its activations lie in memory, by name."""

from dataclasses import dataclass
from enum import StrEnum

_TYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}  # IEEE 754, and bfloat16


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What a precision means.

    `activations` and `weights` are types by the name that torch has for them; parameters, their gradients and the
    optimizer's states have that of weights. Where the two differ, autocast casts weights in each step. `tf32` says
    that products of 32-bit numbers may be computed in TF32. `code` is the number by which what is fitted knows the
    precision: it never changes, and a new one takes the next.
    """

    code: int
    activations: str
    weights: str
    tf32: bool = False

    @property
    def autocast(self) -> bool:
        """Whether autocast computes it."""
        return self.activations != self.weights

    @property
    def plain(self) -> bool:
        """Whether a module's own type says it all."""
        return not self.autocast and not self.tf32

    @property
    def weight_bytes(self) -> int:
        """Bytes of one parameter."""
        return _TYPE_BYTES[self.weights]


class Precision(StrEnum):
    """The requested arithmetic, by name."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"
    BF16_AUTOCAST = "bf16_autocast"
    FP16_AUTOCAST = "fp16_autocast"

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of an activation."""
        return _TYPE_BYTES[self.arithmetic.activations]

    @property
    def arithmetic(self) -> Arithmetic:
        """What it means."""
        return _ARITHMETICS[self]


_ARITHMETICS = {
    Precision.FP32: Arithmetic(code=0, activations="float32", weights="float32"),
    Precision.TF32: Arithmetic(code=1, activations="float32", weights="float32", tf32=True),
    Precision.BF16: Arithmetic(code=2, activations="bfloat16", weights="bfloat16"),
    Precision.FP16: Arithmetic(code=3, activations="float16", weights="float16"),
    Precision.BF16_AUTOCAST: Arithmetic(code=4, activations="bfloat16", weights="float32"),
    Precision.FP16_AUTOCAST: Arithmetic(code=5, activations="float16", weights="float32"),
}


class Layout(StrEnum):
    """How the activations of the whole model lie in memory."""

    NCHW = "nchw"
    CHANNELS_LAST = "channels_last"


PRECISION_WORDS = {
    **dict.fromkeys(("float32", "f32", "float", "single"), (Precision.FP32,)),
    **dict.fromkeys(("float16", "f16", "half"), (Precision.FP16,)),
    "bfloat16": (Precision.BF16,),
    **dict.fromkeys(("amp", "autocast", "mixed"), (Precision.BF16_AUTOCAST, Precision.FP16_AUTOCAST)),
}
"""Other words for precisions, as frameworks have them, and what each may mean."""

LAYOUT_WORDS = {"nhwc": Layout.CHANNELS_LAST, "channels_first": Layout.NCHW}
"""Other words for layouts."""
