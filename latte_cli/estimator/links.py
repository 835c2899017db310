"""Links: how fast the GPUs of one machine exchange data, and what collective operations take over them."""

from dataclasses import dataclass

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


def parse_link(text: str) -> Link:
    """The link in `25GB/s`, or `25GB/s,10us` with its latency; raises LatteError (exit code 2) for what is none."""
    bandwidth, comma, latency = text.partition(",")
    return Link(
        bandwidth_bytes_per_s=transfer_bytes_per_s(bandwidth.strip()),
        latency_s=duration_s(latency.strip(), f"{bandwidth},") if comma else 0.0,
    )
