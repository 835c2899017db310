"""Fits the parameters of `latte_cli.sheet_model` through the sums that were measured, for `datasheets.py`.

The maximum of the posterior: residuals of logarithms, priors of `terms.prior`, and for each machine a factor on its
device and one on its host, whose priors are Machine's spreads. Gauss-Newton with Huber's weights.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from datasheets_rows import Block, Call

from latte_cli.datasheets import sheet_named
from latte_cli.layers import Phase
from latte_cli.sheet_model import Machine, physics, terms
from latte_cli.sheet_model.figures import figures_of

SPREADS = {"step": 0.07, "pass": 0.12, "layer": 0.30, "host": 0.3}
"""Deviations of logarithms that the fit takes residuals for; a block of n layers weighs as MOST of them."""

MOST = {"neusight": 60, "deepbench": 60, "profile": 150, "passes": 40, "steps": 40}
HUBER = 2.0
COPY = (np.log(3e9), 0.5)  # bytes a second to the GPU from memory that is not pinned
SCRIPT = (0.25, 0.3)  # the host of the script of 2020, beside eight processes that load data
LUA = (-0.7, 0.5)  # the host of Lua Torch


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Blocks as arrays, for one set of names."""

    blocks: Sequence[Block]
    names: physics.Names
    found: physics.Terms
    starts: Sequence[int]
    sequences: Sequence[Sequence[np.ndarray]]
    counts: Sequence[Sequence[np.ndarray]]


def _joined(parts: Sequence[physics.Terms]) -> physics.Terms:
    merged = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(physics.Terms)
        if field.name not in ("sharpness", "power")
    }
    return physics.Terms(**merged, sharpness=parts[0].sharpness, power=parts[0].power)


def in_order(calls: Sequence[tuple[Call, int]]) -> list[tuple[Call, int]]:
    """Forward, backward from the end, update."""
    forward = [one for one in calls if one[0][1] is Phase.FORWARD]
    update = [one for one in calls if one[0][1] is Phase.UPDATE]
    back = [one for one in calls if one[0][1] not in (Phase.FORWARD, Phase.UPDATE)]
    return [*forward, *reversed(back), *update]


def problem(blocks: Sequence[Block]) -> Problem:
    names, parts, starts, sequences, counts, at = physics.Names(), [], [], [], [], 0
    for block in blocks:
        index: dict[Call, int] = {}
        own, times = [], []
        for observation in block.observations:
            ordered = in_order(observation.calls)
            own.append(np.array([index.setdefault(call, len(index)) for call, _ in ordered]))
            times.append(np.array([count for _, count in ordered], dtype=float))
        sheet = sheet_named(block.device)
        assert sheet, block.device
        figures = figures_of(sheet, block.precision, block.threads)
        parts.append(physics.terms_of(list(index), figures, names, library=block.library))
        starts.append(at)
        sequences.append(own)
        counts.append(times)
        at += len(index)
    return Problem(blocks=blocks, names=names, found=_joined(parts), starts=starts, sequences=sequences, counts=counts)


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What belongs to the data and not to devices: numbers of the scripts."""

    copy_rate: float = COPY[0]
    script: float = SCRIPT[0]
    lua: float = LUA[0]


def machines_of(blocks: Iterable[Block]) -> list[str]:
    return list(dict.fromkeys(block.machine for block in blocks))


def seconds(
    found: Problem, values: np.ndarray, extra: np.ndarray, factors: Mapping[str, tuple[float, float]]
) -> list[np.ndarray]:
    """Of each block the logarithms of what is expected; factors are logarithms, of the device and the host."""
    device_s, host_s = physics.device_seconds(found.found, values), physics.host_seconds(found.found, values)
    return composed(found, device_s, host_s, extra, factors)


def composed(
    found: Problem,
    device_s: np.ndarray,
    host_s: np.ndarray,
    extra: np.ndarray,
    factors: Mapping[str, tuple[float, float]],
) -> list[np.ndarray]:
    """Of each block the logarithms of sums of calls, or of one's time on the device, as two clocks have them."""
    results = []
    for block, start, sequences, counts in zip(found.blocks, found.starts, found.sequences, found.counts, strict=True):
        device, host = factors.get(block.machine, (0.0, 0.0))
        on_device, on_host = np.exp(device), np.exp(host)
        if block.what == "step" and block.copied_bytes:
            on_host *= np.exp(extra[1])
        if block.what == "pass":
            on_host *= np.exp(extra[2])
        if block.what == "layer":
            rows = start + np.array([sequence[0] for sequence in sequences])
            results.append(np.log(on_device * device_s[rows]))
            continue
        totals = []
        for sequence, count in zip(sequences, counts, strict=True):
            each = on_device * device_s[start + sequence] * count
            if sheet_named(block.device).kind.queued:
                asked = np.cumsum(on_host * host_s[start + sequence] * count)
                totals.append(np.max(asked + np.cumsum(each[::-1])[::-1]))
            else:
                totals.append(each.sum())
        total = np.array(totals)
        if block.copied_bytes:
            total = total + block.copied_bytes / np.exp(extra[0])
        results.append(np.log(total))
    return results


