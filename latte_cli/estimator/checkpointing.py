"""Checkpointing: which regions of a step are checkpointed, by name or by what costs least."""

from collections.abc import Sequence

from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.estimator.estimator import Estimator
from latte_cli.estimator.limits import DoesNotFit
from latte_cli.estimator.records import Estimate
from latte_cli.estimator.steps import Step
from latte_cli.network import Network, submodules
from latte_cli.network.regions import Region
from latte_cli.strategies import Limits, Strategy

AUTO, NONE = "auto", "none"
"""The names for the regions that cost the least time, and for no regions."""

_SHOWN = 8  # chosen: a line or two


def named_regions(network: Network, names: str) -> tuple[Region, ...]:
    """The regions of `network` with these names, separated by commas; no regions for `none` and `auto`.

    Raises LatteError for a name that is not a region's.
    """
    if names in (AUTO, NONE):
        return ()
    known = {region.name: region for region in submodules.regions(network)}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            first = ", ".join([*known][:_SHOWN])
            raise unknown("region", name, known, hint=f"the first of {len(known)} are {first}" if first else None)
    return tuple(known[name] for name in dict.fromkeys(wanted))


def check_limited(checkpoint: str, limits: Sequence[Limits]) -> None:
    """Raise LatteError where regions are to be chosen for no limit of memory."""
    if checkpoint == AUTO and any(one.memory_bytes is None for one in limits):
        raise LatteError(
            "without a limit of memory nothing needs to be checkpointed",
            hint="`--memory-limit 8GiB` with `--checkpoint auto`",
            exit_code=ExitCode.USAGE,
        )


def estimates_with_checkpoints(
    estimator: Estimator,
    network: Network,
    step: Step,
    allow_unknown: bool = False,
    *,
    strategies: Sequence[Strategy],
    limits: Sequence[Limits],
) -> list[Estimate]:
    """The step under each strategy and limit, with the regions that cost least there.

    Of several limits, those that no regions can meet are left out. Raises as `Estimator.variants` does.
    """
    found: list[Estimate] = []
    refused: DoesNotFit | None = None
    for strategy in strategies:
        for one in limits:
            try:
                chosen = estimator.with_checkpoints(network, step, strategy, one, allow_unknown)
                found += estimator.variants(network, chosen, allow_unknown, strategies=(strategy,), limits=(one,))
            except DoesNotFit as exc:
                refused = exc
    if refused and not found:
        raise refused
    return found
