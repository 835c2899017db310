"""Flower's simulation engine with a fleet of virtual devices, run and checked: docs/federation/simulation.md.

Runs the commands of that page in a separate folder, on a free port, with the page's fleet of as many devices as
`--devices` says, its classes in the page's shares. Then it reads `rounds.json`: no device was refused or left out, each
is called by its class and number, and in each round all took part, or as many as `--per-round` says. Prints the seconds
of the run, the most memory that its processes held at once, and what is wrong; exits with 1 where anything is. It runs
under Linux, and stops all that it started, also on Ctrl-C.
"""

import argparse
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import yaml
from process_memory import EVERY_S, Held, descendants, lines, memory, own_bytes

PAGE = Path(__file__).parents[1] / "docs" / "federation" / "simulation.md"

NEEDED = ("flwr", "ray", "mlxtend")
INSTALL = f"{sys.executable} -m pip install -c constraints.txt -e '.[simulation]' mlxtend"

START_S = 120  # chosen: far over the seconds that a SuperLink takes to listen
LONGEST_S = 7200  # chosen: far over the minutes that a thousand devices take
STOP_S = 20  # chosen: Ray takes seconds to end its workers
LAST_LINES = 25  # of the SuperLink's log, where it fails
SHOWN = 3  # names in a message

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Failed(Exception):
    """The run came to no result; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The page's commands for bash: one starts the SuperLink, the other runs the app."""

    superlink: str
    run: str


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A run that ended: its `rounds.json`, its seconds, and what its processes held when they held most."""

    document: Mapping[str, Any]
    seconds: float
    most: Sequence[Held]


# The page


def block(page: str, words: str) -> str:
    """The one block of code in the page that has these words."""
    found = [code for code in re.findall(r"^```[a-z]+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if words in code]
    if len(found) != 1:
        raise SystemExit(f"`{PAGE}` has {len(found)} blocks with `{words}` instead of 1")
    return str(found[0])


def change(code: str, changes: Iterable[tuple[str, str]]) -> str:
    """The code with each first text, which it has to hold once, replaced by the second one."""
    for before, after in changes:
        if code.count(before) != 1:
            raise SystemExit(f"`{PAGE}` has `{before}` {code.count(before)} times in a command instead of once")
        code = code.replace(before, after)
    return code


def commands(page: str, *, port: int, devices: int, rounds: int, per_round: int) -> Commands:
    """The page's commands, which run in a folder with `fleet.yaml`."""
    exports = block(page, "export FLWR_HOME")
    own_port = ("9093", str(port))
    changes = [
        own_port,
        ("flwr run docs/federation ", f'flwr run "{PAGE.parent}" '),
        ("num-supernodes=1000 ", f"num-supernodes={devices} "),
        ('"devices=1000 ', f'"devices={devices} per-round={per_round} '),
        (" rounds=2 ", f" rounds={rounds} "),
    ]
    return Commands(
        superlink=exports + change(block(page, "flower-superlink"), [own_port]),
        run=exports + change(block(page, "flwr run"), changes),
    )


def fleet_classes(page: str, devices: int) -> list[dict[str, Any]]:
    """The classes of the page's fleet for so many devices, in the same shares; one without devices is left out."""
    classes = yaml.safe_load(block(page, "classes:"))["classes"]
    ends = [0, *accumulate(each["count"] for each in classes)]
    counts = [end - start for start, end in pairwise(round(devices * end / ends[-1]) for end in ends)]
    return [{**each, "count": count} for each, count in zip(classes, counts, strict=True) if count]


