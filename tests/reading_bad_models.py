"""Reads each model file that it is given in this one process; prints a line of JSON for each as it goes.

`python tests/reading_bad_models.py SAMPLE < PATHS`. A line says how it ended (`network`, `error`, or what was raised),
the seconds of CPU time, how many times the sample could have been read in them, and the files that were opened
meanwhile. Memory beyond the limit is refused to the process.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

LIMIT_BYTES = 2 * 2**30
QUICK_S = 0.5
"""What takes less is not compared with the sample."""
MOST_SAMPLES = 600
"""CPU time in readings of a ResNet-8, which the machine's speed does not change; 5 s where a reading takes 8 ms."""

_opened: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.open", "os.listdir", "pickle.find_class", "subprocess.Popen", "socket.connect"):
        _opened.append(str(arguments[0] if event == "open" else f"{event} {arguments[0]}"))


def _ending(path: Path) -> str:
    from latte_cli.errors import LatteError
    from latte_cli.network import load

    try:
        load(path, batch_size=2)
    except LatteError as error:
        told = error.hint and "\n" not in error.message and len(error.message) < 500
        return "error" if told else f"an error that is not one short line with a hint: {error.message[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "network"


def times_sample(spent_s: float, sample: Path | bytes) -> float:
    """CPU time in readings of the sample now: a machine shared with others halves and doubles its speed."""
    from latte_cli.network import load

    if spent_s < QUICK_S:
        return 0.0
    readings = []
    for _ in range(5):
        start = time.process_time()
        load(sample, batch_size=2)
        readings.append(time.process_time() - start)
    return spent_s / sorted(readings)[2]


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    import pickle  # noqa: F401 - so that its loading is not taken for a model's

    from latte_cli.network import load, zoo

    sample = Path(sys.argv[1])
    sample.write_bytes(zoo.export("resnet8"))
    load(sample, batch_size=2)  # imports what reading needs
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    sys.addaudithook(_audit)
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        _say({"reading": path.name})
        _opened.clear()
        start = time.process_time()
        ending = _ending(path)
        spent_s = time.process_time() - start
        opened = list(_opened)
        _say({"ending": ending, "cpu_s": spent_s, "times_sample": times_sample(spent_s, sample), "opened": opened})


if __name__ == "__main__":
    main()
