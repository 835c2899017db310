"""`latte estimate` of several GPUs of one machine."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from latte_cli.cli.options import parse_counts
from latte_cli.errors import ExitCode, LatteError, unknown

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest
    from latte_cli.estimator import Estimate
    from latte_cli.estimator.data_parallel import ScaledStep


def several_gpus(request: "EstimateRequest") -> "Callable[[Estimate], tuple[ScaledStep, ...]] | None":
    """What prices the steps of several GPUs, None without `--gpus`; raises LatteError for bad options."""
    from latte_cli.estimator.data_parallel import MODES, scale
    from latte_cli.estimator.links import parse_link

    if request.data_parallel not in MODES:
        raise unknown("mode of data parallelism", request.data_parallel, MODES)
    if request.gpus is None:
        return None
    if request.link is None:
        raise LatteError(
            "`--gpus` needs the rate between the GPUs",
            hint="`--link 25GB/s`; it is the `busbw` of nccl-tests' all_reduce_perf",
            exit_code=ExitCode.USAGE,
        )
    counts, link = parse_counts(request.gpus, "GPUs"), parse_link(request.link)
    limited = request.memory_limit or any(each.quantity == "memory" for each in request.fail_above or ())
    if limited and not request.replicated and counts != (1,):
        message = "the memory of DataParallel is not known: its first GPU also gathers outputs and gradients"
        raise LatteError(message, hint="`--data-parallel ddp`, or leave the limit out", exit_code=ExitCode.USAGE)
    return lambda estimate: scale(estimate, counts, link, request.data_parallel)
