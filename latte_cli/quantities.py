"""Quantities as people write them: `30s`, `5Mbit`, `2GiB` become seconds, bits per second and bytes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from math import ceil, inf

from latte_cli.errors import ExitCode, LatteError

_NUMBER_AND_UNIT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) *([A-Za-z/]+)", re.ASCII)
_MOST_DIGITS = 20  # before and after the point of a number that is shown again


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A kind of quantity.

    `examples` stand in hints. `likely` says, for numbers below each limit, which units one without a unit has probably.
    `unclear` are units that people mean different things by, with those that they may mean.
    """

    what: str
    units: Mapping[str, float]
    most: float
    said: str
    examples: Sequence[str]
    likely: Sequence[tuple[float, Sequence[str]]]
    unclear: Mapping[str, Sequence[str]] = field(default_factory=dict)


_DURATION = _Kind(
    what="duration",
    units={"s": 1.0, "ms": 1e-3, "us": 1e-6, "m": 60.0, "min": 60.0, "h": 3600.0},
    most=366 * 86400.0,
    said="a number over 0 and a unit, at most a year",
    examples=("500ms", "30s", "2m", "1h"),
    likely=((inf, ("ms", "s")),),
)
_BANDWIDTH = _Kind(
    what="bandwidth",
    units={
        prefix + unit: factor
        for prefix, factor in (("", 1.0), ("k", 1e3), ("m", 1e6), ("g", 1e9))
        for unit in ("bit", "bit/s", "bps")
    },
    most=1e15,
    said="a number over 0 and a unit of bits per second",
    examples=("250kbit", "5Mbit", "1Gbit"),
    likely=((1e4, ("kbit", "Mbit")), (inf, ("bit",))),
)
_SIZE = _Kind(
    what="size",
    units={
        "b": 1.0,
        "kb": 1e3,
        "mb": 1e6,
        "gb": 1e9,
        "tb": 1e12,
        "kib": 2.0**10,
        "mib": 2.0**20,
        "gib": 2.0**30,
        "tib": 2.0**40,
        "ki": 2.0**10,
        "mi": 2.0**20,
        "gi": 2.0**30,
        "ti": 2.0**40,
    },
    most=2.0**60,
    said="a number over 0 and a unit of bytes",
    examples=("512MiB", "2GiB", "2GB"),
    likely=((1e4, ("MiB", "GiB")), (inf, ("B",))),
    unclear={letter.lower(): (f"{letter}iB", f"{letter}B") for letter in "KMGT"},
)

_POWER = _Kind(
    what="power",
    units={"w": 1.0, "kw": 1e3},
    most=1e6,
    said="a number over 0 and a unit of watts",
    examples=("65W", "700W", "1.2kW"),
    likely=((inf, ("W",)),),
)

_TRANSFER_RATE = _Kind(
    what="transfer rate",
    units={
        **{f"{unit}/s": factor for unit, factor in _SIZE.units.items() if unit.endswith("b")},
        **{unit: factor / 8 for unit, factor in _BANDWIDTH.units.items() if unit.endswith("bit/s")},
    },
    most=1e15,
    said="a number over 0 and a unit of bytes or bits per second",
    examples=("25GB/s", "900MB/s", "100Gbit/s"),
    likely=((1e4, ("GB/s", "Gbit/s")), (inf, ("B/s",))),
)


def duration_s(text: str | float, before: str = "") -> float:
    """Seconds in `30s`, `2m`, `1h`, `500ms` or `20us`.

    Like its siblings it takes only what is over 0 and has a unit, and raises LatteError (exit code 2) for the rest.
    `before` is what stands before the quantity; it is repeated in hints, so that they can be typed as they are.
    """
    return _quantity(_DURATION, text, before)


def duration_or_zero_s(text: str | float) -> float:
    """Seconds in `2s`; 0 is taken too, and needs no unit."""
    return 0.0 if _bare(text) == 0 or _value(_DURATION, text) == 0 else duration_s(text)


