"""Quantities as people write them: `30s`, `5Mbit`, `2GiB` become seconds, bits per second and bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from latte_cli.errors import ExitCode, LatteError

_NUMBER_AND_UNIT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) *([A-Za-z/]*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    what: str
    units: Mapping[str, float]
    most: float
    hint: str


_DURATION = _Kind(
    what="duration",
    units={"": 1.0, "s": 1.0, "ms": 1e-3, "m": 60.0, "min": 60.0, "h": 3600.0},
    most=366 * 86400.0,
    hint="a number and a unit, as in `500ms`, `30s`, `2m` or `1h`, of at most a year",
)
_BANDWIDTH = _Kind(
    what="bandwidth",
    units={
        prefix + unit: factor
        for prefix, factor in (("", 1.0), ("k", 1e3), ("m", 1e6), ("g", 1e9))
        for unit in ("bit", "bit/s", "bps")
    }
    | {"": 1.0},
    most=1e15,
    hint="bits per second: a plain number, or `250kbit`, `5Mbit`, `1Gbit`",
)
_SIZE = _Kind(
    what="size",
    units={
        "": 1.0,
        "b": 1.0,
        "kb": 1e3,
        "mb": 1e6,
        "gb": 1e9,
        "tb": 1e12,
        "kib": 2.0**10,
        "mib": 2.0**20,
        "gib": 2.0**30,
        "tib": 2.0**40,
    },
    most=2.0**60,
    hint="bytes: a plain number, or `512MiB`, `2GiB`, `2GB`",
)


def duration_s(text: str | float) -> float:
    """Seconds in `30s`, `2m`, `1h`, `500ms` or a plain number of seconds.

    Like its siblings it takes only what is over 0 and raises LatteError (exit code 2) for the rest.
    """
    return _quantity(_DURATION, text)


def bandwidth_bit_per_s(text: str | float) -> float:
    """Bits per second in `5Mbit`, `20 kbit/s`, `1Gbps` or a plain number; prefixes are decimal."""
    return _quantity(_BANDWIDTH, text)


def size_bytes(text: str | float) -> int:
    """Bytes in `2GiB`, `512 MB` or a plain number, rounded up to whole ones."""
    return ceil(_quantity(_SIZE, text))


def _quantity(kind: _Kind, text: str | float) -> float:
    match = _NUMBER_AND_UNIT.fullmatch(str(text).strip())
    factor = kind.units.get(match[2].lower()) if match else None
    value = float(match[1]) * factor if match and factor else 0.0
    if not 0 < value <= kind.most:
        shown = " ".join(str(text).split())[:40]
        raise LatteError(f"`{shown}` is not a {kind.what}", hint=kind.hint, exit_code=ExitCode.USAGE)
    return value
