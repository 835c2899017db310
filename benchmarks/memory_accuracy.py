"""How accurate LATTE's peak memory of a CPU training step is: networks of five libraries, all optimizers and modes.

The networks are those of `reading_networks.py`, read as live modules with BATCH samples. Each network is measured with
plain SGD and with DRAWN of the other MODES. The draw is seeded and balanced: it deals the modes like cards. The real
peak is the most that torch's allocator holds in one step, by its own events, with what lasts from step to step: the
parameters, buffers, inputs, targets, states of the optimizer, and the average or the gradients where a mode keeps them.
LATTE's peak takes the measured workspaces of single calls, as the tests do. The loss is taken of the last output that a
gradient flows back to, and the other outputs are summed.

`freeze` freezes the first half of the trained parameters. `checkpoint` checkpoints one part, which is drawn, and `own
checkpoints` switches on those that the library itself has; a network without any has `checkpoint` instead. Each pair
of a network and a mode has `--limit-s` seconds and MEMORY_BYTES of memory, the reading included.

`--output` has a line for each pair: `real` and `said` bytes, and the same for each phase in `phases`. A run that was
interrupted goes on where it stopped. It needs what `reading_accuracy.py` needs.

    python benchmarks/memory_accuracy.py [--only REGEX] [--modes REGEX] [--limit-s 60] [--for-s SECONDS]
        [--again OUTCOME] [--redo] [--off] [--report] [--output benchmarks/memory_accuracy.jsonl]
"""

import argparse
import gc
import re
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from reading_accuracy import append, rows_of, run, tensors
from reading_networks import build

from latte_cli import LatteError, child, load
from latte_cli.optimizers import OPTIMIZERS

BATCH = 3
WITHIN = 0.05
DRAWN = 4
SEED = 1
MEMORY_BYTES = 6 * 2**30
AT_ONCE = 8
"""How many networks one process measures, since what it imports takes longer than most."""
SHOWN = 4
"""How many of the worst networks are named for each mode."""
CHECKPOINT, OWN = "checkpoint", "own checkpoints"
OWN_IN = ("transformers", "timm", "diffusers")
"""The libraries whose networks may have checkpoints."""
FIRST_STEPS = 6
"""From then on RAdam holds the same in each step."""
PHASES = ("forward", "backward", "update")


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How a step is made; `checkpoint` is one of CHECKPOINT, OWN and ""."""

    optimizer: str = "sgd"
    loss: str = "cross-entropy"
    accumulate: int = 1
    clip_norm: bool = False
    ema: bool = False
    keep: bool = False
    freeze: bool = False
    checkpoint: str = ""


MODES: Mapping[str, Mode] = {
    **{name: Mode(optimizer=name) for name in OPTIMIZERS if name != "none"},
    "adam, accumulate 2": Mode(optimizer="adam", accumulate=2),
    "momentum, zero-grad keep": Mode(optimizer="momentum", keep=True),
    "sgd, accumulate 2, zero-grad keep": Mode(accumulate=2, keep=True),
    "sgd, clip-norm": Mode(clip_norm=True),
    "adamw, clip-norm, ema": Mode(optimizer="adamw", clip_norm=True, ema=True),
    "sgd, mse": Mode(loss="mse"),
    "sgd, freeze": Mode(freeze=True),
    "adam, freeze": Mode(optimizer="adam", freeze=True),
    f"sgd, {CHECKPOINT}": Mode(checkpoint=CHECKPOINT),
    f"adam, {CHECKPOINT}": Mode(optimizer="adam", checkpoint=CHECKPOINT),
    f"sgd, {OWN}": Mode(checkpoint=OWN),
}
"""All modes by name; LATTE offers no other precision than float32 on a CPU."""


def drawn(names: Sequence[str]) -> dict[str, list[str]]:
    """The modes of each network: SGD, and those that it was dealt, no mode twice before all were dealt once."""
    draw, deck = Random(SEED), list[str]()
    found: dict[str, list[str]] = {}
    for name in draw.sample(names, len(names)):
        while len(deck) < DRAWN or len(set(deck[:DRAWN])) < DRAWN:
            more = [mode for mode in MODES if mode != "sgd"]
            draw.shuffle(more)
            deck = [*deck, *more]
            while len(set(deck[:DRAWN])) < DRAWN:
                deck = draw.sample(deck, len(deck))
        found[name], deck = ["sgd", *deck[:DRAWN]], deck[DRAWN:]
    return {name: found[name] for name in names}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A module with what it is called with, and what LATTE reads; `without` are parameters that get no gradient."""

    name: str
    module: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    network: Any
    without: frozenset[int]


