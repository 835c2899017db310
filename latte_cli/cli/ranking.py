"""Which device trains a model best: what `latte estimate` and `latte compare` say of a training's length and cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latte_cli.cli import console
from latte_cli.cli.batches import Room
from latte_cli.cli.fits import Fits, occupancy_with
from latte_cli.errors import ExitCode, LatteError

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest
    from latte_cli.estimator import Estimate
    from latte_cli.prices import PriceList
    from latte_cli.schedule import Schedule
    from latte_cli.sides import Side


def prices_for(path: Path | None, schedule: "Schedule") -> "PriceList | None":
    """The prices in a file; raises LatteError as `read_prices` does, and (exit code 2) without a training to price."""
    if path is None:
        return None
    if not (schedule.samples or schedule.local_steps):
        message = "`--prices` means nothing without the length of a training"
        raise LatteError(message, hint="add `--samples 1.2M --epochs 90`", exit_code=ExitCode.USAGE)
    from latte_cli.prices import read_prices

    return read_prices(path)


def ranked_sides(
    request: "EstimateRequest", estimates: "Sequence[Estimate]", body: dict[str, Any], prices: "PriceList | None"
) -> "list[Side]":
    """The estimates of a request in the document `body`, the shortest training that fits first."""
    told = estimates if not request.compiled and request.gpus is None else ()
    fits = [fits_within(request.fits, one, request.mmap_threshold) for one in told]
    return sides_in_order(body, fits, request.schedule, prices, file=str(request.model))


def sides_in_order(
    body: dict[str, Any], fits: Sequence[Fits], schedule: "Schedule", prices: "PriceList | None", *, file: str
) -> "list[Side]":
    """The estimates in the document `body`, with whether each `fits` where that is known, in the order of `rank`."""
    from latte_cli.sides import rank, sides_of

    document = body | {"estimates": [dict(entry) for entry in body["estimates"]]}
    for one, entry in zip(fits, document["estimates"], strict=False):
        one.add_to({"estimates": [entry]})
    return rank(sides_of(document, schedule, prices, file=file))


def fits_within(room: Room | None, estimate: "Estimate", map_from: int | None = None) -> Fits:
    """Whether a step fits a room, by default its device's memory; no answer where the profile does not tell that."""
    if room is None and estimate.device.memory_bytes is None:
        return Fits([])
    return Fits([(estimate, occupancy_with(estimate, map_from), (room or Room()).on(estimate.device))])


def say_unpriced(sides: "Sequence[Side]", prices: "PriceList | None") -> None:
    """Name the devices whose cost is not known, and what to state for it."""
    if prices is None:
        return
    for device in dict.fromkeys(side.device for side in sides if side.training and side.training.cost is None):
        price = prices.price_of(device)
        if price.per_hour is None and price.per_kwh is None:
            console.warn(f"{prices.where} states no price of `{device}`; add its `per_hour` or `per_kwh`")
        else:
            console.warn(f"the energy of `{device}` was not measured, nor its cost; add its `power` to {prices.where}")
