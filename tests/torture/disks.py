"""Disks that are full at any page or read-only, folders of others, and outputs that cannot be written, of each command.

`python tests/torture/disks.py [--count 200] [--seed 1] [--only STAGE,...]` runs so many commands whose files, or some
of them, lie on a separate disk that has too little room, is mounted read-only, or may not be written to by whoever
runs them; or whose standard output is on a full disk, or a pipe that nobody reads. Each has to end in one line with a
hint, or silently where nobody reads; what was there before is there as it was, or as the command writes it. It needs
Linux that lets a user mount a disk of memory; elsewhere it says so and tries nothing.
"""

import argparse
import hashlib
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import signals  # noqa: E402 - the path is set first
from signals import LATTE, OLD, Fault, Stage  # noqa: E402

LONGEST_S = 120  # of a command, most of which end in a few seconds
ROOM_KB = 1 << 20  # as much as no stage writes
READER_GONE = 141


@dataclass(frozen=True, kw_only=True)
class Writing:
    """A stage, the files that it writes, and the words that let it write over others."""

    stage: Stage
    outputs: tuple[str, ...] = ()
    force: tuple[str, ...] = ()


# What is written


def devices(folder: Path) -> None:
    """A fleet, and devices of its classes."""
    signals.fleet(folder)
    rows = "".join(f"d{at},{'one' if at % 2 else 'two'},64\n" for at in range(40))
    (folder / "devices.csv").write_text("device,class,samples\n" + rows)


def whole_models(folder: Path) -> None:
    """Each sub-model that is there can be read."""
    from latte_cli.network import load
    from latte_cli.network.weights import weights

    for path in (folder / "parts").glob("*.onnx"):
        load(path)
        weights(path)


def whole_table(folder: Path) -> None:
    """A table of devices is not there, or has all of them."""
    import pyarrow.parquet as pq

    path = folder / "out.parquet"
    if path.exists() and path.read_bytes() != OLD and pq.read_table(path).num_rows != 40:
        raise Fault("a table with fewer devices")


FROM_SIGNALS = {
    "profile": ((), ()),
    "zoo": (("out.onnx",), ("--force",)),
    "report": (("out.html",), ("--force",)),
    "doctor": ((), ()),
    "estimate": ((), ()),
    "verify": ((), ()),
    "simulate": ((), ()),
    "train-selector": ((), ()),
    "compact": ((), ()),
    "merge": ((), ()),
    "export": (("out.csv",), ("--force",)),
    "import": ((), ()),
    "set-aside": ((), ()),
    "tune": ((), ()),
    "train-estimator": ((), ()),
    "explain": ((), ()),
    "picture": (("out.svg",), ("--force",)),
    "plan-check": ((), ()),
    "plan-diff": ((), ()),
    "info": ((), ()),
    "devices-list": ((), ()),
    "zoo-list": ((), ()),
    "known-devices": ((), ()),
    "compare": ((), ()),
}
STAGES: dict[str, Writing] = {
    **{
        name: Writing(stage=signals.STAGES[name], outputs=outputs, force=force)
        for name, (outputs, force) in FROM_SIGNALS.items()
    },
    "allocate": Writing(
        stage=Stage(
            words=(*signals.ALLOCATE, "-o", "out.json"), prepare=signals.fleet, check=signals.whole_json("out.json")
        )
    ),
    "materialise": Writing(
        stage=Stage(
            words=(*signals.ALLOCATE, "--widths", "1,0.5", "--materialise", "parts"),
            prepare=signals.fleet,
            check=whole_models,
        )
    ),
    "devices": Writing(
        stage=Stage(
            words=(*signals.ALLOCATE, "--devices", "devices.csv", "-o", "out.parquet"),
            prepare=devices,
            check=whole_table,
        )
    ),
    "figures": Writing(
        stage=replace(
            signals.STAGES["report"],
            words=(*signals.STAGES["report"].words, "--figures", "figures"),
        )
    ),
}


# Disks

PLACES = (".", "store", "home", "parts", "figures", "results", "selectors", "estimators")
"""What may lie on a separate disk: all files of a command, or a folder."""

