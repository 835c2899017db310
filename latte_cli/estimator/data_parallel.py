"""Data parallelism: the step of several GPUs in one machine, each with its own batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator.buckets import Bucket, bucket_bytes, gradient_buckets, gradient_order
from latte_cli.estimator.clocks import schedule_calls
from latte_cli.estimator.links import Link
from latte_cli.estimator.records import Estimate
from latte_cli.estimator.steps import ACCUMULATION, UPDATE
from latte_cli.layers import Concat, Copy, Elementwise, Phase, Reduce, View
from latte_cli.network import Network

_FUNCTIONS = (Concat, Copy, Elementwise, Reduce, View)

DDP, DP = "ddp", "dp"
"""PyTorch's DistributedDataParallel, a process for each GPU, and its DataParallel, one process for all."""

REPLICA_S = 103e-6  # fitted: `benchmarks/several_gpus.py`, hosts of 2019 and 2020
"""Seconds of Python for each module of each replica in a step of DataParallel: it is copied and called."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One all-reduce of a bucket, in seconds since backward began: ready, begun and ended."""

    bucket: Bucket
    ready_s: float
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class ScaledStep:
    """A step of `gpus` GPUs, each with the batch of the `alone_s` step of one; times in seconds.

    `communication_s` is all that travels, `exposed_s` what of it the step waits for. `copies_s` is the time on the
    device to put gradients into buckets and back, `host_s` what Python spends on replicas. `memory_bytes` is the peak
    of each GPU; None where it is not known.
    """

    mode: str
    gpus: int
    alone_s: float
    samples: int
    communication_s: float
    exposed_s: float
    copies_s: float = 0.0
    host_s: float = 0.0
    memory_bytes: int | None = None
    messages: tuple[Message, ...] = ()

    @property
    def step_s(self) -> float:
        """The step of all GPUs."""
        return self.alone_s + self.exposed_s + self.copies_s + self.host_s

    @property
    def efficiency(self) -> float:
        """The share of `gpus` times one GPU's throughput that they reach together."""
        return self.alone_s / self.step_s if self.step_s else 1.0

    @property
    def samples_per_s(self) -> float:
        """The throughput of all GPUs."""
        return self.samples / self.step_s if self.step_s else 0.0


def scale(estimate: Estimate, gpus: Sequence[int], link: Link, mode: str = DDP) -> tuple[ScaledStep, ...]:
    """The step of `estimate` on each number of `gpus` of its device, joined by `link`.

    Raises LatteError (exit code 2) for a kind of device that a machine has only once.
    """
    if not estimate.device.kind.indexed:
        raise LatteError(
            f"`{estimate.device.slug}` is no GPU: a machine has one {estimate.device.kind.title}",
            hint="`--device` names a GPU's profile (`latte store devices`)",
            exit_code=ExitCode.USAGE,
        )
    step = _MODES[mode]
    return tuple(step(estimate, count, link) for count in gpus)


def _alone(estimate: Estimate, mode: str) -> ScaledStep:
    return ScaledStep(
        mode=mode,
        gpus=1,
        alone_s=estimate.step_s,
        samples=estimate.samples_per_step,
        communication_s=0.0,
        exposed_s=0.0,
        memory_bytes=estimate.memory_bytes,
    )


def distributed_step(estimate: Estimate, gpus: int, link: Link) -> ScaledStep:
    """The step with DistributedDataParallel: buckets are added up while backward goes on.

    One stream sends them in their order, each once its last gradient is there; the update waits for all. Of several
    accumulated passes the last one alone sends (`no_sync`). Buffers are sent before the first pass, which waits for
    them. The gradients are copied into their bucket and back, at the bandwidth that was measured of the device; without
    a measured one that is left out. The buckets are memory beside the gradients, since torch keeps both unless
    `gradient_as_bucket_view` is set; a step that is `replicated` has counted them.
    """
    alone = _alone(estimate, DDP)
    if gpus == 1:
        return alone
    each = estimate.settings.precision.arithmetic.weight_bytes
    buckets = gradient_buckets(estimate.network, each)
    copy_bytes_per_s = estimate.device.bandwidth_bytes_per_s
    # A copy reads and writes each byte.
    copies_s = [2 * one.size_bytes / copy_bytes_per_s if copy_bytes_per_s else 0.0 for one in buckets]
    ready_s, backward_s = _gradient_times(estimate)
    messages = tuple(_messages(buckets, ready_s, copies_s, lambda size: link.all_reduce_s(size, gpus)))
    over_s = backward_s + sum(copies_s)
    sent_s = messages[-1].end_s if messages else 0.0
    buffers = estimate.network.buffer_bytes
    buffers_s = link.broadcast_s(buffers, gpus) if buffers else 0.0
    return replace(
        alone,
        gpus=gpus,
        samples=gpus * alone.samples,
        communication_s=buffers_s + sum(message.end_s - message.start_s for message in messages),
        exposed_s=buffers_s + max(0.0, sent_s - over_s),
        copies_s=2 * sum(copies_s),
        memory_bytes=estimate.memory_bytes + (0 if estimate.step.replicated else bucket_bytes(estimate.network, each)),
        messages=messages,
    )