def subject(name: str, *, own_checkpoints: bool = False) -> Subject:
    """The network called `name`; raises LatteError where LATTE refuses it."""
    module, arguments, keywords = build(name, BATCH)
    module.train()
    if own_checkpoints and not _switched_on(module):
        raise LatteError("the network has no checkpoints that can be switched on")
    network = load(module, (*arguments, keywords) if keywords else arguments)
    _loss(network, module(*arguments, **keywords), "cross-entropy", _targets(network, "cross-entropy")).backward()
    without = frozenset(id(p) for p in module.parameters() if p.grad is None)
    return Subject(name=name, module=module, arguments=arguments, keywords=keywords, network=network, without=without)


def _switched_on(module: Any) -> bool:
    """Whether the library's own checkpoints could be switched on."""
    for method in ("gradient_checkpointing_enable", "enable_gradient_checkpointing", "set_grad_checkpointing"):
        if hasattr(module, method):
            try:
                getattr(module, method)()
            except (ValueError, AssertionError, NotImplementedError, AttributeError):
                continue
            return True
    return False


def measured(given: Subject, mode: Mode, draw: Random, end_s: float) -> dict[str, Any]:
    """The peak that LATTE says and the real one, whole and by phase."""
    from latte_cli.estimator.memory import memory
    from latte_cli.estimator.rest import Rest
    from latte_cli.estimator.steps import Step
    from latte_cli.network.training import freeze_parameters
    from latte_cli.precisions import Precision

    network, frozen, region = given.network, set[str](), None
    if mode.freeze:
        frozen = _first_half(given)
        network = freeze_parameters(network, [re.sub(r"[*?\[]", "[\\g<0>]", name) for name in frozen])
    if mode.checkpoint == CHECKPOINT:
        region = _region(network, draw)
    step = Step(
        optimizer=mode.optimizer,
        loss=mode.loss,
        accumulate=mode.accumulate,
        rest=Rest(clip_norm=mode.clip_norm, ema=mode.ema, zero_grad="keep" if mode.keep else "none"),
        checkpoints=(region,) if region else (),
    )
    used = _workspaces(network, end_s)
    if used is None:
        return {"outcome": "timed out", "reason": "the workspaces of the calls were not measured in time"}
    real = _real(given, mode, frozen, region.name if region else "")
    timeline = memory(network, step, Precision.FP32).with_workspaces(used)
    said = dict.fromkeys(PHASES, 0)
    for moment in timeline.timeline:
        again = moment.name != "(loss)" and said["backward"] and moment.phase == "forward"
        key = "backward" if again else str(moment.phase)
        said[key] = max(said[key], moment.live_bytes)
    return {
        "outcome": "run",
        "said": timeline.peak.live_bytes,
        "real": max(real.values()),
        "at": f"{timeline.peak.name} {timeline.peak.phase}",
        "phases": {key: [said[key], real[key]] for key in PHASES},
        **({"region": region.name} if region else {}),
        **({"notes": [*network.notes]} if network.notes else {}),
    }


