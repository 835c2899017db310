"""Fits the parameters of `latte_cli.sheet_model` through the sums that were measured, for `datasheets.py`.

The maximum of the posterior: residuals of logarithms, priors of `terms.prior`, and for each machine a factor on its
device and one on its host, whose priors are Machine's spreads. Gauss-Newton with Huber's weights and exact slopes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from datasheets_rows import Block, Call
from scipy import sparse

from latte_cli.datasheets import sheet_named
from latte_cli.layers import Phase
from latte_cli.sheet_model import Machine, physics, terms
from latte_cli.sheet_model.figures import figures_of

SPREADS = {"step": 0.07, "pass": 0.12, "layer": 0.30, "host": 0.3}
"""Deviations of logarithms that the fit takes residuals for."""

MOST = {"neusight": 60, "deepbench": 60, "profile": 150, "passes": 40, "steps": 40}
"""A block of more observations weighs as so many of them: they share a device."""

MOST_HOST = 40
HUBER = 2.0
TAILS = 1.0
"""Where residuals, and machines' factors, begin to count linearly: a machine that is throttled pulls no others."""

EXTRA = {
    "rate of copies": (np.log(3e9), 0.5),  # bytes a second to the GPU from memory that is not pinned
    "host of the script of 2020": (0.25, 0.3),  # beside eight processes that load data
    "host of Lua": (-0.7, 0.5),
    "seconds around a call of NeuSight": (np.log(8e-6), 0.7),
    "seconds around a call of DeepBench": (np.log(4e-6), 0.7),
    "calls alone in NeuSight": (0.0, 0.15),
    "calls alone in DeepBench": (0.0, 0.15),
    "calls alone in profiles": (0.0, 0.15),
    "kernels of Lua Torch": (0.0, 0.2),
    "device in the script of 2018": (0.0, 0.15),
}
"""Numbers of the scripts, which are no device's: mean and deviation of their logarithms."""

COPY, SCRIPT, LUA, NEUSIGHT, DEEPBENCH = range(5)
ALONE = {"neusight": 5, "deepbench": 6, "profile": 7}
LUA_DEVICE, OLD_SCRIPT = 8, 9
AROUND = {"neusight": NEUSIGHT, "deepbench": DEEPBENCH}
_WIDE = 0.5  # of a virtual machine's share of a core, which is on no sheet
_ROUNDS = 25

_NOTHING = (np.zeros(1), np.zeros(1), 0.0, 0.0)

Factors = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """An observation: its calls by number and how often each is made, in the order of a step."""

    block: Block
    label: str
    sequence: np.ndarray
    counts: np.ndarray
    log_seconds: float
    host_log: float | None
    queued: bool


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Observations, and their calls as arrays for one set of names."""

    names: physics.Names
    found: physics.Terms
    rows: Sequence[Row]

    def kept(self, rows: Sequence[Row]) -> "Problem":
        """The problem of some rows, about the same calls."""
        return Problem(names=self.names, found=self.found, rows=rows)


def in_order(calls: Sequence[tuple[Call, int]]) -> list[tuple[Call, int]]:
    """Forward, backward from the end, update."""
    forward = [one for one in calls if one[0][1] is Phase.FORWARD]
    update = [one for one in calls if one[0][1] is Phase.UPDATE]
    back = [one for one in calls if one[0][1] not in (Phase.FORWARD, Phase.UPDATE)]
    return [*forward, *reversed(back), *update]


def problem(blocks: Sequence[Block]) -> Problem:
    """Blocks as arrays; calls on one device under the same settings are computed once."""
    names, rows, keys = physics.Names(), [], {}
    numbers: dict[object, dict[Call, int]] = {}
    order: list[tuple[object, Call]] = []
    for block in blocks:
        sheet = sheet_named(block.device)
        assert sheet, block.device
        key = (block.device, block.precision, block.library, block.threads)
        keys[key] = figures_of(sheet, block.precision, block.threads)
        own = numbers.setdefault(key, {})
        for each in block.observations:
            ordered = in_order(each.calls)
            for call, _ in ordered:
                if call not in own:
                    own[call] = len(order)
                    order.append((key, call))
            rows.append(
                Row(
                    block=block,
                    label=each.label,
                    sequence=np.array([own[call] for call, _ in ordered]),
                    counts=np.array([count for _, count in ordered], dtype=float),
                    log_seconds=float(np.log(each.seconds)),
                    host_log=float(np.log(each.host_s)) if each.host_s else None,
                    queued=sheet.kind.queued,
                )
            )
    parts, places = [], []
    for key, own in numbers.items():
        parts.append(physics.terms_of(list(own), keys[key], names, library=key[2]))
        places += own.values()
    return Problem(names=names, found=_joined(parts, np.argsort(places)), rows=rows)


def _joined(parts: Sequence[physics.Terms], order: np.ndarray) -> physics.Terms:
    """One set of arrays, calls in `order`."""
    by_call, single = ("calls", "host"), ("sharpness", "power", "clock")
    merged = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(physics.Terms)
        if field.name not in single
    }
    starts = np.cumsum([0, *(len(part.calls) for part in parts)])
    owner = np.concatenate([part.owner + start for part, start in zip(parts, starts, strict=False)])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    merged |= {name: merged[name][order] for name in by_call} | {"owner": place[owner]}
    return physics.Terms(**merged, **{name: getattr(parts[0], name) for name in single})


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Parameters by name, the scripts' numbers and the factors of the training machines, all as logarithms."""

    values: Mapping[str, float]
    extra: np.ndarray
    factors: Factors