SCRIPT = """
set -e
mount -t tmpfs -o size={room}k,mode=755 tmpfs {place}
cp -a {saved}/. {place}
{how}
cd {folder}
set +e
{command}
code=$?
cp -a {place}/. {after} && df -k --output=used {place} | tail -1 >{after}.used
exit $code
"""
AS_THEY_ARE, READ_ONLY, OF_OTHERS = ":", "mount -o remount,ro {place}", "chmod -R a-w {place}"
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override")


@cache
def can_mount() -> bool:
    """Whether a disk of memory can be mounted here, and the right to write anywhere be given up."""
    words = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt && exec " + shlex.join([*UNPRIVILEGED, "true"])]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a command ended, and the room that its disk's files took then."""

    code: int
    err: str
    used_kb: int


def begin(writing: Writing, folder: Path, *, old: bool) -> Writing:
    """Make the files that a stage starts from, and maybe those that it writes over."""
    signals.begin(writing.stage, folder)
    (folder / "home").mkdir()
    if not (old and writing.force):
        return writing
    for name in writing.outputs:
        (folder / name).write_bytes(OLD)
    return replace(writing, stage=replace(writing.stage, words=(*writing.stage.words, *writing.force)))


def run(writing: Writing, folder: Path, place: str, how: str, room_kb: int) -> Ending:
    """Run a stage whose `place` lies on a disk of so much room; the folder then holds what it left."""
    disk, saved, after = folder / place, Path(f"{folder}-saved"), Path(f"{folder}-after")
    disk.mkdir(exist_ok=True)
    shutil.copytree(disk, saved)
    after.mkdir()
    user = UNPRIVILEGED if how == OF_OTHERS else ()
    named = {"place": shlex.quote(str(disk)), "saved": saved, "after": after, "folder": folder, "room": room_kb}
    command = shlex.join([*user, *LATTE, *map(str, writing.stage.words)])
    script = SCRIPT.format(how=how.format(**named), command=command, **named)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=LONGEST_S,
        env=signals.environment(folder) | {"OMP_NUM_THREADS": "1"},
    )
    used = Path(f"{after}.used")
    if not used.exists():
        raise SystemExit(f"cannot begin: {done.stderr[-500:]}")
    shutil.rmtree(disk)
    shutil.copytree(after, disk, symlinks=True)
    return Ending(code=done.returncode, err=done.stderr, used_kb=int(used.read_text()))


