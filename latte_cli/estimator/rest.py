"""The rest of a step: what a training loop does beside the network, its loss and its update."""

from dataclasses import dataclass

from latte_cli.devices import Device
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.optimizers import update_rule
from latte_cli.precisions import Precision
from latte_cli.waits import Waits

ZERO_GRADS = ("none", "keep")
"""What a loop may do with the gradients of the step before: drop them, or keep them and fill them with zeros."""


@dataclass(frozen=True, kw_only=True)
class Rest:
    """What a step does beside its layers, its loss and its update, as torch has it.

    `clip_norm`: the gradients' norm is clipped. `ema`: a moving average of the model is kept and brought up to date.
    `grad_scaler`: the loss is scaled, and the gradients are unscaled and checked. `zero_grad` is one of ZERO_GRADS. A
    loop reads the loss back after every `log_every`th step, for which a GPU's host waits.
    """

    clip_norm: bool = False
    ema: bool = False
    grad_scaler: bool = False
    zero_grad: str = "none"
    log_every: int = 1

    def __post_init__(self) -> None:
        if self.zero_grad not in ZERO_GRADS:
            raise unknown("way to clear gradients", self.zero_grad, ZERO_GRADS)
        if self.log_every < 1:
            raise _refusal(f"a loss cannot be read every {self.log_every} steps", "`log_every` is at least 1")

    @property
    def keeps_gradients(self) -> bool:
        """Whether gradients stay allocated from step to step."""
        return self.zero_grad == "keep"

    def check(self, device: Device, precision: Precision, *, optimizer: str, cuda_graph: bool) -> None:
        """Raise LatteError (exit code 2) for what means nothing on `device` in that `precision`, or cannot run."""
        if optimizer == "none":
            for option, is_set in self._of_gradients.items():
                if is_set:
                    raise _refusal(f"`{option}` without an update", "leave it out, or name an `--optimizer`")
        if self.grad_scaler:
            _check_scaler(device, precision)
        if self.log_every > 1 and not device.kind.queued:
            message = f"`--log-every` changes nothing on `{device.slug}`, which computes each call before the next"
            raise _refusal(message, "leave out `--log-every`")
        if cuda_graph:
            self._check_graph(optimizer)

    def _check_graph(self, optimizer: str) -> None:
        """What reads numbers back in the middle of a step cannot be captured."""
        waits = update_rule(optimizer, on_gpu=True).waits is not Waits.NEVER
        held = ["--grad-scaler"] * self.grad_scaler + ["--ema"] * self.ema + [f"--optimizer {optimizer}"] * waits
        if held:
            raise _refusal(f"a CUDA graph cannot hold `{held[0]}`, for which the host waits", "leave one out")

    @property
    def _of_gradients(self) -> dict[str, bool]:
        return {
            "--clip-norm": self.clip_norm,
            "--ema": self.ema,
            "--grad-scaler": self.grad_scaler,
            "--zero-grad keep": self.keeps_gradients,
        }


def _check_scaler(device: Device, precision: Precision) -> None:
    if not device.kind.own_memory:
        raise _refusal(
            f"`--grad-scaler` is for float16 on GPUs, and `{device.slug}` is not a GPU", "leave out `--grad-scaler`"
        )
    arithmetic = precision.arithmetic
    if arithmetic.activations != "float16":
        raise _refusal(
            f"`--grad-scaler` means nothing in {precision}, whose gradients do not underflow",
            f"it is for `--precision {Precision.FP16_AUTOCAST}`",
        )
    if arithmetic.weights == "float16":
        raise _refusal(
            f"torch's GradScaler refuses gradients in float16, as {precision} has them",
            f"it is for `--precision {Precision.FP16_AUTOCAST}`",
        )


def _refusal(message: str, hint: str) -> LatteError:
    return LatteError(message, hint=hint, exit_code=ExitCode.USAGE)