def compose(
    rows: Sequence[Row], device_s: np.ndarray, host_s: np.ndarray, extra: np.ndarray, factors: Factors
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, float, float]]]:
    """The logarithm of what each row is expected to take, as two clocks have it.

    Beside it, for slopes: the weights of its calls' seconds on the device and on the host, and the seconds of both
    that these come to.
    """
    logs = np.empty(len(rows))
    slopes: list[tuple[np.ndarray, np.ndarray, float, float]] = [_NOTHING] * len(rows)
    alone = [at for at, row in enumerate(rows) if row.block.what == "layer"]
    if alone:
        shifts = [
            factors.get(rows[at].block.machine, (0.0, 0.0))[0] + extra[ALONE[rows[at].block.source]] for at in alone
        ]
        weights = np.exp(shifts) * np.array([rows[at].counts[0] for at in alone])
        totals = weights * device_s[[rows[at].sequence[0] for at in alone]]
        seconds = np.exp(extra)
        around = [AROUND.get(rows[at].block.source) for at in alone]
        logs[alone] = np.log(totals + np.array([0.0 if place is None else seconds[place] for place in around]))
        for place, at in enumerate(alone):
            slopes[at] = (weights[place : place + 1], _NOTHING[1], float(totals[place]), 0.0)
    for at, row in enumerate(rows):
        block = row.block
        if block.what == "layer":
            continue
        device, host = factors.get(block.machine, (0.0, 0.0))
        shift = (extra[SCRIPT] if block.copied_bytes else 0.0) + (extra[LUA] if block.what == "pass" else 0.0)
        if block.what == "pass":
            device += extra[LUA_DEVICE]
        elif not block.copied_bytes:
            device += extra[OLD_SCRIPT]
        on_device = np.exp(device) * row.counts
        on_host = np.exp(host + shift) * row.counts * row.queued
        each, asked = on_device * device_s[row.sequence], np.cumsum(on_host * host_s[row.sequence])
        left = np.cumsum(each[::-1])[::-1]
        turn = int(np.argmax(asked + left)) if row.queued else 0
        places = np.arange(len(each))
        on_device, on_host = on_device * (places >= turn), on_host * (places <= turn)
        copied_s = block.copied_bytes / np.exp(extra[COPY])
        logs[at] = np.log(left[turn] + asked[turn] + copied_s)
        slopes[at] = (on_device, on_host, float(left[turn]), float(asked[turn]))
    return logs, slopes