def device_names(classes: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the virtual devices of the classes are called, by their numbers."""
    names = [each["class"] for each in classes for _ in range(each["count"])]
    return [f"{name}-{number}" for number, name in enumerate(names)]


# The check


def faults(document: Mapping[str, Any], names: Sequence[str], *, rounds: int, per_round: int) -> Iterator[str]:
    """What is wrong in a `rounds.json` of these devices, of which `per_round` take part in each round (0: all)."""
    if document["refused"]:
        yield f"{len(document['refused'])} devices were refused: {_some(document['refused'])}"
    found = {each["number"]: each["name"] for each in document["devices"]}
    if missing := [name for number, name in enumerate(names) if number not in found]:
        yield f"{len(missing)} devices are missing: {_some(missing)}"
    wanted = dict(enumerate(names))
    if others := [f"{number} is `{name}`" for number, name in found.items() if wanted.get(number) != name]:
        yield f"{len(others)} devices are not called by their class and number: {_some(others)}"
    if len(document["rounds"]) != rounds:
        yield f"there are {len(document['rounds'])} rounds instead of {rounds}"
    for each in document["rounds"]:
        for fault in _faults_of_round(each, names, min(per_round or len(names), len(names))):
            yield f"round {each['number']}: {fault}"


def _faults_of_round(entry: Mapping[str, Any], names: Sequence[str], count: int) -> Iterator[str]:
    trained = Counter[str](each["name"] for each in entry["trained"])
    if len(trained) != count:
        yield f"{len(trained)} devices took part instead of {count}"
    if twice := [name for name, times in trained.items() if times > 1]:
        yield f"{len(twice)} devices took part more than once: {_some(twice)}"
    if strangers := sorted(trained.keys() - set(names)):
        yield f"{len(strangers)} devices took part that are not of the fleet: {_some(strangers)}"
    if left_out := [": ".join(each) for each in entry["left_out"]]:
        yield f"{len(left_out)} devices were left out: {_some(left_out)}"


def _some(found: Sequence[str]) -> str:
    return ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "")


# The run


def adopt_orphans() -> None:
    """Let processes whose parent ends become this one's children, so that it finds all that it started."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def stop_all() -> None:
    """End all that this process started: ask first, and kill what lives `STOP_S` later."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in descendants(os.getpid())[1:]:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        until_s = time.monotonic() + STOP_S
        while _has_children() and time.monotonic() < until_s:
            time.sleep(0.1)


def _has_children() -> bool:
    """Whether a child still lives; forgets those that ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    return False


def start(command: str, folder: Path, output: IO[bytes] | IO[str]) -> subprocess.Popen[bytes]:
    """Start a command of bash in `folder`, with this Python's commands, and with Ray apart from any other Ray."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment["RAY_TMPDIR"] = str(folder)
    return subprocess.Popen(
        ["bash", "-euc", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C ends this process, which ends the others
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(chosen: Commands, folder: Path, port: int) -> Ran:
    """Run the commands in `folder`, which has `fleet.yaml`; raises Failed where there is no result."""
    log = folder / "superlink.log"
    with log.open("wb") as file:
        superlink = start(chosen.superlink, folder, file)
    until_s = time.monotonic() + START_S
    while not listening(port):
        if superlink.poll() is not None or time.monotonic() > until_s:
            raise Failed(f"the SuperLink does not listen:\n{_last_lines(log)}")
        time.sleep(0.1)
    began_s = time.monotonic()
    running, most = start(chosen.run, folder, sys.stderr), list[Held]()
    while running.poll() is None:
        most = max(most, list(memory(descendants(os.getpid())[1:])), key=own_bytes)
        if superlink.poll() is not None:
            raise Failed(f"the SuperLink ended:\n{_last_lines(log)}")
        if time.monotonic() > began_s + LONGEST_S:
            raise Failed(f"the run did not end in {LONGEST_S} s")
        with suppress(subprocess.TimeoutExpired):
            running.wait(EVERY_S)
    seconds, result = time.monotonic() - began_s, folder / "result" / "rounds.json"
    if not result.exists():
        raise Failed("the run wrote no `rounds.json`; what it said is above")
    return Ran(document=json.loads(result.read_text("utf-8")), seconds=seconds, most=most)


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-LAST_LINES:])


def check(devices: int, rounds: int, per_round: int) -> bool:
    """Run the page with so many devices and rounds, and say what came of it; whether all was right."""
    page, port = PAGE.read_text("utf-8"), free_port()
    classes = fleet_classes(page, devices)
    chosen = commands(page, port=port, devices=devices, rounds=rounds, per_round=per_round)
    with TemporaryDirectory(prefix="latte-") as name:  # short: Ray's sockets are in it
        folder = Path(name)
        (folder / "fleet.yaml").write_text(yaml.safe_dump({"classes": classes}), "utf-8")
        try:
            ran = run(chosen, folder, port)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            stop_all()
    print("\n".join(lines(ran.most)))
    counts = ", ".join(f"{each['count']:,} {each['class']}" for each in classes)
    print(f"{devices:,} devices ({counts}), {rounds} rounds: {ran.seconds:.0f} s from `flwr run` to its end")
    found = list(faults(ran.document, device_names(classes), rounds=rounds, per_round=per_round))
    print("\n".join(f"failed: {each}" for each in found) or "passed: no device is missing, and each has its own name")
    return not found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--per-round", type=int, default=0, help="so many devices take part in a round; 0: all")
    given = parser.parse_args()
    if min(given.devices, given.rounds) < 1 or given.per_round < 0:
        parser.error("there have to be devices and rounds")
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"{', '.join(missing)} missing; `{INSTALL}` installs what is needed", file=sys.stderr)
        return 1
    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts what is in the background deaf to Ctrl-C
        signal.signal(number, signal.default_int_handler)
    try:
        return 0 if check(given.devices, given.rounds, given.per_round) else 1
    except Failed as exc:
        print(f"failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