def _gradient_times(estimate: Estimate) -> tuple[Mapping[str, float], float]:
    """When the gradient of each parameter is whole, in seconds since the last pass's backward began; and its end."""
    at_once = estimate.step.cuda_graph or not estimate.device.kind.queued
    calls = [replace(part, count=1) for part in estimate.parts if part.name not in (UPDATE, ACCUMULATION)]
    began_s = ended_s = 0.0
    ends: dict[str, float] = {}
    for call in schedule_calls(calls, asked_at_once=at_once):
        if call.call.phase is Phase.FORWARD:
            began_s = call.end_s
        else:
            ends[call.call.name] = call.end_s - began_s
            ended_s = call.end_s - began_s
    by_node: dict[str, float] = {}
    latest_s = 0.0
    for node in reversed(estimate.network.nodes):  # a node without a price is done with the one before it
        latest_s = by_node[node.name] = max(latest_s, ends.get(node.name, 0.0))
    whole = {each.name: by_node[each.node.name] for each in gradient_order(estimate.network)}
    return whole, ended_s


def _messages(
    buckets: Sequence[Bucket],
    ready_s: Mapping[str, float],
    copies_s: Sequence[float],
    all_reduce_s: Callable[[int], float],
) -> Iterator[Message]:
    """The all-reduce of each bucket; what is copied before its gradients are there delays it too."""
    copied_s = free_s = 0.0
    for bucket, copy_s in zip(buckets, copies_s, strict=True):
        copied_s += copy_s
        ready = max(ready_s[name] for name in bucket.parameters) + copied_s
        start_s = max(ready, free_s)
        free_s = start_s + all_reduce_s(bucket.size_bytes)
        yield Message(bucket=bucket, ready_s=ready, start_s=start_s, end_s=free_s)


def threaded_step(estimate: Estimate, gpus: int, link: Link) -> ScaledStep:
    """The step with DataParallel: one process copies the module to each GPU, and adds up the gradients afterwards.

    Python makes a replica of each module for every GPU and calls it, one thread at a time
    (torch/nn/parallel/replicate.py, parallel_apply.py), which `REPLICA_S` prices for each leaf. Parameters are sent
    before forward. Gradients are added up on the first GPU after backward, since one autograd function broadcast all
    parameters, so nothing of it overlaps. The batch of each GPU is that of the estimate; the whole is `gpus` times as
    large. Every accumulated pass does all of it.
    """
    alone = _alone(estimate, DP)
    if gpus == 1:
        return alone
    passes, network = estimate.step.accumulate, estimate.network
    each = estimate.settings.precision.arithmetic.weight_bytes
    moved_s = replicas_moved_s(
        link, gpus, each * network.parameters + network.buffer_bytes, each * network.trained_parameters
    )
    host_s = replicas_host_s(gpus, leaf_modules(network))
    return replace(
        alone,
        gpus=gpus,
        samples=gpus * alone.samples,
        communication_s=passes * moved_s,
        exposed_s=passes * moved_s,
        host_s=passes * host_s,
        memory_bytes=None,
    )


def replicas_moved_s(link: Link, gpus: int, sent_bytes: int, gradient_bytes: int) -> float:
    """Seconds to send a module's bytes to all of `gpus` GPUs, and to add up their gradients on the first one."""
    return link.broadcast_s(sent_bytes, gpus) + link.broadcast_s(gradient_bytes, gpus)


def replicas_host_s(gpus: int, modules: int, replica_s: float = REPLICA_S) -> float:
    """Seconds of Python for `gpus` replicas of so many leaf `modules`."""
    return gpus * modules * replica_s


def leaf_modules(network: Network) -> int:
    """How many modules without children compute the nodes of `network`, as far as their names tell.

    Sums, parts, copies, views and means are functions as a rule. A module that is called again gives its own name to a
    node, with another word behind it.
    """
    kinds = {node.name: node.layer.kind for node in network.nodes if not isinstance(node.layer, _FUNCTIONS)}
    return sum(kinds.get(name.rpartition(".")[0]) != kind for name, kind in kinds.items())


_MODES: Mapping[str, Callable[[Estimate, int, Link], ScaledStep]] = {DDP: distributed_step, DP: threaded_step}
MODES = tuple(_MODES)
"""How several GPUs may train together."""
