"""Signals at random moments of every kind of command: nothing is left behind, nothing is lost, nothing is half written.

`python tests/torture/signals.py [--count 200] [--kills 20] [--seed 1] [--only STAGE,...]` ends each of so many commands
by SIGINT, SIGTERM or SIGHUP, somewhere between its start and its end, and then kills the whole process group of one
profile again and again until it is done. It prints what came of them, and ends with 1 where there is a fault.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import run
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

LATTE = (sys.executable, "-m", "latte_cli")
SECOND_S = 1.0
OLD = b"what was there before\n"
DEVICE = "reference-amd-epyc-family-26-model-2-2c-2t"


class Fault(Exception):
    """What should not have happened."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command with its files: `words` in a separate folder, and what has to hold there whenever it ended.

    `prepare` is given the folder before, `check` after.
    """

    words: tuple[object, ...]
    prepare: Callable[[Path], None] = lambda folder: None
    check: Callable[[Path], None] = lambda folder: None


# What has to hold


def whole_json(name: str) -> Callable[[Path], None]:
    """A check that a file is not there, or whole."""

    def check(folder: Path) -> None:
        path = folder / name
        if path.exists():
            json.loads(path.read_text("utf-8"))

    return check


def whole_model(folder: Path) -> None:
    """A model is not there, or can be read."""
    from latte_cli.network import load

    if (folder / "out.onnx").exists():
        load(folder / "out.onnx", batch_size=2)


def whole_selector(folder: Path) -> None:
    """Selectors, where there are any, can be read."""
    from latte_cli.selector import load_selector

    for path in (folder / "selectors").glob("*"):
        load_selector(path)


def whole_page(folder: Path) -> None:
    """A page is not there, or ends as one."""
    path = folder / "out.html"
    if path.exists() and not path.read_text("utf-8").rstrip().endswith("</html>"):
        raise Fault("half a page")


def rows(folder: Path) -> Counter[str]:
    """The tasks of all rows of the store in a folder."""
    from latte_cli.store import open_store

    store = open_store(str(folder / "store"), shipped=False)
    if store.check().damaged:
        raise Fault("a damaged part")
    return Counter(
        f"{row.task.id} {row.sweep_pass}" for device in store.devices() for row in store.measurements(device.slug)
    )


def many_parts(folder: Path) -> None:
    """A store of forty small parts, half of which repeat the others."""
    import made_rows

    from latte_cli.layers import Linear
    from latte_cli.store import open_store

    store = open_store(str(folder / "store"), shipped=False)
    for at in range(40):
        layer = Linear(rows=1, in_features=8 + at % 20, out_features=4)
        made_rows.profile(store, [layer])
        shutil.rmtree(folder / "store" / ".journal", ignore_errors=True)


@cache
def _rows_of_many_parts() -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        many_parts(Path(folder))
        return rows(Path(folder))


def no_row_lost(folder: Path) -> None:
    """All rows of `many_parts` are there, once each."""
    found, wanted = rows(folder), _rows_of_many_parts()
    if lost := wanted - found:
        raise Fault(f"{len(lost)} of {len(wanted)} rows are lost")


def once_each(folder: Path) -> None:
    """No task of the store is there twice."""
    if (folder / "store").exists() and (twice := [key for key, times in rows(folder).items() if times > 1]):
        raise Fault(f"{len(twice)} tasks are there twice")


def small_study(folder: Path) -> None:
    """The study of the tests, as a file."""
    import yaml
    from small_study import STUDY

    small = STUDY | {"seeds": [1], "methods": ["fedavg"], "scenarios": STUDY["scenarios"][:1]}
    (folder / "study.yaml").write_text(yaml.safe_dump(small))


def own_rows(folder: Path) -> None:
    """A store of rows of this very machine."""
    import made_rows

    from latte_cli.network import load
    from latte_cli.store import open_store

    store = open_store(str(folder / "store"), shipped=False)
    made_rows.profile_here(store, made_rows.step_layers(load(folder / "model.onnx")))


def fleet(folder: Path) -> None:
    """A fleet of two classes."""
    own = {"device": DEVICE, "samples": 64, "batch": 8, "bandwidth": {"up": "5Mbit", "down": "20Mbit"}}
    classes = [{"class": name, **own} for name in ("one", "two")]
    (folder / "fleet.yaml").write_text(json.dumps({"round_duration": "10s", "classes": classes}))


def import_file(folder: Path) -> None:
    """A store of few rows, and a file of others'."""
    import test_importers

    many_parts(folder)
    (folder / "in.csv").write_text(test_importers.LATTE_ROWS)


def plan(folder: Path) -> None:
    """A plan in a file."""
    fleet(folder)
    run([*LATTE, *ALLOCATE, "-o", "plan.json"], cwd=folder, env=environment(folder), capture_output=True, check=True)


def damaged_part(folder: Path) -> None:
    """A store of few rows, and a part that is none."""
    many_parts(folder)
    (home,) = (folder / "store").glob("device=*")
    (home / "part-0.parquet").write_bytes(b"no part")


