"""The card of a time model: what it was made of, and what it needs beside its trees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from latte_cli.features import FEATURE_VERSION, FEATURES

SCHEMA = "latte.times/2"


@dataclass(frozen=True, kw_only=True)
class TimeModelCard:
    """What a model was made of, and what it needs beside its trees; JSON beside them.

    `rooflines` are (seconds a FLOP, seconds a byte, seconds a call) by kind and phase, also for one precision and
    layout; `counts` are the rows of each kind and phase, `quantiles` the 2.5, 10, 90 and 97.5 % quantiles of
    log(measured / predicted) on layers left out, and `alike` how far neighbours among them err together; `ranges` are
    the least and largest sizes, by kind and phase and the size's name; `functions` are those measured of each kind.
    `host_s` and `power_w` are medians by kind and phase: what the host needs for a call, and what the device takes.
    `offsets` are logarithms of this device's times over those that the model of `prior` predicts, by kind and phase;
    under "" that of all kinds, for those without rows. `prior_fingerprint` is of that device's rows.
    """

    device: str
    fingerprint: str
    rows: int
    rooflines: Mapping[str, Sequence[float]]
    algorithms: Sequence[str]
    quantiles: Mapping[str, Sequence[float]] = field(default_factory=dict)
    median_errors: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    alike: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    functions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    host_s: Mapping[str, float] = field(default_factory=dict)
    power_w: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    prior: str = ""
    prior_fingerprint: str = ""
    trees: Mapping[str, Sequence[str]] = field(default_factory=dict)
    features: Sequence[str] = FEATURES
    feature_version: int = FEATURE_VERSION
    schema: str = SCHEMA
