"""Limits: the workspace that each call of a step may take, so that the step fits the memory."""

from collections.abc import Mapping, Sequence

from latte_cli.devices import Kind
from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator.candidates import KnownTimings
from latte_cli.estimator.memory import CallPosition, moment_of
from latte_cli.estimator.predictions import Predictions
from latte_cli.estimator.steps import LOSS, Work
from latte_cli.layers import Convolution, Phase
from latte_cli.lookup import workspace_bytes
from latte_cli.network import Network
from latte_cli.precisions import Precision
from latte_cli.strategies import Limits


class DoesNotFit(LatteError):
    """A step that needs more memory than the limit, whatever algorithms are taken; `least_bytes` is what it needs.

    `checkpointed` says that this is so whatever regions are checkpointed.
    """

    def __init__(self, network: Network, least_bytes: int, limit_bytes: int, *, checkpointed: bool = False) -> None:
        least, limit = _apart(least_bytes, limit_bytes)
        super().__init__(
            f"a step of `{network.name}` at batch {network.batch_size} needs at least {least} of memory, "
            f"{'whatever is checkpointed, ' * checkpointed}more than the limit of {limit}",
            hint="a smaller `--batch-size` or a sub-model (`latte allocate`) needs less; `--accumulate` makes up for a "
            "small batch",
            exit_code=ExitCode.EXCEEDED,
        )
        self.least_bytes = least_bytes


def _apart(*sizes: int) -> list[str]:
    """Sizes in the largest unit in which none is 0 and no two read alike."""
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        texts = [f"{each / unit:,.2f} {name}" for each in sizes]
        if min(sizes) >= 0.01 * unit and len({*texts}) == len({*sizes}):
            return texts
    return [f"{each:,} B" for each in sizes]


def workspace_limits(works: Sequence[Work], live_bytes: Mapping[CallPosition, int], limits: Limits) -> list[int | None]:
    """The workspace that each call may take: what one call may, and what `live_bytes` leave free at that point."""
    if limits.memory_bytes is None:
        return [limits.workspace_bytes] * len(works)
    most = limits.memory_bytes
    cap = most if limits.workspace_bytes is None else limits.workspace_bytes
    return [min(cap, most - live_bytes.get((work.name, moment_of(work.phase)), 0)) for work in works]


def own_workspaces(works: Sequence[Work], kind: Kind, precision: Precision) -> dict[CallPosition, int]:
    """The workspaces that layers know of themselves, in bytes; on a GPU its library knows them."""
    element_bytes = 0 if kind.queued else precision.element_bytes
    return {(work.name, work.phase): element_bytes * work.layer.workspace_numbers(work.phase) for work in works}


def least_workspaces(works: Sequence[Work], known: KnownTimings, predictions: Predictions) -> dict[CallPosition, int]:
    """The workspace of each call with the algorithm that needs the least, where it is known."""
    works = [work for work in works if work.name != LOSS and work.phase is not Phase.UPDATE]
    least = {
        (work.name, work.phase): min(map(workspace_bytes, timings))
        for work in works
        if (timings := known.timings.get(work.pair))
    }
    others = [work for work in works if work.pair not in known.timings and isinstance(work.layer, Convolution)]
    preferences = predictions.preferences([work.pair for work in others]) if others else None
    if preferences is None:
        return least
    return least | {
        (work.name, work.phase): min(preferences[work.pair].workspaces().values(), default=0) for work in others
    }