def whole_picture(folder: Path) -> None:
    """A picture is not there, or ends as one."""
    path = folder / "out.svg"
    if path.exists() and path.read_bytes() != OLD and not path.read_text("utf-8").rstrip().endswith("</svg>"):
        raise Fault("half a picture")


def no_row_or_part_lost(folder: Path) -> None:
    """All rows are there, and the damaged part in its place or set aside."""
    parts = list((folder / "store").rglob("part-0.parquet"))
    if [path.read_bytes() for path in parts] != [b"no part"]:
        raise Fault("the damaged part is lost")
    parts[0].unlink()
    no_row_lost(folder)


def whole_choices(folder: Path) -> None:
    """A file of choices is not there, or can be read."""
    from latte_cli.runtime.choices import read_choices

    if (folder / "out.json").exists() and (folder / "out.json").read_bytes() != OLD:
        read_choices(folder / "out.json")


def no_row_lost_to_others(folder: Path) -> None:
    """The rows that the store had are there, whatever was added."""
    shutil.rmtree(folder / "store" / "device=latte-dataset", ignore_errors=True)
    no_row_lost(folder)


ALLOCATE = ("allocate", "model.onnx", "--fleet", "fleet.yaml")
PROFILE = ("profile", "--suite", "convolutions", "--threads", 1, "--phases", "forward", "--store", "store")

STAGES: dict[str, Stage] = {
    "version": Stage(words=("--version",)),
    "help": Stage(words=("allocate", "--help")),
    "profile": Stage(words=(*PROFILE, "--configs", 2), check=once_each),
    "doctor": Stage(words=("doctor",)),
    "zoo": Stage(words=("zoo", "export", "resnet18", "out.onnx", "--weights"), check=whole_model),
    "estimate": Stage(words=("estimate", "model.onnx", "--device", DEVICE, "--format", "json")),
    "verify": Stage(words=("verify", "model.onnx", "--store", "store", "--seconds", "1s"), prepare=own_rows),
    "report": Stage(words=("report", "model.onnx", "--device", DEVICE, "--output", "out.html"), check=whole_page),
    "allocate": Stage(
        words=(*ALLOCATE, "--fine", "-o", "out.json"),
        prepare=fleet,
        check=whole_json("out.json"),
    ),
    "simulate": Stage(words=("simulate", "study.yaml", "--output", "results"), prepare=small_study),
    "train-selector": Stage(
        words=("train-selector", "--device", DEVICE, "--folds", 2, "--output", "selectors"), check=whole_selector
    ),
    "compact": Stage(words=("store", "compact", "--store", "store"), prepare=many_parts, check=no_row_lost),
    "merge": Stage(words=("store", "merge", "store", "--store", "other"), prepare=many_parts, check=no_row_lost),
    "export": Stage(
        words=("store", "export", "--store", "store", "-o", "out.csv"), prepare=many_parts, check=no_row_lost
    ),
    "import": Stage(
        words=("import", "latte-csv", "in.csv", "--store", "store"),
        prepare=import_file,
        check=no_row_lost_to_others,
    ),
    "set-aside": Stage(
        words=("store", "check", "--set-aside", "--store", "store"),
        prepare=damaged_part,
        check=no_row_or_part_lost,
    ),
    "tune": Stage(words=("tune", "model.onnx", "-o", "out.json", "--seconds", "0.1s"), check=whole_choices),
    "train-estimator": Stage(words=("train-estimator", "--device", "nvidia-h200-reference", "--output", "estimators")),
    "explain": Stage(words=("explain", "model.onnx", "--device", DEVICE)),
    "picture": Stage(words=("plan", "show", "plan.json", "--picture", "out.svg"), prepare=plan, check=whole_picture),
    "plan-check": Stage(words=("plan", "check", "plan.json", "model.onnx"), prepare=plan),
    "plan-diff": Stage(words=("plan", "diff", "plan.json", "plan.json"), prepare=plan),
    "info": Stage(words=("store", "info", "--store", "store"), prepare=many_parts, check=no_row_lost),
    "devices-list": Stage(words=("store", "devices", "--store", "store"), prepare=many_parts, check=no_row_lost),
    "zoo-list": Stage(words=("zoo", "list")),
    "known-devices": Stage(words=("devices", "--store", "store"), prepare=many_parts, check=no_row_lost),
    "compare": Stage(words=("compare", "model.onnx", "--batch-size", "2,4", "--device", DEVICE)),
}


# Signals


@cache
def model() -> bytes:
    """A small network with weights."""
    from latte_cli.network import zoo

    return zoo.export("custom_cnn", image_size=16, weights=True)


