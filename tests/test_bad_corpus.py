"""Every file of the corpus is read or refused in one line: quickly, in little memory, touching nothing else."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import bad_models
import pytest
from reading_bad_models import MOST_SAMPLES

READING = Path(__file__).parent / "reading_bad_models.py"


def _read(paths: list[Path], folder: Path) -> tuple[list[dict[str, object]], list[str]]:
    """What was found out of each file, and those at which the process died."""
    found: list[dict[str, object]] = []
    died: list[str] = []
    while len(found) < len(paths):
        left = paths[len(found) :]
        done = subprocess.run(
            [sys.executable, str(READING), str(folder / "sample.onnx")],
            input="".join(f"{path}\n" for path in left),
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        endings = [line for line in lines if "ending" in line]
        assert lines, done.stderr[-2000:]
        found += endings
        if len(endings) < len(left):
            died.append(f"{lines[-1]['reading']}: code {done.returncode}, {done.stderr[-300:]}")
            found.append({"ending": "death", "cpu_s": 0.0, "times_sample": 0.0, "opened": []})
    return found, died


def _outside(opened: list[str], folder: Path) -> list[str]:
    """What was opened that is neither a file of the folder nor a module of Python's."""
    own = (str(folder), sys.prefix, sys.base_prefix, str(Path(__file__).parents[1] / "latte_cli"))
    link = str(folder / "link.bin")
    return [name for name in opened if not os.path.abspath(name).startswith(own) or name.startswith(link)]  # noqa: PTH100


@pytest.mark.timeout(900)
def test_each_file_of_the_corpus_is_a_network_or_one_line_of_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    paths = bad_models.write(folder)
    assert len(paths) >= 200
    found, died = _read(paths, tmp_path)
    assert not died, "\n".join(died)
    pairs = list(zip(paths, found, strict=True))
    wrong = [f"{path.name}: {line['ending']}" for path, line in pairs if line["ending"] not in ("network", "error")]
    assert not wrong, "\n".join(wrong)
    slow = [f"{path.name}: {line['cpu_s']:.1f} s" for path, line in pairs if line["times_sample"] > MOST_SAMPLES]  # type: ignore[operator]
    assert not slow, "\n".join(slow)
    touched = [f"{path.name}: {more}" for path, line in pairs if (more := _outside(line["opened"], folder))]  # type: ignore[arg-type]
    assert not touched, "\n".join(touched)
    assert not Path("unpickled").exists()
    with capsys.disabled():
        sys.stdout.write(f"\n{len(paths)} bad files: {dict(Counter(line['ending'] for line in found))}\n")
