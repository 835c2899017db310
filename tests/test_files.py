"""Files appear whole or not at all, and what cannot be written is one error."""

import ast
import resource
import stat
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import latte_cli
from latte_cli import files
from latte_cli.errors import LatteError
from latte_cli.network.parts import write_arrays
from latte_cli.report import pictures
from latte_cli.report.pictures.drawing import figure_of
from latte_cli.store.columns import write_columns

WRITERS = {
    "text": lambda path: files.write_file(path, "a" * 100_000),
    "bytes": lambda path: files.write_file(path, b"a" * 100_000),
    "columns.csv": lambda path: write_columns(path, {"device": [f"d{n}" for n in range(20_000)]}),
    "columns.parquet": lambda path: write_columns(path, {"number": np.random.default_rng(1).random(20_000)}),
    "picture.png": lambda path: pictures.save_figure(figure_of(4, 3)[0], path),
    "picture.svg": lambda path: pictures.save_figure(figure_of(4, 3)[0], path),
    "arrays.safetensors": lambda path: write_arrays(path, {"a": np.zeros(20_000)}),
}


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_written_whole_and_alone(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    WRITERS[name](tmp_path / name)
    assert everything(tmp_path) == [name]
    assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_takes_no_file_is_one_error_and_stays_as_it_was(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder" / name).mkdir(parents=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / name).symlink_to("/dev/full")
    before = everything(tmp_path)
    for place in ("full", "folder", "missing", "file", "missing/further"):
        with pytest.raises(LatteError, match=name) as error:
            WRITERS[name](tmp_path / place / name)
        assert "\n" not in error.value.message
        assert error.value.hint
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_without_room_leaves_the_old_file_and_nothing_else(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(LatteError, match=f"cannot write .*{name}.: File too large"):
            WRITERS[name](tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, LatteError])
def test_whatever_interrupts_writing_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(error), files.text_replacement(tmp_path / "file") as out:
        out.write("half")
        raise error("interrupted")
    assert everything(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_fault_that_the_writing_library_swallows_is_told_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(LatteError, match="No space left"), files.replacement(Path("/dev/full")) as out:
        for _ in range(2):
            with suppress(LatteError):
                out.write(b"a" * 100_000)


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    files.write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    files.check_free(Path("/dev/null"), force=False)
    files.write_file(Path("/dev/null"), "new")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_file_there_is_lost_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    files.check_free(tmp_path / "other", force=False)
    files.check_free(tmp_path / "file", force=True)
    with pytest.raises(LatteError, match="is there already"):
        files.check_free(tmp_path / "file", force=False)


def test_a_name_longer_than_any_file_s_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(LatteError, match="cannot write"):
        files.check_free(tmp_path / ("a" * 300), force=False)
    files.write_file(tmp_path / ("a" * 255), "as long as they get")


OTHERS = {
    "files.py",
    "store/parts.py",  # the store's own protocol
    "store/journal.py",
    "child.py",  # /proc, and what a child answers
    "allocator/program.py",  # the null device
    "federated/device.py",  # a temporary folder
    "cli/help.py",  # a formatter's method of that name
}


def test_files_are_written_in_one_place_only() -> None:
    root, found = Path(latte_cli.__file__).parent, set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            opens = name == "open" and any(mode.strip("bt+") in ("w", "x", "a") for mode in modes)
            if opens or name in ("write_text", "write_bytes", "save_file", "NamedTemporaryFile", "mkstemp"):
                found.add(str(path.relative_to(root)))
    assert found <= OTHERS
