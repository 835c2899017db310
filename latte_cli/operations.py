"""Operations on all parameters that a step makes in addition to the optimizer's update, by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.optimizers import OPTIMIZERS, measured_name
from latte_cli.waits import Waits


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation that reads and writes `moved` numbers for each number of its tensors; `waits` is for a GPU's host.

    `does` is what it is, in words.
    """

    does: str
    moved: int
    waits: Waits = Waits.NEVER


OPERATIONS: Mapping[str, Operation] = {
    "clip-norm": Operation(does="torch.nn.utils.clip_grad_norm_", moved=3),
    "ema": Operation(
        does="the parameters of torch.optim.swa_utils.AveragedModel.update_parameters",
        moved=3,
        waits=Waits.BEFORE,  # `n_averaged.to(device)` copies from memory that is not pinned, for which torch waits
    ),
    "ema-buffers": Operation(does="the buffers that AveragedModel.update_parameters copies", moved=2),
    "grad-scaler": Operation(does="torch.amp.GradScaler: scale, unscale_ with the check for inf, update", moved=2),
    "zero-grad": Operation(does="zero_grad(set_to_none=False), one gradient after the other", moved=1),
    "zero-grad-foreach": Operation(does="zero_grad(set_to_none=False) of a foreach or fused optimizer", moved=1),
}
"""Every operation by name, as torch 2.13 carries it out."""

ASKED: Mapping[str, tuple[str, ...]] = {
    "clip-norm": ("clip-norm",),
    "ema": ("ema", "ema-buffers"),
    "grad-scaler": ("grad-scaler",),
    "zero-grad": ("zero-grad", "zero-grad-foreach"),
}
"""What a person asks for, and the operations that it is made of, one of them or all."""


def timed_functions(names: Iterable[str], *, on_gpu: bool) -> tuple[str, ...]:
    """The optimizers and operations that have to be timed for what `names` ask.

    Raises LatteError (exit code 2), with a near match, for an unknown name, and for what means nothing on that device.
    """
    functions: dict[str, None] = {}
    for name in names:
        if name not in ASKED and name not in OPTIMIZERS:
            raise unknown("optimizer or operation", name, (*OPTIMIZERS, *ASKED))
        if name == "grad-scaler" and not on_gpu:
            hint = "it is for float16 on GPUs; leave it out"
            raise LatteError("`grad-scaler` means nothing on a CPU", hint=hint, exit_code=ExitCode.USAGE)
        if name != "none":
            functions |= dict.fromkeys(ASKED.get(name) or (measured_name(name, on_gpu=on_gpu),))
    return tuple(functions)


def asked_name(function: str) -> str:
    """The name that a person asks for an optimizer, or an operation, by."""
    return next((name for name, functions in ASKED.items() if function in functions), function)