def _workspaces(network: Any, end_s: float) -> dict[Any, int] | None:
    """The workspace of each call, measured; None where that would take longer."""
    from latte_cli.algorithms import FRAMEWORK_DEFAULT
    from latte_cli.backends.contract import Failed, Unsupported
    from latte_cli.backends.cpu.backend import CpuBackend
    from latte_cli.estimator.steps import Step, step_calls
    from latte_cli.estimator.storages import Storages
    from latte_cli.layers import Phase
    from latte_cli.precisions import Layout, Precision
    from latte_cli.tasks import Task

    backend, last = CpuBackend(threads=1), Storages(network).channels_last
    settings = {layout: backend.settings(Precision.FP32, layout) for layout in Layout}
    known: dict[Any, int] = {}
    found: dict[Any, int] = {}
    for call in step_calls(network, Step(optimizer="none", loss="none")):
        if call.layer.free or call.phase is Phase.UPDATE:
            continue
        if time.perf_counter() > end_s:
            return None
        layout = Layout.CHANNELS_LAST if call.name in last else Layout.NCHW
        if (key := (call.pair, layout)) not in known:
            task = Task(layer=call.layer, phase=call.phase, algorithm=FRAMEWORK_DEFAULT, settings=settings[layout])
            try:
                known[key] = backend.prepare(task).facts().workspace_bytes or 0
            except (Failed, Unsupported):
                known[key] = 0
        found[call.name, call.phase] = known[key]
    return found


