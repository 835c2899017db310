"""Virtual devices: which class of a fleet file a node of a simulation represents."""

from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any

from latte_cli.errors import LatteError
from latte_cli.federated.settings import FederationSettings
from latte_cli.fleet import Fleet, FleetClass, read_fleet


@lru_cache(maxsize=4)
def fleet_of(settings: FederationSettings) -> Fleet | None:
    """The fleet that the settings name, which is read once; None where they name none.

    Raises LatteError for a file that cannot be read, and for classes that train otherwise than the run does.
    """
    if not settings.fleet:
        return None
    fleet = read_fleet(settings.fleet)
    for each in fleet.classes:
        _check_class(each, settings)
    return fleet


def class_of(node: Mapping[str, Any], settings: FederationSettings) -> FleetClass | None:
    """The class of a node; None where the settings name no fleet.

    The nodes with the smallest `partition-id` are of the first class of the file, as many as its `count`, the next
    ones of the second. Raises LatteError where the federation has more or fewer nodes than the fleet has devices.
    """
    fleet = fleet_of(settings)
    if fleet is None:
        return None
    ends = list(accumulate(each.count for each in fleet.classes))
    number, devices = (node.get(key) for key in ("partition-id", "num-partitions"))
    if devices != ends[-1]:
        raise LatteError(
            f"the fleet has {ends[-1]} devices, and the federation {devices}",
            hint=f"`num-supernodes` of a simulation, or `num-partitions` of each node, has to be {ends[-1]}",
        )
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < devices:
        raise LatteError(f"there is no device {number} of {devices}", hint="`partition-id` is under `num-partitions`")
    return fleet.classes[bisect_right(ends, number)]


def _check_class(each: FleetClass, settings: FederationSettings) -> None:
    """Raise LatteError where a class says how it trains, and the run says otherwise."""
    said = {
        "batch": (each.batch, settings.batch),
        "epochs": (settings.epochs if each.epochs == 1 else each.epochs, settings.epochs),  # 1 where it says nothing
        "optimizer": (each.optimizer or settings.optimizer, settings.optimizer),
    }
    for field, (own, wanted) in said.items():
        if own != wanted:
            raise LatteError(
                f"`{settings.fleet}`, class `{each.name}`: `{field}` is {own}, and that of the run {wanted}",
                hint="all devices of a federation train alike; change one of them",
            )