def bandwidth_bit_per_s(text: str | float, before: str = "") -> float:
    """Bits per second in `5Mbit`, `20 kbit/s` or `1Gbps`; prefixes are decimal."""
    return _quantity(_BANDWIDTH, text, before)


def transfer_bytes_per_s(text: str | float, before: str = "") -> float:
    """Bytes per second in `25GB/s`, `3.5 GiB/s` or `100Gbit/s`."""
    return _quantity(_TRANSFER_RATE, text, before)


def size_bytes(text: str | float, before: str = "") -> int:
    """Bytes in `2GiB` or `512 MB`, rounded up to whole ones."""
    return ceil(_quantity(_SIZE, text, before))


def power_w(text: str | float) -> float:
    """Watts in `700W` or `1.2kW`."""
    return _quantity(_POWER, text, "")


_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_COUNT = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,15}))? *([kKmMgGbB]?)", re.ASCII)


def whole_count(text: str) -> int:
    """The whole number of at least 1 in `50000`, `50k` or `1.2M`; raises LatteError (exit code 2) for anything else."""
    match = _COUNT.fullmatch(text.strip())
    if match:
        digits = match[2] or ""
        number, rest = divmod(int(match[1] + digits) * _MULTIPLES[match[3].lower()], int(10 ** len(digits)))
        if number and not rest and number <= _MOST_COUNT:
            return number
    shown = " ".join(text.split())[:40]
    hint = "at least 1, as in `50000`, `50k` or `1.2M`"
    raise LatteError(f"`{shown}` is not a whole number", hint=hint, exit_code=ExitCode.USAGE)


_MOST_COUNT = 10**15  # chosen: more samples than there are


def _quantity(kind: _Kind, text: str | float, before: str) -> float:
    value = _value(kind, text)
    if value is not None and 0 < value <= kind.most:
        return value
    shown = " ".join(str(text).split())[:40]
    meant = [f"`{before}{each}`" for each in _probable_texts(kind, text) or _clear_texts(kind, text)]
    if meant:
        why = ": the unit is missing" if _bare(text) is not None else ": its unit may mean two sizes"
        hint = f"did you mean {' or '.join(meant)}?"
    else:
        *others, last = (f"`{before}{each}`" for each in kind.examples)
        why, hint = "", f"{kind.said}, as in {', '.join(others)} or {last}"
    raise LatteError(f"`{shown}` is not a {kind.what}{why}", hint=hint, exit_code=ExitCode.USAGE)


def _value(kind: _Kind, text: str | float) -> float | None:
    """The number in `text` times its unit; None where there is none or no unit of this kind."""
    match = _NUMBER_AND_UNIT.fullmatch(str(text).strip())
    factor = kind.units.get(match[2].lower()) if match else None
    return float(match[1]) * factor if match and factor else None


def _bare(text: str | float) -> Decimal | None:
    """The number in a text that has no unit."""
    try:
        number = Decimal(str(text).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _probable_texts(kind: _Kind, text: str | float) -> list[str]:
    """A number without a unit, with each unit that it probably has."""
    number = _bare(text)
    if number is None or number <= 0 or not -_MOST_DIGITS < number.adjusted() < _MOST_DIGITS:
        return []
    units = next(units for below, units in kind.likely if number < below)
    written = f"{number.normalize():f}"
    found = (written + unit for unit in units)
    return [each for each in found if 0 < (_value(kind, each) or 0) <= kind.most]


def _clear_texts(kind: _Kind, text: str | float) -> list[str]:
    """A number with a unit that may mean several, with each of them."""
    match = _NUMBER_AND_UNIT.fullmatch(str(text).strip())
    found = [f"{match[1]}{unit}" for unit in kind.unclear.get(match[2].lower(), ())] if match else []
    return [each for each in found if 0 < (_value(kind, each) or 0) <= kind.most]