def _first_half(given: Subject) -> set[str]:
    """The names of the first half of the trained parameters, counted by tensors."""
    known = given.network.trained_sizes
    names = [name for name, _ in given.module.named_parameters() if name in known]
    if len(names) < len(known):
        raise LatteError("a parameter has another name in the network than in the module")
    return set(names[: len(names) // 2])


def _region(network: Any, draw: Random) -> Any:
    """A part of the network that is checkpointed: a few layers, but at most half of them."""
    from latte_cli.network.submodules import regions

    known = [one for one in regions(network) if 3 <= len(one.nodes) <= len(network.nodes) / 2]
    if not known:
        raise LatteError("no part of the network can be checkpointed")
    return draw.choice(known)


def _targets(network: Any, loss: str) -> Any:
    import torch

    from latte_cli.network.module import random_targets

    return random_targets(network) if loss == "cross-entropy" else torch.randn(network.shapes[network.scores])


def _loss(network: Any, result: Any, loss: str, targets: Any) -> Any:
    """The loss of the scores, which are the last output of their shape, and the sum of the others."""
    import torch

    from latte_cli.network.module import scored

    others = [*tensors(result)]
    shape = tuple(network.shapes[network.scores])
    scores = others.pop(max(at for at, each in enumerate(others) if tuple(each.shape) == shape))
    if loss == "cross-entropy":
        found = scored(torch.nn.Identity(), scores, targets)
    else:
        found = torch.nn.functional.mse_loss(scores, targets)
    return sum((each.sum() for each in others), found)


def _real(given: Subject, mode: Mode, frozen: set[str], part: str) -> dict[str, int]:
    """The most bytes that a step holds in each phase, by the events of torch's allocator."""
    from latte_cli.runtime.checkpointing import set_checkpoints

    named = dict(given.module.named_parameters())
    for name in frozen:
        named[name].requires_grad_(False)
    set_checkpoints(given.module, (part,) if part else ())
    try:
        return _peaks(given, mode)
    finally:
        set_checkpoints(given.module, ())
        for name in frozen:
            named[name].requires_grad_(True)


def _peaks(given: Subject, mode: Mode) -> dict[str, int]:
    import torch
    from torch.optim import swa_utils

    from latte_cli.network.module import optimizer

    module = given.module
    module.zero_grad(set_to_none=True)
    wanted = [p for p in module.parameters() if p.requires_grad]
    update = optimizer(mode.optimizer, wanted)
    trained = [p for p in wanted if id(p) not in given.without]
    for parameter in trained:  # the states are there from the second step on
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(FIRST_STEPS):
        update.step()
    averaged = swa_utils.AveragedModel(module, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)) if mode.ema else None
    if averaged:
        averaged.update_parameters(module)
    module.zero_grad(set_to_none=not mode.keep)
    targets = _targets(given.network, mode.loss)
    states = [value for state in update.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    lasting = [*module.parameters(), *module.buffers(), *given.arguments, *given.keywords.values(), targets, *states]
    lasting += [p.grad for p in module.parameters() if p.grad is not None]
    lasting += [*averaged.module.parameters(), *averaged.module.buffers()] if averaged else []
    held = sum(tensor.nbytes for tensor in lasting)
    del states, lasting
    with torch.autograd.profiler.profile(profile_memory=True) as seen:
        _step(given, mode, update, averaged, targets)
    module.zero_grad(set_to_none=True)
    return {phase: held + most for phase, most in _most(seen.kineto_results.events()).items()}


def _step(given: Subject, mode: Mode, update: Any, averaged: Any, targets: Any) -> None:
    """A step as users write it: the outputs of the last batch are held until it ends."""
    import torch

    mark = torch.autograd.profiler.record_function
    result = None
    for _ in range(mode.accumulate):
        del result
        with mark("phase forward"):
            result = given.module(*given.arguments, **given.keywords)
            loss = _loss(given.network, result, mode.loss, targets)
        with mark("phase backward"):
            loss.backward()
    with mark("phase update"):
        if mode.clip_norm:
            torch.nn.utils.clip_grad_norm_([p for p in given.module.parameters() if p.requires_grad], 1.0)
        update.step()
        if averaged:
            averaged.update_parameters(given.module)
        update.zero_grad(set_to_none=not mode.keep)


def _most(events: Iterable[Any]) -> dict[str, int]:
    """The most that is held in each phase above what was held before."""
    seen = sorted(events, key=lambda event: event.start_ns())
    held = accumulate(event.nbytes() if event.name() == "[memory]" else 0 for event in seen)
    most, phase = Counter(dict.fromkeys(PHASES, 0)), PHASES[0]
    for event, now in zip(seen, held, strict=True):
        if event.name().startswith("phase "):
            phase = event.name().removeprefix("phase ")
        most[phase] = max(most[phase], now)
    return dict(most)


def answer(request: Mapping[str, Any]) -> None:
    """Append a row for each pair of a network and a mode, in a process that ends where one takes too long."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    last: Subject | None = None
    for name, mode in request["pairs"]:
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, request["limit_s"])
        own = MODES[mode].checkpoint == OWN
        try:
            if last is None or last.name != name or own:
                last = None
                gc.collect()
                last = subject(name, own_checkpoints=own)
            draw = Random(f"{name} {mode}")
            found = measured(last, MODES[mode], draw, time.perf_counter() + request["limit_s"] * 0.6)
        except LatteError as exc:
            found = {"outcome": "refused", "reason": exc.message}
        last = None if own else last
        append(Path(request["output"]), (name, mode), found, time.perf_counter() - start)


def report(rows: Mapping[tuple[str, str], Mapping[str, Any]], wanted: Sequence[tuple[str, str]]) -> str:
    """The tables in Markdown: by mode, by library, and what was not run."""
    done = {pair: rows[pair] for pair in wanted if rows.get(pair, {}).get("outcome") == "run"}
    libraries = dict.fromkeys(name.partition("/")[0] for name, _ in wanted)
    lines = ["| mode | pairs | within 5% | median error | worst | the worst |", "|---|---|---|---|---|---|"]
    lines.append(_line("all", done))
    lines += [_line(mode, {pair: row for pair, row in done.items() if pair[1] == mode}) for mode in MODES]
    lines += ["", "| library | pairs | within 5% | median error | worst | the worst |", "|---|---|---|---|---|---|"]
    lines += [
        _line(library, {pair: row for pair, row in done.items() if pair[0].startswith(f"{library}/")})
        for library in libraries
    ]
    lines += ["", f"Run: {len(done)} of {len(wanted)} pairs of {len({name for name, _ in done})} networks.", ""]
    lines += ["| not run | pairs | which |", "|---|---|---|", *_not_run(rows, wanted)]
    return "\n".join(lines)


def _error(row: Mapping[str, Any]) -> float:
    return float(row["said"] / row["real"] - 1)


def _line(title: str, rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    if not rows:
        return f"| {title} | 0 |  |  |  |  |"
    errors = {pair: _error(row) for pair, row in rows.items()}
    near = sum(abs(error) <= WITHIN for error in errors.values())
    worst = sorted(errors, key=lambda pair: -abs(errors[pair]))
    off = [f"{name} {errors[name, mode]:+.1%}" for name, mode in worst if abs(errors[name, mode]) > WITHIN]
    more = f" and {len(off) - SHOWN} more" if len(off) > SHOWN else ""
    middle = median(map(abs, errors.values()))
    return (
        f"| {title} | {len(rows)} | {near / len(rows):.1%} | {middle:.2%} "
        f"| {errors[worst[0]]:+.1%} | {', '.join(off[:SHOWN])}{more} |"
    )


def _not_run(rows: Mapping[tuple[str, str], Mapping[str, Any]], wanted: Sequence[tuple[str, str]]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for name, mode in wanted:
        row = rows.get((name, mode), {"outcome": "not yet run"})
        if row["outcome"] != "run":
            words = (row["outcome"], re.sub(r"\d+", "N", row.get("reason", ""))[:100])
            groups.setdefault(": ".join(filter(None, words)), []).append(name)
    for reason, names in groups.items():
        if reason == "not yet run":
            yield f"| {reason} | {len(names)} | of {len(set(names))} networks |"
            continue
        shown = [f"{name} ({count})" if count > 1 else name for name, count in Counter(names).items()]
        yield f"| {reason.replace('|', '/')} | {len(names)} | {', '.join(shown)} |"


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs that are to be measured, network by network."""
    own, instead = f"sgd, {OWN}", f"sgd, {CHECKPOINT}"
    found: dict[tuple[str, str], None] = {}
    for name, modes in drawn(names).items():
        for mode in modes:
            without = mode == own and name.partition("/")[0] not in OWN_IN
            found[name, instead if without else mode] = None
    return list(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression for names")
    parser.add_argument("--modes", default="", help="a regular expression for modes")
    parser.add_argument("--limit-s", type=float, default=60, help="the most that one pair may take")
    parser.add_argument("--for-s", type=float, default=float("inf"), help="begin nothing after so long")
    parser.add_argument("--again", default="", help="run again what came out so, such as `refused`")
    parser.add_argument("--redo", action="store_true", help="run again all that the other options leave")
    parser.add_argument("--off", action="store_true", help="run again only what is off by more than 5 %%")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    options = parser.parse_args()
    known, end_s = child.ask("reading_networks:names", None), time.monotonic() + options.for_s
    pairs = pairs_of(known)
    old = rows_of(options.output)
    chosen = [
        (name, mode)
        for name, mode in pairs
        if re.search(options.only, name) and re.search(options.modes, mode) and _wanted(old.get((name, mode)), options)
    ]
    sizes = _sizes()
    names = sorted(dict.fromkeys(name for name, _ in chosen), key=lambda name: sizes.get(name, sys.maxsize))
    for first in range(0, 0 if options.report else len(names), AT_ONCE):
        if time.monotonic() < end_s:
            now = [pair for name in names[first : first + AT_ONCE] for pair in chosen if pair[0] == name]
            run(now, options.limit_s, options.output, f"{Path(__file__).stem}:answer")
    print(report(rows_of(options.output), pairs))


def _wanted(old: Mapping[str, Any] | None, options: argparse.Namespace) -> bool:
    if old is None or options.redo:
        return True
    if options.off:
        return old["outcome"] == "run" and abs(_error(old)) > WITHIN
    return bool(options.again and re.fullmatch(options.again, old["outcome"]))


def _sizes() -> dict[str, float]:
    """The work of each network that `reading_accuracy.py` knows it of, so that small ones come first."""
    rows = rows_of(Path(__file__).with_name("reading_accuracy.jsonl"))
    return {name: row["forward"] for (name, form), row in rows.items() if form == "truth" and "forward" in row}


if __name__ == "__main__":
    main()
