"""What training costs: prices of devices by the hour and of energy by the kilowatt-hour, as their user states them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

from latte_cli.errors import LatteError
from latte_cli.fleet import Fields, file_content, mapping, parse_yaml, text
from latte_cli.profiles import slugs_like
from latte_cli.quantities import power_w

_EXAMPLE = "as in `devices: {h200: {per_hour: 3.5}, desktop: {per_kwh: 0.3, power: 120W}}`"
_MOST_PRICE = 1e9  # chosen: more than any machine costs
_HOUR_S, _KWH_J = 3600.0, 3.6e6  # seconds of an hour, joules of a kilowatt-hour


@dataclass(frozen=True, kw_only=True)
class DevicePrice:
    """What a device costs per hour and per kilowatt-hour, and the power that it draws while it trains.

    None means that nobody states it.
    """

    per_hour: float | None = None
    per_kwh: float | None = None
    power_w: float | None = None

    def cost(self, time_s: float, energy_j: float | None) -> float | None:
        """What so much time and energy cost; None where no price is stated, or energy has one and is not known."""
        if self.per_hour is None and self.per_kwh is None:
            return None
        if self.per_kwh and energy_j is None:
            return None
        return time_s / _HOUR_S * (self.per_hour or 0.0) + (energy_j or 0.0) / _KWH_J * (self.per_kwh or 0.0)


UNPRICED = DevicePrice()


@dataclass(frozen=True, kw_only=True)
class PriceList:
    """The prices of devices by name, in one currency, and the file that states them."""

    where: str
    currency: str
    devices: Mapping[str, DevicePrice]

    def price_of(self, slug: str) -> DevicePrice:
        """The price of the device called `slug`; UNPRICED where no name of the list means it.

        Raises LatteError where two names mean it.
        """
        if slug in self.devices:
            return self.devices[slug]
        names = [name for name in self.devices if slugs_like([slug], name)]
        if len(names) > 1:
            message = f"{self.where}: `{names[0]}` and `{names[1]}` both mean `{slug}`"
            raise LatteError(message, hint="write the whole name of the device, as `latte store devices` shows it")
        return self.devices[names[0]] if names else UNPRICED


def read_prices(path: Path) -> PriceList:
    """The prices in the YAML file at `path`; raises LatteError naming file, device and field of what is wrong."""
    where = f"`{path}`"
    content = file_content(path, what="prices", example=_EXAMPLE)
    fields = Fields(parse_yaml(content, where, what="prices", example=_EXAMPLE), where, _EXAMPLE)
    fields.check_names(("currency", "devices"))
    entries = fields.require("devices", mapping)
    found = {name: _device_price(name, entry, where) for name, entry in entries.items()}
    return PriceList(where=where, currency=fields.optional("currency", text) or "", devices=found)


def _device_price(name: str, entry: object, where: str) -> DevicePrice:
    if not isinstance(entry, dict) or not entry:
        raise LatteError(f"{where}: `{text(name)}` states no price", hint=_EXAMPLE)
    fields = Fields(entry, f"{where}, device `{text(name)}`", _EXAMPLE)
    fields.check_names(("per_hour", "per_kwh", "power"))
    return DevicePrice(
        per_hour=fields.optional("per_hour", _amount),
        per_kwh=fields.optional("per_kwh", _amount),
        power_w=fields.optional("power", power_w),
    )


def _amount(value: str) -> float:
    """An amount of money: a plain number, 0 or more."""
    try:
        amount = float(value) if value.isascii() else inf
    except ValueError:
        amount = inf
    if not 0 <= amount <= _MOST_PRICE:
        shown = " ".join(value.split())[:40]
        raise LatteError(f"`{shown}` is not an amount", hint="a plain number, 0 or more, as in `3.5`")
    return amount