def host_log_seconds(found: Problem, values: np.ndarray) -> list[np.ndarray | None]:
    host_s = physics.host_seconds(found.found, values)
    return [
        np.log(host_s[start + np.array([sequence[0] for sequence in sequences])])
        if block.what == "layer" and block.observations[0].host_s
        else None
        for block, start, sequences in zip(found.blocks, found.starts, found.sequences, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Parameters by name, the scripts' numbers and the factors of the training machines."""

    values: Mapping[str, float]
    extra: np.ndarray
    factors: Mapping[str, tuple[float, float]]


def fit(
    blocks: Sequence[Block], *, rounds: int = 14, start: Fit | None = None, note: Callable[[str], None] = lambda _: None
) -> Fit:
    found = problem(blocks)
    names = [name for name in found.names.index if name]
    machines = machines_of(blocks)
    priors = np.array([terms.prior(name) for name in names])
    centre = np.concatenate([priors[:, 0], [COPY[0], SCRIPT[0], LUA[0]], np.zeros(2 * len(machines))])
    one = Machine()
    width = np.concatenate(
        [priors[:, 1], [COPY[1], SCRIPT[1], LUA[1]], np.tile([one.device_spread, one.host_spread], len(machines))]
    )
    wide = [at for at, name in enumerate(machines) if "cpu" in name or "epyc" in name]
    for at in wide:  # a virtual machine's share of a core is on no sheet
        width[len(names) + 3 + 2 * at] = 0.5
    x = centre.copy()
    if start:
        x[: len(names)] = [start.values.get(name, mean) for name, mean in zip(names, priors[:, 0], strict=True)]
        x[len(names) : len(names) + 3] = start.extra
        for at, name in enumerate(machines):
            x[len(names) + 3 + 2 * at :][:2] = start.factors.get(name, (0.0, 0.0))

    def split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[float, float]]]:
        values = np.concatenate([[0.0], x[: len(names)]])
        extra, factors = x[len(names) : len(names) + 3], x[len(names) + 3 :].reshape(-1, 2)
        return values, extra, {name: tuple(pair) for name, pair in zip(machines, factors, strict=True)}

    logs = [np.log([o.seconds for o in block.observations]) for block in blocks]
    host_logs = [np.log([max(o.host_s or 1e-6, 1e-7) for o in block.observations]) for block in blocks]

    def residuals(x: np.ndarray) -> np.ndarray:
        values, extra, factors = split(x)
        parts = []
        for block, mine, theirs in zip(blocks, seconds(found, values, extra, factors), logs, strict=True):
            weight = min(1.0, MOST[block.source] / len(theirs)) ** 0.5
            parts.append(weight * (mine - theirs) / SPREADS[block.what])
        for block, mine, theirs in zip(blocks, host_log_seconds(found, values), host_logs, strict=True):
            if mine is not None:
                weight = min(1.0, 40 / len(theirs)) ** 0.5
                shift = factors[block.machine][1]
                parts.append(weight * (mine + shift - theirs) / SPREADS["host"])
        return np.concatenate(parts)

    damping = 1.0
    current = residuals(x)

    def cost(r: np.ndarray, x: np.ndarray) -> float:
        a = np.abs(r)
        return float(np.where(a < HUBER, r**2, 2 * HUBER * a - HUBER**2).sum() + (((x - centre) / width) ** 2).sum())

    best = cost(current, x)
    for turn in range(rounds):
        jacobian = np.empty((len(current), len(x)))
        for at in range(len(x)):
            moved = x.copy()
            moved[at] += 1e-4
            jacobian[:, at] = (residuals(moved) - current) / 1e-4
        weights = np.minimum(1.0, HUBER / np.maximum(np.abs(current), 1e-9))
        normal = jacobian.T @ (weights[:, None] * jacobian) + np.diag(1 / width**2)
        slope = jacobian.T @ (weights * current) + (x - centre) / width**2
        for _ in range(6):
            step = -np.linalg.solve(normal + damping * np.diag(np.diag(normal)) * 0.1, slope)
            trial = x + np.clip(step, -1.0, 1.0)
            after = residuals(trial)
            if cost(after, trial) < best:
                gained, best, x, current, damping = (
                    best - cost(after, trial),
                    cost(after, trial),
                    trial,
                    after,
                    damping / 4,
                )
                break
            damping *= 6
        else:
            break
        note(f"{turn}: {best:.1f}")
        if gained < 1e-3 * best:
            break
    values, extra, factors = split(x)
    return Fit(values=dict(zip(names, map(float, values[1:]), strict=True)), extra=extra, factors=factors)


def clocks(found: Problem, members: Sequence[Fit]) -> tuple[np.ndarray, np.ndarray]:
    """The seconds of each call on the device and the host, the mean of the members' logarithms."""
    values = [found.names.values(member.values) for member in members]
    device = np.mean([np.log(physics.device_seconds(found.found, each)) for each in values], axis=0)
    host = np.mean([np.log(physics.host_seconds(found.found, each)) for each in values], axis=0)
    return np.exp(device), np.exp(host)


def expected(
    blocks: Sequence[Block],
    fitted: Fit | Sequence[Fit],
    factors: Mapping[str, tuple[float, float]] | None = None,
) -> list[np.ndarray]:
    """Of each block the logarithms of what the parameters expect; machines without factors are as their sheets."""
    members = [fitted] if isinstance(fitted, Fit) else fitted
    found = problem(blocks)
    extra = np.mean([member.extra for member in members], axis=0)
    return composed(found, *clocks(found, members), extra, factors or {})
