"""Clocks that jump, back and ahead, between and during whatever writes or rewrites a store: no row is lost or doubled.

`python tests/torture/clocks.py [--count 200] [--profiles 1] [--seed 1]` gives so many stores a few processes each,
which write rows, die or go on, compact, merge and check, while the machine's clock jumps by minutes or years. In the
end each row must be found once, and no damaged part, whatever the clock says. Then `latte profile` runs three times,
with the clock at three moments: the second and third time there is nothing left to measure.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

NOW_S = 1.79e9  # when the jumps begin
END_S = 4e9  # later than any of them
JUMPS_S = (0.0, 1.0, -1.0, 60.0, -60.0, 3600.0, -3600.0, 2 * 86400.0, -2 * 86400.0, 1e7, -1e7, 1e9, -2e9)


class Clock:
    """What `time.time` tells, in the place of it."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        """Seconds since the epoch."""
        self.now_s += 1e-3
        return self.now_s

    def jump(self, draw: random.Random) -> None:
        """Be set to another moment, after 1970."""
        self.now_s = max(1.0, min(self.now_s + draw.choice(JUMPS_S), END_S / 2))


CLOCK = Clock()
time.time = CLOCK  # before the package is read, which keeps it

from append_rows import DEVICE, measurement  # noqa: E402

from latte_cli.errors import LatteError  # noqa: E402
from latte_cli.store import Store, open_store  # noqa: E402


def opened(folder: Path, name: str) -> Store:
    """A store of the trial, read around what cannot be read."""
    return open_store(str(folder / name), shipped=False, skip=lambda error: None)


def write(store: Store, numbers: range, draw: random.Random, *, journal_dir: Path) -> None:
    """Add rows while the clock jumps, and maybe die before the end."""
    dies_at = draw.choice((None, None, draw.randrange(len(numbers))))
    with store.writer(DEVICE, seal_every_s=0 if draw.random() < 0.3 else 1e9, journal_dir=journal_dir) as writer:
        for at, number in enumerate(numbers):
            writer.append(measurement(number, measured_at=CLOCK()))
            os.write(1, b"%d\n" % number)
            if draw.random() < 0.3:
                CLOCK.jump(draw)
            if at == dies_at:
                os._exit(0)


def tidy(folder: Path, draw: random.Random) -> None:
    """Compact, merge or look at the stores, whatever the clock says."""
    one, other = opened(folder, "one"), opened(folder, "other")
    way = draw.randrange(4)
    if way == 0:
        one.compact()
    elif way == 1:
        with suppress(LatteError):  # there may be nothing yet, or nothing that is not ahead of the clock
            other.merge(one.full_uri)
            one.merge(other.full_uri)
    elif way == 2:
        one.check()
    else:
        one.info()


def life(folder: Path, draw: random.Random, first: int) -> tuple[set[int], str]:
    """One process: the numbers of the rows that it added, and what went wrong."""
    CLOCK.jump(draw)
    at_s, seed, count = CLOCK.now_s, draw.random(), draw.randint(1, 12)
    with (folder / "out").open("w+b") as out, (folder / "err").open("w+b") as err:
        if not (child := os.fork()):
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            own = random.Random(seed)
            try:
                if own.random() < 0.6:
                    write(opened(folder, "one"), range(first, first + count), own, journal_dir=folder / "journals")
                else:
                    tidy(folder, own)
            except Exception:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(child, 0)
        CLOCK.now_s = at_s
        out.seek(0), err.seek(0)
        return {int(line) for line in out.read().split()}, err.read().decode()[-600:]


def trial(seed: str) -> str:
    """What was wrong with a store after a few processes, or nothing."""
    draw, wanted = random.Random(seed), set[int]()
    CLOCK.now_s = NOW_S
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for at in range(draw.randint(2, 6)):
            added, fault = life(folder, draw, 100 * at)
            wanted |= added
            if fault:
                return fault
        store = opened(folder, "one")
        with store.writer(DEVICE, journal_dir=folder / "journals"):
            pass
        for now_s, step in (
            (CLOCK.now_s, store.info),
            (NOW_S, store.info),
            (END_S, store.info),
            (END_S, store.compact),
        ):
            CLOCK.now_s = now_s
            step()
            if store.check().damaged:
                return f"a damaged part: {store.check().damaged[0]}"
            found = Counter(row.task.id for row in store.measurements(DEVICE.slug)) if wanted else Counter[str]()
            if found != Counter(measurement(number).task.id for number in wanted):
                return f"{len(found)} rows of {len(wanted)}, {max(found.values(), default=0)} of one, at {now_s:.0f} s"
    return ""


SHIFTED = "import os, time\nnow = time.time\ntime.time = lambda: now() + float(os.environ['SHIFT_S'])\n"
PROFILE = (
    "profile",
    "--suite",
    "convolutions",
    "--configs",
    "1",
    "--phases",
    "forward",
    "--threads",
    "1",
    "--passes",
    "1",
)


def profiled(draw: random.Random) -> str:
    """What was wrong with profiles of one store while the clock is ahead, right and behind, or nothing."""
    shifts_s = draw.sample((0.0, 400 * 86400.0, -90 * 86400.0), 3)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "sitecustomize.py").write_text(SHIFTED)
        homes = {name: str(folder / "home") for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME")}
        paths = os.pathsep.join([made, str(HERE.parents[1])])
        for at, shift_s in enumerate(shifts_s):
            done = subprocess.run(
                [sys.executable, "-m", "latte_cli", *PROFILE, "--store", folder / "store", "--format", "json"],
                env=os.environ | homes | {"PYTHONPATH": paths, "SHIFT_S": str(shift_s)},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                return f"a profile ended with {done.returncode}: {done.stderr[-300:]}"
            found = json.loads(done.stdout)
            if at and sum(found["rows"].values()):
                return (
                    f"{found['rows']} of {found['tasks']} tasks are measured again, the clock at {shifts_s[: at + 1]}"
                )
    return ""


def main() -> int:
    """The exit code: 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--profiles", type=int, default=1)
    parser.add_argument("--seed", default=hashlib.sha256(os.urandom(8)).hexdigest()[:8])
    given = parser.parse_args()
    faults = 0
    for at in range(given.count):
        if fault := trial(f"{given.seed}:{at}"):
            faults += 1
            print(f"{given.seed}:{at}: {fault}", flush=True)
    for at in range(given.profiles):
        if fault := profiled(random.Random(f"{given.seed}:{at}")):
            faults += 1
            print(fault, flush=True)
    print(f"clocks: {given.count}, profiles: {given.profiles}, faults: {faults}, seed {given.seed}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