@cache
def room_kb(name: str, place: str) -> tuple[int, int]:
    """What a stage's files take on its disk before and after, in KiB."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "run"
        folder.mkdir()
        writing = begin(STAGES[name], folder, old=False)
        before = sum(-(-each.stat().st_size // 4096) * 4 for each in (folder / place).rglob("*") if each.is_file())
        ending = run(writing, folder, place, AS_THEY_ARE, ROOM_KB)
        if ending.code not in (0, 1, 3):
            raise SystemExit(f"{name} does not run: {ending.err[-500:]}")
        return before, ending.used_kb


def attempt(name: str, draw: random.Random) -> tuple[str, str]:
    """One trial: what it was, and `done`, `refused` or what was wrong."""
    if draw.random() < 0.2:
        full = draw.random() < 0.5
        return "output to a full disk" if full else "output that nobody reads", spoken(name, full=full)
    place = draw.choice(places(name))
    how = draw.choice((AS_THEY_ARE, AS_THEY_ARE, READ_ONLY, OF_OTHERS))
    old = draw.random() < 0.5
    before, used = room_kb(name, place)
    room = draw.randrange(before, max(used, before + 8) + 8) // 4 * 4 + 4 if how == AS_THEY_ARE else ROOM_KB
    kind = {READ_ONLY: "read-only", OF_OTHERS: "of others"}.get(how, f"of {room} of {used} KiB")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "run"
        folder.mkdir()
        writing = begin(STAGES[name], folder, old=old)
        ending = run(writing, folder, place, how, room)
        try:
            check(writing, ending, folder, old=old)
        except Fault as fault:
            return f"`{place}` {kind}", f"{fault}"
    return f"`{place}` {kind}", "refused" if ending.code == 1 else "done"


def spoken(name: str, *, full: bool) -> str:
    """What came of a stage whose standard output is on a full disk, or a pipe that nobody reads any more."""
    with tempfile.TemporaryDirectory() as made, Path("/dev/full").open("wb", buffering=0) as output:
        folder = Path(made) / "run"
        folder.mkdir()
        writing = begin(STAGES[name], folder, old=False)
        if not full:
            reading, unread = os.pipe()
            os.close(reading)
            os.dup2(unread, output.fileno())
            os.close(unread)
        done = subprocess.run(
            [*LATTE, *map(str, writing.stage.words)],
            cwd=folder,
            env=signals.environment(folder) | {"OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        try:
            if not full and done.returncode in (READER_GONE, 0) and "error:" in done.stderr:
                raise Fault(f"an error for a reader that has gone: {done.stderr[-300:]!r}")
            code = 0 if done.returncode == READER_GONE and not full else done.returncode
            check_said(Ending(code=code, err=done.stderr, used_kb=0))
            check_files(writing, folder)
        except Fault as fault:
            return str(fault)
        return "done" if done.returncode == 0 else "refused"


def places(name: str) -> list[str]:
    """The folders of a stage that may be on a separate disk."""
    words = STAGES[name].stage.words
    return [each for each in PLACES if each in (".", "home") or each in words]


def check(writing: Writing, ending: Ending, folder: Path, *, old: bool) -> None:
    """Raise Fault for what should not have happened to a command on such a disk, and to its files."""
    check_said(ending)
    for name in writing.outputs:
        path = folder / name
        if old and writing.force and not path.exists():
            raise Fault(f"`{name}`, which was there, is gone")
        if path.exists() and path.read_bytes() == OLD:
            path.unlink()
        elif path.exists() and ending.code == 1:
            raise Fault(f"`{name}` is there, and an error")
    check_files(writing, folder)


def check_said(ending: Ending) -> None:
    """Raise Fault where a command did not end well, or in one error with a hint."""
    if "Traceback" in ending.err or "Exception ignored" in ending.err:
        raise Fault(f"a traceback: {ending.err[-600:]!r}")
    if ending.code not in (0, 1, 3):
        raise Fault(f"ended with {ending.code}: {ending.err[-300:]!r}")
    errors = [line for line in ending.err.splitlines() if line.startswith("error:")]
    if ending.code == 1 and (len(errors) != 1 or "hint:" not in ending.err):
        raise Fault(f"{len(errors)} errors, or no hint: {ending.err[-600:]!r}")


def check_files(writing: Writing, folder: Path) -> None:
    """Raise Fault for files that are left behind, or are half of what they should be."""
    from latte_cli.errors import LatteError

    signals.check_folder(folder)
    try:
        writing.stage.check(folder)
    except (LatteError, ValueError, OSError) as error:
        raise Fault(f"half a file: {error}") from error


def attempts(count: int, names: list[str], seed: str) -> Iterator[tuple[str, str, str]]:
    """Each trial: the stage, its disk, and what came of it."""
    for at in range(count):
        name = names[at % len(names)]
        yield name, *attempt(name, random.Random(f"{seed}:{at}"))


def main() -> int:
    """The exit code: 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", default=hashlib.sha256(os.urandom(8)).hexdigest()[:8])
    parser.add_argument("--only", default=",".join(STAGES), help="stages, separated by commas")
    given = parser.parse_args()
    if not can_mount():
        print("disks: 0, for no disk can be mounted here")
        return 0
    counts, faults = Counter[tuple[str, str]](), 0
    for name, disk, ending in attempts(given.count, given.only.split(","), given.seed):
        known = ending in ("done", "refused")
        counts[name, ending if known else "faults"] += 1
        if not known:
            faults += 1
            print(f"{name}, {disk}: {ending}", flush=True)
    for name in STAGES:
        if any(stage == name for stage, _ in counts):
            print(f"{name}: " + ", ".join(f"{counts[name, end]} {end}" for end in ("done", "refused", "faults")))
    print(f"disks: {given.count}, faults: {faults}, seed {given.seed}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