def command(stage: Stage, folder: Path) -> Any:
    """The command of a stage, begun in its folder with separate data directories."""
    from processes import Marked

    homes = {name: str(folder / "home") for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME")}
    paths = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    where = ("env", "-C", folder)
    return Marked([*where, *LATTE, *stage.words], PYTHONPATH=paths, **homes)


def begin(stage: Stage, folder: Path) -> None:
    """Make the files that a stage starts from."""
    (folder / "model.onnx").write_bytes(model())
    stage.prepare(folder)


@cache
def length_s(name: str) -> float:
    """How long a stage takes when it is left alone."""
    stage = STAGES[name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        begin(stage, folder)
        started = time.monotonic()
        with command(stage, folder) as one:
            out, err = one.process.communicate()
        if one.process.returncode not in (0, 1, 3):
            raise SystemExit(f"{name} does not run: {out[-500:]}{err[-500:]}")
        stage.check(folder)
        return time.monotonic() - started


def interrupted(name: str, number: signal.Signals, after_s: float, *, group: bool) -> str:
    """How a stage ended that was sent a signal so long after its start: `done`, `interrupted` or what was wrong."""
    stage = STAGES[name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        begin(stage, folder)
        with command(stage, folder) as one:
            time.sleep(after_s)
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(one.process.pid, number)
            sent = time.monotonic()
            _, err = one.process.communicate(timeout=60)
            waited_s = time.monotonic() - sent
            left = one.left(SECOND_S)
        try:
            check_end(one.process.returncode, err, number, left)
            check_folder(folder)
            stage.check(folder)
        except Fault as fault:
            return f"{fault} ({waited_s:.1f} s after the signal)"
        return "done" if one.process.returncode in (0, 1, 3) else "interrupted"


def check_end(code: int, err: str, number: signal.Signals, left: dict[int, str]) -> None:
    """Raise Fault for how a process that was sent a signal ended."""
    if left:
        raise Fault(f"still there: {list(left.values())}")
    if "Traceback" in err and "latte_cli" in err:  # else it is the interpreter's, which had not begun with ours
        raise Fault(f"a traceback: {err[-600:]!r}")
    if code not in (0, 1, 3, 130, -number):
        raise Fault(f"ended with {code}: {err[-200:]!r}")


def check_folder(folder: Path) -> None:
    """Raise Fault for files that are no results."""
    if odd := [each.name for each in folder.rglob("*") if each.name.endswith((".tmp", ".part"))]:
        raise Fault(f"left behind: {odd}")


# Kills


def killed(times: int, draw: random.Random) -> str:
    """How a profile ends whose process group is killed again and again and which is then run to its end."""
    stage = Stage(words=(*PROFILE, "--configs", 10, "--format", "json"))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for _ in range(times):
            with command(stage, folder) as one:
                time.sleep(draw.uniform(0.5, 8))
                with suppress(ProcessLookupError):
                    os.killpg(one.process.pid, signal.SIGKILL)
                if left := one.left(SECOND_S):
                    return f"still there after a kill: {list(left.values())}"
        done = run(
            [*LATTE, *map(str, stage.words)], cwd=folder, capture_output=True, text=True, env=environment(folder)
        )
        if done.returncode:
            return f"ended with {done.returncode}: {done.stderr[-300:]}"
        found, document = rows(folder), json.loads(done.stdout)
        if len(found) < document["tasks"] or set(found.values()) != {1}:
            return f"{len(found)} rows of {document['tasks']} tasks, {max(found.values())} of one"
    return "once each"


def environment(folder: Path) -> dict[str, str]:
    """The environment of a command with separate data directories."""
    homes = {name: str(folder / "home") for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME")}
    return dict(os.environ) | homes | {"PYTHONPATH": str(HERE.parents[1])}


def attempts(count: int, names: list[str], draw: random.Random) -> Iterator[tuple[str, str, str]]:
    """Each signal: the stage, what was sent when, and what came of it."""
    from processes import ENDINGS

    for at in range(count):
        name, number, group = names[at % len(names)], draw.choice(ENDINGS), draw.random() < 0.5
        after_s = draw.uniform(0, 1.05) * length_s(name) if draw.random() < 0.7 else draw.uniform(0, 1)
        how = f"{number.name} to the {'group' if group else 'process'} after {after_s:.3f} s"
        yield name, how, interrupted(name, number, after_s, group=group)


def main() -> int:
    """The exit code: 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", default=hashlib.sha256(os.urandom(8)).hexdigest()[:8])
    parser.add_argument("--only", default=",".join(STAGES), help="stages, separated by commas")
    given = parser.parse_args()
    draw, counts, faults = random.Random(given.seed), Counter[tuple[str, str]](), 0
    for name, how, ending in attempts(given.count, given.only.split(","), draw):
        known = ending in ("done", "interrupted")
        counts[name, ending if known else "faults"] += 1
        if not known:
            faults += 1
            print(f"{name}, {how}: {ending}", flush=True)
    for name in STAGES:
        if any(stage == name for stage, _ in counts):
            print(f"{name}: " + ", ".join(f"{counts[name, end]} {end}" for end in ("done", "interrupted", "faults")))
    if given.kills:
        ending = killed(given.kills, draw)
        faults += ending != "once each"
        print(f"a profile killed {given.kills} times: {ending}")
    print(f"signals: {given.count}, kills: {given.kills}, faults: {faults}, seed {given.seed}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
