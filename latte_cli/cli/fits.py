"""Whether estimated steps fit a limit, for people, JSON and exit codes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latte_cli.cli import console
from latte_cli.cli.batches import Room
from latte_cli.errors import ExitCode, LatteError
from latte_cli.report import Format, size
from latte_cli.thresholds import FITS, ThresholdCheck

if TYPE_CHECKING:
    from latte_cli.estimator import Estimate, Occupancy

_SMALLER = "`--batch-size max:SIZE` finds the largest batch that fits; `--effective-batch N` makes up for a small one"


class Fits:
    """Steps with the memory of their processes, and its limits."""

    def __init__(self, found: "Sequence[tuple[Estimate, Occupancy, int]]") -> None:
        self.found = found

    @classmethod
    def of(cls, room: Room | None, estimates: "Sequence[Estimate]", map_from: int | None) -> "Fits":
        """Each estimate in a room; nothing without one. `map_from` is that of `occupancy_of`."""
        if room is None:
            return cls([])
        return cls([(each, occupancy_with(each, map_from), room.on(each.device)) for each in estimates])

    def add_to(self, document: dict[str, Any]) -> None:
        """Add to each estimate of the document what it takes, and whether that fits."""
        from latte_cli.report import occupancies

        for entry, (_, found, limit) in zip(document["estimates"], self.found, strict=False):
            entry["fits"] = occupancies.occupancy_entry(found, limit)

    def write(self, form: Format) -> None:
        """Write, below what is written of the steps, whether each fits and what it takes."""
        from latte_cli.report.occupancies import write_occupancy

        for each in self.found:
            write_occupancy(*each, form)

    @property
    def checks(self) -> list[ThresholdCheck]:
        """Each answer as a check, which a step that may fit passes."""
        return [
            ThresholdCheck(
                device=each.device.slug, strategy=each.strategy, quantity=FITS, value=found.low_bytes, most=limit
            )
            for each, found, limit in self.found
        ]

    def say(self) -> None:
        """Say on stderr whether each fits, where stdout does not have it."""
        for each, found, limit in self.found:
            took = f"at least {size(found.low_bytes)} and at most {size(found.high_bytes)}"
            where = f"(`{each.strategy}` on `{each.device.slug}`)"
            console.note(f"fits {size(limit)}: {found.fits(limit)}, it takes {took} {where}")

    def enforce(self) -> None:
        """Raise LatteError (exit code 3) where no step fits, or may fit."""
        from latte_cli.estimator.occupancy import Verdict

        if self.found and all(found.fits(limit) is Verdict.NO for _, found, limit in self.found):
            raise no_fit(*self.found[0])


def occupancy_with(estimate: "Estimate", map_from: int | None) -> "Occupancy":
    """`occupancy_of`; raises LatteError (exit code 2) for glibc's threshold beside a GPU, whose allocator has none."""
    from latte_cli.estimator import occupancy_of

    if map_from is not None and estimate.device.kind.own_memory:
        message = f"`--mmap-threshold` is for the memory of a CPU, and `{estimate.device.slug}` is a GPU"
        raise LatteError(message, hint="leave out `--mmap-threshold`", exit_code=ExitCode.USAGE)
    return occupancy_of(estimate, map_from=map_from)


def no_fit(estimate: "Estimate", found: "Occupancy", limit_bytes: int, *, hint: str = _SMALLER) -> LatteError:
    """The error for a step that takes, or may take, more than there is."""
    network = estimate.network
    surely = found.low_bytes > limit_bytes
    takes = f"takes at least {size(found.low_bytes)}" if surely else f"may take {size(found.high_bytes)}"
    trained = f"a process that trains `{network.name}` at batch {network.batch_size}"
    message = f"{trained} {takes}, more than {size(limit_bytes)}"
    return LatteError(message, hint=hint, exit_code=ExitCode.EXCEEDED)
