"""A share of `make torture`: hostile files, signals, disks and clocks, and the faults that it found."""

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from running import ended
from test_help import COMMANDS
from test_importers import NEUSIGHT

from latte_cli import files, importers
from latte_cli.errors import LatteError
from latte_cli.files import first_bytes
from latte_cli.importers import ImportSource, import_file
from latte_cli.layers import Copy
from latte_cli.network import load
from latte_cli.network.weights import weights
from latte_cli.store import open_store
from latte_cli.store.columns import read_columns

FILES, SIGNALS, DISKS, CLOCKS = (
    Path(__file__).parent / "torture" / f"{name}.py" for name in ("files", "signals", "disks", "clocks")
)


@pytest.mark.timeout(300)
def test_hostile_files_are_read_or_refused_in_one_line() -> None:
    command = [sys.executable, str(FILES), "--count", "150", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "files: 150, faults: 0, seed 1" in done.stdout


@pytest.mark.timeout(300)
def test_signals_at_random_moments_leave_nothing_behind() -> None:
    command = [sys.executable, str(SIGNALS), "--count", "6", "--kills", "0", "--only", "compact,merge"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "signals: 6, kills: 0, faults: 0" in done.stdout


@pytest.mark.parametrize("part", ["signals", "disks"])
def test_every_command_is_tried(part: str) -> None:
    code = f"import {part}; [print(*getattr(each, 'stage', each).words) for each in {part}.STAGES.values()]"
    done = subprocess.run([sys.executable, "-c", code], cwd=FILES.parent, capture_output=True, text=True, check=True)
    tried = {tuple(line.split()[:length]) for line in done.stdout.splitlines() for length in (1, 2)}
    assert {path[: 1 if path[0] == "import" else 2] for path in COMMANDS if path} <= tried


@pytest.mark.timeout(300)
def test_disks_that_are_full_or_read_only_lose_nothing_and_are_told_in_one_line() -> None:
    command = [sys.executable, str(DISKS), "--count", "6", "--seed", "1", "--only", "zoo,merge,import"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"disks: 6, faults: 0, seed 1|no disk can be mounted", done.stdout)


def test_clocks_that_jump_lose_no_row() -> None:
    command = [sys.executable, str(CLOCKS), "--count", "12", "--profiles", "0", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "clocks: 12, profiles: 0, faults: 0, seed 1" in done.stdout


WEIGHT = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
CPU = "reference-amd-epyc-family-26-model-2-2c-2t"
ESTIMATE = f"estimate m.onnx --device {CPU} --optimizer none"


def model(path: Path, *nodes: Any, shape: Sequence[int] = (1, 3, 8, 8), stored: Sequence[TensorProto] = ()) -> Path:
    """A model of these nodes, from `x` to `y`."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    between = helper.make_tensor_value_info("u", TensorProto.FLOAT, [1, 4, 6, 6])
    graph = helper.make_graph(list(nodes), "g", inputs, [output], initializer=stored, value_info=[between])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("some.where", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def test_layers_after_an_operator_that_is_not_known_are_estimated(tmp_path: Path) -> None:
    nodes = (
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Strange", ["c"], ["u"], domain="some.where"),
        helper.make_node("Relu", ["u"], ["y"]),
    )
    path = model(tmp_path / "m.onnx", *nodes, stored=[WEIGHT])
    network = load(path, allow_unknown=True)
    assert network.shapes["u"] == (1, 4, 6, 6)
    done = ended("estimate", path, "--device", CPU, "--allow-unknown")
    assert done.returncode == 0, done.stderr


def test_a_shape_of_millions_of_dimensions_is_refused_before_anyone_makes_a_list_of_it(tmp_path: Path) -> None:
    sizes = TensorProto(name="s", data_type=TensorProto.INT64, dims=[2**27])
    nodes = (helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"]))
    with pytest.raises(LatteError, match="its result would have 134217728 dimensions"):
        load(model(tmp_path / "m.onnx", *nodes, stored=[sizes]))


def test_a_network_whose_inputs_are_empty_says_so(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", helper.make_node("Softmax", ["x"], ["y"]), shape=(4, 0))
    done = ended("estimate", path, "--device", CPU, "--optimizer", "none")
    said = done.stderr.splitlines()
    assert (done.returncode, said[0]) == (1, "error: the inputs are empty: `x` has the shape (4, 0)")


def test_a_pipe_is_no_model_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(LatteError, match="it is a pipe"):
        load(tmp_path / "m.onnx")


def test_a_name_of_megabytes_is_shortened_on_a_terminal(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", helper.make_node("Relu", ["n" * 10**6], ["y"]))
    done = ended("estimate", path, "--device", CPU)
    assert done.returncode == 1
    assert max(map(len, done.stderr.splitlines())) <= 2000


@pytest.mark.parametrize("content", ["device,class,samples,samples\na,b,1,2\n", "device,class,class\na,b,b\n"])
def test_a_column_that_is_there_twice_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "d.csv").write_text(content)
    with pytest.raises(LatteError, match="is there twice"):
        read_columns(tmp_path / "d.csv", ("device", "class"), ("samples",))


@pytest.mark.parametrize("lines", [["a" * (1 << 21)], ["a," * 3 + "b" * 200_000, "1,2"]])
@pytest.mark.parametrize("source", list(ImportSource))
def test_an_import_with_an_endless_line_is_refused(tmp_path: Path, source: ImportSource, lines: list[str]) -> None:
    path = tmp_path / "gfx90878.HIP.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(LatteError) as caught:
        import_file(path, source, open_store(str(tmp_path / "store"), shipped=False), name="some")
    assert caught.value.hint


def test_a_small_document_takes_little_memory_whatever_its_bound_is(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"12345")
    assert first_bytes(tmp_path / "small", 1 << 50) == b"12345"
    assert first_bytes(tmp_path / "small", 3) == b"1234"


# Archives and compressed files


@functools.cache
def program() -> bytes:
    """A small program of `torch.export`."""
    import torch

    file = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.zeros(1, 3),)), file)
    return file.getvalue()


def packed(content: bytes, compression: int) -> bytes:
    """The entries of an archive compressed in another way."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(file, "w", compression) as after:
        for entry in before.infolist():
            after.writestr(entry.filename, before.read(entry))
    return file.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_program_is_not_compressed_in_ways_that_torch_never_takes(
    tmp_path: Path, compression: int, damaged: bool
) -> None:
    content = bytearray(packed(program(), compression))
    if damaged:
        content[100:140] = bytes(40)
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(LatteError, match=r"`torch\.export` compresses nothing"):
        load(tmp_path / "m.pt2")


def encrypted(content: bytes) -> bytes:
    """The archive, all of whose entries say that they are encrypted."""
    found = bytearray(content)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for place in re.finditer(re.escape(mark), content):
            found[place.start() + at] |= 1
    return bytes(found)


SPOILT = {
    "encrypted": encrypted,
    "no list of weights": lambda content: content.replace(b'"config"', b'"confix"'),
    "a list that is none": lambda content: re.sub(
        rb"(model_weights_config.json.{0,80}?)\{", rb"\1[", content, flags=re.DOTALL
    ),
    "half": lambda content: content[: len(content) // 2],
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("read", [load, weights])
def test_a_damaged_program_is_read_as_far_as_it_goes_or_refused(
    tmp_path: Path, how: str, read: Callable[[Path], Any]
) -> None:
    whole = packed(program(), zipfile.ZIP_STORED)
    assert SPOILT[how](whole) != whole
    (tmp_path / "m.pt2").write_bytes(SPOILT[how](whole))
    with contextlib.suppress(LatteError):
        read(tmp_path / "m.pt2")


@pytest.mark.parametrize("source", list(ImportSource))
@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_compressed_file_with_a_byte_changed_is_imported_or_refused(
    tmp_path: Path, source: ImportSource, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    content = pack(b"".join(b"%d,%d,a=b:1\n" % (at, at * at) for at in range(300)))
    path = tmp_path / f"gfx90878.HIP.txt.{ending}"
    store = open_store(str(tmp_path / "store"), shipped=False)
    for at in range(0, len(content), 1 + len(content) // 80):
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        with pytest.raises(LatteError) as caught:
            import_file(path, source, store, name="some")
        assert caught.value.hint


HEADER = {
    ImportSource.LATTE_CSV: ",".join(importers._LATTE_COLUMNS),
    ImportSource.NEUSIGHT_CSV: ",".join(importers._NEUSIGHT_COLUMNS),
    ImportSource.MIOPEN_FINDDB: "",
}


@pytest.mark.parametrize("line", ["", "a", "a,b=c"])
@pytest.mark.parametrize("source", list(ImportSource))
def test_an_import_of_lines_without_end_that_make_no_row_is_refused(
    tmp_path: Path, source: ImportSource, line: str
) -> None:
    path = tmp_path / "gfx90878.HIP.txt.gz"
    lines = f"{line}\n" * 200_000
    path.write_bytes(gzip.compress(f"{HEADER[source]}\n{lines}".encode(), 1))
    with pytest.raises(LatteError, match="none of the first 100,000 lines makes a row"):
        import_file(path, source, open_store(str(tmp_path / "store"), shipped=False), name="some")


# Pipes and devices


@pytest.mark.parametrize("source", list(ImportSource))
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")])
def test_an_import_waits_for_no_pipe_and_reads_no_device(
    tmp_path: Path, source: ImportSource, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a.csv")
    with pytest.raises(LatteError, match="it is not a file"):
        import_file(tmp_path / "a.csv", source, open_store(str(tmp_path / "store"), shipped=False), name="some")


@pytest.mark.parametrize("name", ["d.csv", "d.parquet"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")])
def test_devices_come_from_no_pipe_and_no_device(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    with pytest.raises(LatteError, match="it is not a file"):
        read_columns(tmp_path / name, ("device", "class"), ())


def test_a_pipe_into_which_nobody_writes_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WRITER_S", 0.01)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe into which nobody writes"):
        first_bytes(tmp_path / "pipe", 10)
    path = model(tmp_path / "m.onnx", helper.make_node("Conv", ["x", "w"], ["y"]), stored=[WEIGHT])
    for line in ("plan show PIPE", "allocate MODEL --fleet PIPE --round-duration 1h", "simulate PIPE"):
        done = ended(*line.replace("MODEL", str(path)).replace("PIPE", str(tmp_path / "pipe")).split())
        assert (done.returncode, "a pipe into which nobody writes" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_pipe_into_which_someone_writes_is_read(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"[" + content))
    writer.start()
    assert first_bytes(tmp_path / "pipe", 1 << 20) == b"[" + content
    writer.join()


# Numbers and texts of any length, and other odd words


ODD_PLANS = {
    "4,000 digits": (b'"count":2', b'"count":' + b"9" * 4000),
    "5,000 digits": (b'"count":2', b'"count":' + b"9" * 5000),
    "a long exponent": (b'"round_duration_s":3.0', b'"round_duration_s":1e999999999'),
    "an object": (b'"count":2', b'"count":{}'),
    "a schema of megabytes": (b"latte.plan/1", b"a" * (4 << 20)),
    "a name of megabytes": (b'"resnet8"', b'"' + b"a" * (4 << 20) + b'","x":{'),
}


@pytest.mark.parametrize("how", ODD_PLANS)
def test_an_odd_plan_is_refused_in_a_short_line(tmp_path: Path, how: str) -> None:
    content = (Path(__file__).parent / "frozen" / "plan-show.json").read_bytes()
    before, after = ODD_PLANS[how]
    assert before in content
    (tmp_path / "p.json").write_bytes(content.replace(before, after, 1))
    done = ended("plan", "show", tmp_path / "p.json")
    assert done.returncode == 1
    assert "is not a plan" in done.stderr
    assert len(done.stderr) < 1000


@pytest.mark.parametrize("value", ["{}", "[]", "null", '"a"', "-1", "true", "1e400", "9" * 4000])
def test_an_odd_baseline_is_refused(tmp_path: Path, value: str) -> None:
    text = (Path(__file__).parent / "frozen" / "estimate.json").read_text("utf-8")
    (tmp_path / "b.json").write_text(text.replace('"count":1', f'"count":{value}', 1), "utf-8")
    path = model(tmp_path / "m.onnx", helper.make_node("Conv", ["x", "w"], ["y"]), stored=[WEIGHT])
    done = ended("estimate", path, "--device", CPU, "--baseline", tmp_path / "b.json", "--optimizer", "none")
    assert done.returncode == 1
    assert "`estimates[0].layers[0].count`" in done.stderr


@pytest.mark.parametrize("uri", ["~nobodyxyz/x", "~" * 5000])
def test_a_store_in_the_home_of_nobody_is_named(uri: str) -> None:
    done = ended("store", "info", "--store", uri)
    assert (done.returncode, "in the home of nobody known" in done.stderr) == (1, True)


@pytest.mark.parametrize("name", [b"device=\xff", b"device=\x1b[2J/x", b"device=%s/part-\xff.parquet" % CPU.encode()])
def test_a_file_with_a_name_that_is_not_utf8_blocks_no_store(tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    for words in (("info",), ("devices",), ("check", "--set-aside"), ("compact",)):
        done = ended("store", *words, "--store", tmp_path)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr


def test_names_that_are_not_utf8_are_of_nothing_known(tmp_path: Path) -> None:
    for words in (("info", "--store", "\udcff"), ("export", "\udcff", "--store", tmp_path)):
        done = ended("store", *words)
        assert (done.returncode, "hint: " in done.stderr) == (1, True), done.stderr


def test_a_store_in_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = f"cd {tmp_path / 'gone'} && rmdir ../gone && exec {sys.executable} -m latte_cli store info --store here"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    first, *hint = done.stderr.splitlines()
    assert (done.returncode, first) == (1, "error: cannot open the store `here`: the current folder is gone")
    assert len(hint) == 1


BROKEN = {
    "no memory": ("pyarrow", "raise MemoryError", "store info --store s", "there is not enough memory"),
    "no XGBoost": ("xgboost", "raise OSError('no libgomp')", ESTIMATE, "XGBoost cannot be imported: no libgomp"),
    "an odd Python": ("xgboost", "None.replace", ESTIMATE, "XGBoost cannot be imported: 'NoneType' object has no"),
    "an odd backend": ("some", "", f"report m.onnx --device {CPU} -o r.html", "Matplotlib cannot begin: Key backend: "),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_library_that_cannot_begin_is_named(tmp_path: Path, what: str) -> None:
    module, code, line, said = BROKEN[what]
    (tmp_path / f"{module}.py").write_text(code)
    model(tmp_path / "m.onnx", helper.make_node("Conv", ["x", "w"], ["y"]), stored=[WEIGHT])
    done = subprocess.run(
        [sys.executable, "-m", "latte_cli", *line.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "MPLBACKEND": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    error, hint = (each for each in done.stderr.splitlines() if not each.startswith("warning: "))
    assert (done.returncode, error.removeprefix("error: ")[: len(said)], hint[:6]) == (1, said, "hint: ")


@pytest.mark.parametrize("dims", [-1, -5, 9, -(1 << 31), 1 << 40])
def test_batch_dimensions_that_there_are_not_are_refused_where_onnx_would_crash(tmp_path: Path, dims: int) -> None:
    stored = numpy_helper.from_array(np.zeros((1, 3, 2), np.int64), "w")
    path = model(tmp_path / "m.onnx", helper.make_node("GatherND", ["x", "w"], ["y"], batch_dims=dims), stored=[stored])
    with pytest.raises(LatteError, match="names dimensions that do not exist"):
        load(path)


@pytest.mark.parametrize("version", ["inf", "1e400", "nan"])
def test_a_version_that_is_no_number_costs_its_line_alone(tmp_path: Path, version: str) -> None:
    lines = NEUSIGHT.splitlines()
    lines.insert(1, lines[1].replace("8902", version))
    (tmp_path / "m.csv").write_text("\n".join(lines))
    store = open_store(str(tmp_path / "store"), shipped=False)
    _, tally = import_file(tmp_path / "m.csv", ImportSource.NEUSIGHT_CSV, store, name="some")
    assert tally.rows and any("line 2" in each or each.startswith("2") for each in tally.named)


def test_a_layer_without_results_reduces_nothing() -> None:
    layer = Copy(operation="slice", shape=(2, 3), output=(0, 3))
    assert layer.reduction >= 1
