"""Links: how fast the GPUs of one machine exchange data, and what collective operations take over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

from latte_cli.quantities import duration_s, transfer_bytes_per_s


@dataclass(frozen=True, kw_only=True)
class Link:
    """What each GPU sends to its neighbour in a ring, in bytes per second, and the seconds that one message waits.

    The bandwidth is what nccl-tests prints as `busbw`. Times are those of the ring algorithm (Patarasuk and Yuan 2009;
    nccl-tests, doc/PERFORMANCE.md): each of its steps sends one of `gpus` parts and pays the latency.
    """

    bandwidth_bytes_per_s: float
    latency_s: float = 0.0

    def all_reduce_s(self, size_bytes: int, gpus: int) -> float:
        """Seconds until `gpus` GPUs have the sum of what each holds: n - 1 steps to add parts, n - 1 to send sums."""
        steps = 2 * (gpus - 1)
        return steps * (size_bytes / gpus / self.bandwidth_bytes_per_s + self.latency_s)

    def broadcast_s(self, size_bytes: int, gpus: int) -> float:
        """Seconds until all of `gpus` GPUs have what one holds, passed on along the ring while it arrives."""
        return size_bytes / self.bandwidth_bytes_per_s + (gpus - 1) * self.latency_s if gpus > 1 else 0.0

    def __str__(self) -> str:
        rate, latency = _decimal(self.bandwidth_bytes_per_s / 1e9), _decimal(1e6 * self.latency_s)
        return f"{rate}GB/s,{latency}us" if latency != "0" else f"{rate}GB/s"


def _decimal(number: float) -> str:
    """Four significant digits, as `parse_link` reads them."""
    places = max(0, 3 - floor(log10(number))) if number > 0 else 0
    text = f"{number:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def fit_link(exchanges: Sequence[tuple[int, float]], gpus: int) -> Link:
    """The link whose all-reduces among `gpus` are nearest to those measured, as (bytes, seconds), by relative squares.

    The latency is at least 0. Raises ValueError for times that do not grow with the bytes.
    """
    # t = a + b · bytes, each equation divided by t: weights of 1 / t²
    weights = [1 / time_s**2 for _, time_s in exchanges]
    total = sum(weights)
    mean_bytes = sum(w * size for w, (size, _) in zip(weights, exchanges, strict=True)) / total
    mean_s = sum(w * time_s for w, (_, time_s) in zip(weights, exchanges, strict=True)) / total
    pairs = [(w, size - mean_bytes, time_s - mean_s) for w, (size, time_s) in zip(weights, exchanges, strict=True)]
    spread = sum(w * size**2 for w, size, _ in pairs)
    slope = sum(w * size * time_s for w, size, time_s in pairs) / spread if spread else 0.0
    start_s = mean_s - slope * mean_bytes
    if start_s < 0:  # then a line through the origin
        start_s = 0.0
        slope = sum(w * size * time_s for w, (size, time_s) in zip(weights, exchanges, strict=True)) / sum(
            w * size**2 for w, (size, _) in zip(weights, exchanges, strict=True)
        )
    if slope <= 0:
        raise ValueError("larger messages took no longer")
    steps = 2 * (gpus - 1)
    return Link(bandwidth_bytes_per_s=steps / gpus / slope, latency_s=start_s / steps)


def parse_link(text: str) -> Link:
    """The link in `25GB/s`, or `25GB/s,10us` with its latency; raises LatteError (exit code 2) for other text."""
    bandwidth, comma, latency = text.partition(",")
    return Link(
        bandwidth_bytes_per_s=transfer_bytes_per_s(bandwidth.strip()),
        latency_s=duration_s(latency.strip(), f"{bandwidth},") if comma else 0.0,
    )
