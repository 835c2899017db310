"""The most memory that a command and all that it starts hold at once, by process.

Looks every half second, under Linux, until the command ends or Ctrl-C ends it. `own` shares what processes have in
common among them, so that its sum is what the machine has to have; `resident` counts that in each of them.

    python benchmarks/process_memory.py flower-superlink --simulation --insecure --host 127.0.0.1 --port 9093
"""

import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
EVERY_S = 0.5
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a process holds, in bytes."""

    name: str
    own: int
    resident: int


def descendants(root: int) -> list[int]:
    """The process and those that it started, and so on."""
    children = defaultdict[int, list[int]](list)
    for status in PROC.glob("[0-9]*/stat"):
        with suppress(OSError):
            children[int(status.read_text().rpartition(")")[2].split()[1])].append(int(status.parent.name))
    found = [root]
    for process in found:
        found += children[process]
    return found


def memory(processes: list[int]) -> Iterator[Held]:
    for process in processes:
        folder = PROC / str(process)
        with suppress(OSError):
            rows = (line.split() for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
            sizes = {row[0]: 1024 * int(row[1]) for row in rows}
            words = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").split()
            yield Held(name=" ".join(words)[:80], own=sizes["Pss:"], resident=sizes["Rss:"])


def own_bytes(held: Iterable[Held]) -> int:
    return sum(each.own for each in held)


def lines(held: Collection[Held]) -> Iterator[str]:
    """What each process holds, the largest first, and their sum."""
    for each in sorted(held, key=lambda each: -each.own):
        yield f"{each.own / MIB:7.0f} MiB own {each.resident / MIB:7.0f} MiB resident  {each.name}"
    own, resident = own_bytes(held), sum(each.resident for each in held)
    yield f"{own / MIB:7.0f} MiB own {resident / MIB:7.0f} MiB resident  in all, of {len(held)} processes"


def main() -> int:
    if not sys.argv[1:]:
        print(__doc__)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts what is in the background deaf to Ctrl-C
        signal.signal(number, signal.default_int_handler)
    most: list[Held] = []
    with subprocess.Popen(sys.argv[1:], start_new_session=True) as process:
        try:
            while process.poll() is None:
                most = max(most, list(memory(descendants(process.pid))), key=own_bytes)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(EVERY_S)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
    print("\n".join(lines(most)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