def _device_slopes(found: physics.Terms, values: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
    """The seconds of each call on the device, and their slopes by parameter."""
    times, width = physics.way_times(found, values), len(values)
    both_s, total_s = times.both_s, times.total_s
    ratio = np.exp(np.clip(times.power * np.log(times.compute_s / times.memory_s), -50, 50))
    by_compute, by_memory = both_s * ratio / (1 + ratio), both_s / (1 + ratio)
    small = np.minimum(times.compute_s, times.memory_s) / np.maximum(times.compute_s, times.memory_s)
    raised = small**times.power
    sharp = both_s * (-np.log1p(raised) / times.power + raised * np.log(small) / (1 + raised))
    held = times.halves / (times.sizes + times.halves)
    computing, moving = by_compute * times.compute_room, by_memory * times.memory_room
    parts = [(column, -computing) for column in found.efficiency.T]
    parts += [(column, -moving) for column in found.bandwidth.T]
    parts += [(found.saturation[:, at], computing * held[:, at]) for at in range(3)]
    parts += [(column, times.gap_s) for column in found.gap.T]
    parts += [(np.full(len(both_s), found.power), -computing * found.strain)]
    parts += [(np.full(len(both_s), found.clock), -computing * found.headroom)]
    parts += [(np.full(len(both_s), found.sharpness), sharp)]
    columns, numbers = (np.stack([part[at] for part in parts], axis=1) for at in (0, 1))
    starts = np.arange(0, columns.size + 1, len(parts))
    of_ways = sparse.csr_matrix((numbers.ravel(), columns.ravel(), starts), shape=(len(both_s), width))
    device_s = physics.device_seconds(found, values)
    shares = (device_s[found.owner] / total_s) ** (physics.LEAST + 1)
    chosen = sparse.csr_matrix((shares, (found.owner, np.arange(len(shares)))), shape=(len(device_s), len(shares)))
    return device_s, chosen @ of_ways


def _host_slopes(found: physics.Terms, values: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
    host_s = physics.host_seconds(found, values)
    rows = np.repeat(np.arange(len(host_s)), found.host.shape[1])
    numbers = np.repeat(host_s, found.host.shape[1])
    shape = (len(host_s), len(values))
    return host_s, sparse.csr_matrix((numbers, (rows, found.host.ravel())), shape=shape)


class _Posterior:
    """Residuals and slopes of a problem; x holds parameters, the scripts' numbers and two factors a machine."""

    def __init__(self, given: Problem, narrow: str = "", width: float = 1.0) -> None:
        self.given = given
        self.names = list(given.names.index)
        self.machines = list(dict.fromkeys(row.block.machine for row in given.rows))
        self.at = {name: len(self.names) + len(EXTRA) + 2 * place for place, name in enumerate(self.machines)}
        priors = [terms.prior(name) if name else (0.0, 1e-9) for name in self.names] + list(EXTRA.values())
        one = Machine()
        wide = {row.block.machine for row in given.rows if not row.queued}
        spreads = [(_WIDE,) * 2 if name in wide else (one.device_spread, one.host_spread) for name in self.machines]
        self.centre = np.array([mean for mean, _ in priors] + [0.0] * 2 * len(self.machines))
        narrower = [width if name and narrow in name else 1.0 for name in self.names] + [1.0] * len(EXTRA)
        widths = [factor * spread for factor, (_, spread) in zip(narrower, priors, strict=True)]
        self.width = np.array(widths + [each for pair in spreads for each in pair])
        shared = len(self.names) + len(EXTRA)
        self.tails = np.where(np.arange(len(self.centre)) < shared, np.inf, TAILS)
        sizes: dict[tuple[str, object, str], int] = {}
        for row in given.rows:
            sizes[self._key(row)] = sizes.get(self._key(row), 0) + 1
        weights = [min(1.0, MOST[row.block.source] / sizes[self._key(row)]) ** 0.5 for row in given.rows]
        self.scale = np.array([w / SPREADS[row.block.what] for w, row in zip(weights, given.rows, strict=True)])
        self.seen = np.array([row.log_seconds for row in given.rows])
        self.hosts = [at for at, row in enumerate(given.rows) if row.host_log is not None]
        share = min(1.0, MOST_HOST / max(1, len(self.hosts))) ** 0.5
        self.host_scale = share / SPREADS["host"]

    def start(self, known: Fit | None) -> np.ndarray:
        """The means of the priors, or the values that are known."""
        x: np.ndarray = self.centre.copy()
        if known:
            count = len(self.names)
            x[:count] = [known.values.get(name, x[at]) for at, name in enumerate(self.names)]
            x[count : count + len(EXTRA)] = known.extra
            for name, at in self.at.items():
                x[at : at + 2] = known.factors.get(name, (0.0, 0.0))
        return x

    @staticmethod
    def _key(row: Row) -> tuple[str, object, str]:
        return row.block.machine, row.block.precision, row.block.library

    def factors(self, x: np.ndarray) -> Factors:
        return {name: (float(x[at]), float(x[at + 1])) for name, at in self.at.items()}

    def evaluate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The residuals, and their slopes as a dense matrix."""
        count, rows = len(self.names), self.given.rows
        values, extra = x[:count], x[count : count + len(EXTRA)]
        device_s, by_device = _device_slopes(self.given.found, values)
        host_s, by_host = _host_slopes(self.given.found, values)
        logs, slopes = compose(rows, device_s, host_s, extra, self.factors(x))
        starts = np.repeat(np.arange(len(rows)), [len(row.sequence) for row in rows])
        index = np.concatenate([row.sequence for row in rows])
        shape = (len(rows), len(device_s))
        on_device = sparse.csr_matrix((np.concatenate([s[0] for s in slopes]), (starts, index)), shape=shape)
        on_host = sparse.csr_matrix((np.concatenate([s[1] for s in slopes]), (starts, index)), shape=shape)
        total_s = np.exp(logs)
        full = np.zeros((len(rows) + len(self.hosts), len(x)))
        full[: len(rows), :count] = (on_device @ by_device + on_host @ by_host).toarray() / total_s[:, None]
        for at, (row, (_, _, device, host)) in enumerate(zip(rows, slopes, strict=True)):
            place = self.at[row.block.machine]
            full[at, place], full[at, place + 1] = device / total_s[at], host / total_s[at]
            if row.block.source in ALONE:
                full[at, count + ALONE[row.block.source]] = device / total_s[at]
            if row.block.source in AROUND:
                place = AROUND[row.block.source]
                full[at, count + place] = np.exp(extra[place]) / total_s[at]
            if row.block.copied_bytes:
                full[at, count + COPY] = -row.block.copied_bytes / np.exp(extra[COPY]) / total_s[at]
                full[at, count + SCRIPT] = host / total_s[at]
            if row.block.what == "pass":
                full[at, count + LUA] = host / total_s[at]
                full[at, count + LUA_DEVICE] = device / total_s[at]
            if row.block.what == "step" and not row.block.copied_bytes:
                full[at, count + OLD_SCRIPT] = device / total_s[at]
        full[: len(rows)] *= self.scale[:, None]
        residuals = [self.scale * (logs - self.seen)]
        calls = np.array([rows[at].sequence[0] for at in self.hosts], dtype=int)
        if len(calls):
            shifts = np.array([x[self.at[rows[at].block.machine] + 1] for at in self.hosts])
            seen = np.array([rows[at].host_log for at in self.hosts])
            residuals.append(self.host_scale * (np.log(host_s[calls]) + shifts - seen))
            part = by_host[calls].toarray() / host_s[calls][:, None]
            full[len(rows) :, :count] = self.host_scale * part
            for place, at in enumerate(self.hosts):
                full[len(rows) + place, self.at[rows[at].block.machine] + 1] = self.host_scale
        return np.concatenate(residuals), full

    def cost(self, residuals: np.ndarray, x: np.ndarray) -> float:
        size = np.abs(residuals)
        robust = np.where(size < HUBER, residuals**2, 2 * HUBER * size - HUBER**2).sum()
        off = np.abs(x - self.centre) / self.width
        bound = np.minimum(self.tails, off)  # off**2 within it, linear beyond
        tails = (2 * bound * off - bound**2).sum()
        return float(robust + tails)

    def prior_weights(self, x: np.ndarray) -> np.ndarray:
        """The weights of the priors' squares: less for a machine that is far from its sheet."""
        off = np.abs(x - self.centre) / self.width
        result: np.ndarray = np.minimum(1.0, self.tails / np.maximum(off, 1e-9)) / self.width**2
        return result


def fit(given: Problem, start: Fit | None = None, *, narrow: str = "", width: float = 1.0) -> Fit:
    """The most probable parameters, sought from those of `start`, which must not have seen what is left out.

    Priors of parameters whose names hold `narrow` are `width` times as wide.
    """
    posterior = _Posterior(given, narrow, width)
    x, damping = posterior.start(start), 0.1
    residuals, slopes = posterior.evaluate(x)
    best = posterior.cost(residuals, x)
    for _ in range(_ROUNDS):
        weights = np.minimum(1.0, HUBER / np.maximum(np.abs(residuals), 1e-9))
        held = posterior.prior_weights(x)
        normal = slopes.T @ (weights[:, None] * slopes) + np.diag(held)
        slope = slopes.T @ (weights * residuals) + (x - posterior.centre) * held
        step = -np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slope)
        trial = x + np.clip(step, -1.0, 1.0)
        found = posterior.evaluate(trial)
        cost = posterior.cost(found[0], trial)
        if cost < best:
            gained, best, x, (residuals, slopes), damping = best - cost, cost, trial, found, damping / 5
            if gained < 3e-4 * best:
                break
        else:
            damping = max(damping, 1e-3) * 5
            if damping > 1e4:
                break
    count = len(posterior.names)
    values = {name: float(value) for name, value in zip(posterior.names, x[:count], strict=True) if name}
    return Fit(values=values, extra=x[count : count + len(EXTRA)], factors=posterior.factors(x))


def clocks(given: Problem, members: Sequence[Fit]) -> tuple[np.ndarray, np.ndarray]:
    """The seconds of each call on the device and the host, the mean of the members' logarithms."""
    values = [given.names.values(member.values) for member in members]
    device = np.mean([np.log(physics.device_seconds(given.found, each)) for each in values], axis=0)
    host = np.mean([np.log(physics.host_seconds(given.found, each)) for each in values], axis=0)
    return np.exp(device), np.exp(host)


def expected(given: Problem, members: Sequence[Fit], factors: Factors | None = None) -> np.ndarray:
    """The logarithm of what is expected of each row; machines without factors are as their sheets."""
    extra = np.mean([member.extra for member in members], axis=0)
    return compose(given.rows, *clocks(given, members), extra, factors or {})[0]
