"""Hostile files that once took a crash, minutes or gigabytes: each ends in one line, within little time and memory."""

import bz2
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from append_rows import DEVICE, measurement
from onnx import TensorProto, helper, numpy_helper
from running import ended

from latte_cli.errors import LatteError
from latte_cli.importers import ImportSource, import_file
from latte_cli.network import load, zoo
from latte_cli.network.weights import weights
from latte_cli.store import open_store
from latte_cli.store.columns import read_columns

CPU = "reference-amd-epyc-family-26-model-2-2c-2t"
HERE = Path(__file__).parent
SELECTOR = f"selector-{CPU}"


def saved(path: Path, *nodes: Any, shape: tuple[int, ...] = (1, 3, 8, 8), stored: tuple[TensorProto, ...] = ()) -> Path:
    """A model of these nodes, from `x` to `y`."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", inputs, [output], initializer=stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("some.where", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


@cache
def program() -> bytes:
    """A small program of `torch.export`."""
    import torch

    file = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.zeros(1, 3),)), file)
    return file.getvalue()


def changed(change: Callable[[str, bytes], bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    """The program with other members."""
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program())) as old, zipfile.ZipFile(found, "w", how) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return found.getvalue()


# Models


@pytest.mark.parametrize(
    "equation", ["......->", "....", "...->......", "..", "i....,i->i", "->->", "a,,a", "...a...->a"]
)
def test_an_equation_that_is_none_is_refused(tmp_path: Path, equation: str) -> None:
    path = saved(tmp_path / "m.onnx", helper.make_node("Einsum", ["x"], ["y"], equation=equation))
    with pytest.raises(LatteError) as caught:
        load(path)
    assert caught.value.hint


@pytest.mark.parametrize("dims", [[1 << 27], [1 << 40], [1 << 62], [1 << 40, 1 << 40], [-1]])
def test_a_shape_of_endless_dimensions_is_refused(tmp_path: Path, dims: list[int]) -> None:
    sizes = TensorProto(name="s", data_type=TensorProto.INT64, dims=dims)
    nodes = (helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"]))
    with pytest.raises(LatteError) as caught:
        load(saved(tmp_path / "m.onnx", *nodes, stored=(sizes,)))
    assert caught.value.hint


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "words",
    ["helper.make_node('GatherND', ['x', 'i'], ['y'], batch_dims=-2)",
     "helper.make_node('Einsum', ['x'], ['y'], equation='....->')",
     "helper.make_node('Einsum', ['x'], ['y'], equation='......->')"],
)  # fmt: skip
def test_no_inference_of_a_whole_model_meets_what_it_cannot_bear(words: str, nested: bool) -> None:
    code = f"""
from onnx import TensorProto, helper
from latte_cli.network.onnx.inferred import infer_shapes
value = helper.make_tensor_value_info
node, result = {words}, value("y", TensorProto.FLOAT, None)
if {nested}:
    inner = helper.make_graph([node], "inner", [], [result])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
given = [value("x", 1, [2, 2, 2]), value("i", 7, [2, 1]), value("c", 9, [])]
assert infer_shapes(helper.make_model(helper.make_graph([node], "g", given, [result]))) is None
plain = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", given[:1], [result])
(found,) = infer_shapes(helper.make_model(plain)).output
assert [each.dim_value for each in found.type.tensor_type.shape.dim] == [2, 2, 2]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_names_of_devices_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "devices.parquet"
    bytes_of_names = pa.array([b"phone", b"phone \x80"])
    pq.write_table(pa.table({"device": bytes_of_names.view(pa.string())}), path)
    with pytest.raises(LatteError, match="the column `device` does not hold a name in every row"):
        read_columns(path, ("device",), ())


def inner(name: str, *inputs: str) -> Any:
    """A body that hands on what an unknown operator makes of its last input."""
    values = [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in inputs]
    nodes = [helper.make_node("Strange", [inputs[-1]], ["made"], domain="some.where")]
    out = [helper.make_tensor_value_info("made", TensorProto.FLOAT, None)]
    if name == "Loop":
        nodes.append(helper.make_node("Identity", [inputs[1]], ["on"]))
        out.insert(0, helper.make_tensor_value_info("on", TensorProto.BOOL, None))
        out.append(helper.make_tensor_value_info("made", TensorProto.FLOAT, None))
    return helper.make_graph(nodes, "body", values, out)


@pytest.mark.parametrize("kind", ["Scan", "Loop"])
def test_what_a_loop_gathers_of_an_unknown_operator_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    if kind == "Scan":
        node = helper.make_node("Scan", ["x"], ["y"], body=inner("Scan", "each"), num_scan_inputs=1)
        stored: tuple[TensorProto, ...] = ()
    else:
        body = inner("Loop", "at", "go", "state")
        node = helper.make_node("Loop", ["count", "", "x"], ["last", "y"], body=body)
        stored = (numpy_helper.from_array(np.int64(3), "count"),)
    done = ended("estimate", saved(tmp_path / "m.onnx", node, stored=stored), "--device", CPU, "--allow-unknown")
    assert done.returncode in (0, 1)
    assert done.returncode == 0 or "hint: " in done.stderr


def test_a_program_of_millions_of_lists_takes_little_memory(tmp_path: Path) -> None:
    content = b"[" + b'{"a":1},' * 5_000_000 + b"0]"
    (tmp_path / "m.pt2").write_bytes(
        changed(lambda name, old: content if name.endswith("model.json") else old, zipfile.ZIP_DEFLATED)
    )
    (said,) = limited({"m.pt2": "load(path)"}, tmp_path, most_bytes=1 << 30)
    assert said.startswith("refused: the graph of `"), said
    assert "m.pt2` holds 5,000,001" in said


SPOILT: dict[str, Callable[[str, bytes], bytes]] = {
    "config: null": lambda name, old: b'{"config": null}' if name.endswith("weights_config.json") else old,
    "no weights": lambda name, old: b"{}" if name.endswith("weights_config.json") else old,
    "a list": lambda name, old: b"[]" if name.endswith("weights_config.json") else old,
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_list_of_weights_that_is_none_is_refused(tmp_path: Path, how: str) -> None:
    (tmp_path / "m.pt2").write_bytes(changed(SPOILT[how]))
    with pytest.raises(LatteError) as caught:
        dict(weights(tmp_path / "m.pt2"))
    assert caught.value.hint


def test_a_weight_whose_bytes_changed_is_refused(tmp_path: Path) -> None:
    content = changed(lambda name, old: b"\x01" * len(old) if "weight_0" in name else old)
    (tmp_path / "m.pt2").write_bytes(content.replace(b"\x01" * 24, b"\x02" * 24))
    assert content.count(b"\x01" * 24)
    with pytest.raises(LatteError) as caught:
        {name: np.asarray(value) for name, value in weights(tmp_path / "m.pt2").items()}
    assert caught.value.hint


def test_a_weight_that_unpacks_to_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    content = changed(lambda name, old: bytes(1 << 26) if "weight_0" in name else old, zipfile.ZIP_DEFLATED)
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(LatteError, match="do not fill its shape") as caught:
        dict(weights(tmp_path / "m.pt2"))
    assert caught.value.hint


def test_a_weight_cast_to_nothing_is_refused(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    nodes = (helper.make_node("Cast", ["w"], ["v"]), helper.make_node("Conv", ["x", "v"], ["y"]))
    path = saved(tmp_path / "m.onnx", *nodes, stored=(weight,))
    with pytest.raises(LatteError) as caught:
        weights(path)["v"]
    assert caught.value.hint


# Large files

LIMITED = """
import json, resource, sys
from pathlib import Path
import numpy, onnx, pyarrow
from latte_cli.errors import LatteError
from latte_cli.network import load
from latte_cli.allocator.document import read_before, read_plan
from latte_cli.fleet import read_fleet
from latte_cli.importers import ImportSource, import_file
from latte_cli.store import open_store
from latte_cli.store.columns import read_columns
from latte_cli.thresholds import read_estimates
folder, calls, most = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + most, size + most))
store = open_store(str(folder / "store"), shipped=False)
for name, call in calls.items():
    path = folder / name
    try:
        eval(call)
        print("read")
    except LatteError as error:
        print(f"refused: {error.message}" if error.hint else f"no hint: {error.message}")
"""


def limited(calls: dict[str, str], folder: Path, *, most_bytes: int) -> list[str]:
    """What came of a call for each file, in a process with no more memory than so much."""
    command = [sys.executable, "-c", LIMITED, str(folder), json.dumps(calls), str(most_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_files_of_gigabytes_of_nothing_are_refused(tmp_path: Path) -> None:
    calls = {
        "m.onnx": "load(path)",
        "m.pt2": "load(path)",
        "f.yaml": "read_fleet(path)",
        "d.csv": "read_columns(path, ('device',), ())",
        "d.parquet": "read_columns(path, ('device',), ())",
        **{
            f"{each.value}.csv": f"import_file(path, ImportSource({each.value!r}), store, name='a')"
            for each in ImportSource
        },
    }
    for name in calls:
        with (tmp_path / name).open("wb") as file:
            file.truncate(8 << 30)
    said = limited(calls, tmp_path, most_bytes=2 << 30)
    assert [each for each in said if not each.startswith("refused: ")] == []
    assert len(said) == len(calls)


def same_words(rows: int, letters: int) -> pa.Table:
    """A table of devices whose names are one text of so many letters."""
    words = pa.array(["k" * letters])
    return pa.table({"device": pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), words)})


def test_a_table_of_devices_whose_names_unpack_to_gigabytes_takes_little_memory(tmp_path: Path) -> None:
    pq.write_table(same_words(10_000, 10**6), tmp_path / "d.parquet", store_schema=False)
    assert (tmp_path / "d.parquet").stat().st_size < 10**5
    assert limited({"d.parquet": "read_columns(path, ('device',), ())"}, tmp_path, most_bytes=1 << 29) == ["read"]


def test_a_table_of_devices_of_very_many_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(same_words((1 << 24) + 1, 1), tmp_path / "d.parquet")
    assert (tmp_path / "d.parquet").stat().st_size < 10**5
    with pytest.raises(LatteError, match="states 16,777,217 rows") as caught:
        read_columns(tmp_path / "d.parquet", ("device",), ())
    assert caught.value.hint


def test_a_table_of_devices_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    table = pa.table({"device": ["k" * 10**6] * 100})
    with pq.ParquetWriter(tmp_path / "d.parquet", table.schema, use_dictionary=False, compression="zstd") as writer:
        for _ in range(11):
            writer.write_table(table)
    assert (tmp_path / "d.parquet").stat().st_size < 10**6
    with pytest.raises(LatteError, match="states 1,1") as caught:
        read_columns(tmp_path / "d.parquet", ("device",), ())
    assert caught.value.hint


def test_a_part_of_gigabytes_of_nothing_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "device=a").mkdir()
    with (tmp_path / "device=a" / "part-0.parquet").open("wb") as file:
        file.truncate(8 << 30)
    done = ended("store", "check", "--store", tmp_path)
    assert done.returncode == 1
    assert "part-0.parquet" in done.stdout + done.stderr


def test_a_document_of_millions_of_lists_takes_little_memory(tmp_path: Path) -> None:
    calls = {"p.json": "read_plan(path)", "b.json": "read_estimates(path)", "r.json": "read_before(path)"}
    for name, schema in zip(calls, ("latte.plan/1", "latte.estimate/1", "latte.rounds/1"), strict=True):
        (tmp_path / name).write_bytes(b'{"schema":"%b","x":[' % schema.encode() + b"[]," * 8_000_000 + b"[]]}")
    said = limited(calls, tmp_path, most_bytes=1 << 29)
    assert [each for each in said if not each.endswith("it has more than 4,194,304 lists and objects")] == []
    assert len(said) == len(calls)


@pytest.mark.parametrize("line", ["plan show FILE", "plan check FILE FILE", "plan diff FILE FILE"])
def test_a_document_whose_schema_is_endless_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"schema": "a" * (200 << 20)}))
    done = ended(*line.replace("FILE", str(tmp_path / "p.json")).split())
    assert done.returncode == 1
    assert "hint: " in done.stderr
    assert len(done.stderr) < 2000


def zipped(content: bytes) -> bytes:
    """An archive of one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", content)
    return file.getvalue()


@pytest.mark.parametrize("source", list(ImportSource))
@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("zip", zipped)])
def test_an_import_with_one_line_of_gigabytes_is_refused(
    tmp_path: Path, source: ImportSource, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"gfx90878.HIP.txt.{ending}"
    path.write_bytes(pack(b"a" * (1 << 24)) * 90)  # members of a file follow each other
    said = "cannot read" if ending == "zip" else "a line has more than 1,048,576 letters"
    with pytest.raises(LatteError, match=said) as caught:
        import_file(path, source, open_store(str(tmp_path / "store"), shipped=False), name="some")
    assert caught.value.hint


@pytest.mark.parametrize("uri", ["abfs://x:y@127.0.0.1/x", "abfs://x:y@127.0.0.1"])
def test_a_store_that_cannot_be_opened_shows_no_secret(uri: str) -> None:
    done = ended("store", "info", "--store", uri)
    assert done.returncode == 1
    assert "x:y" not in done.stderr
    assert "hint: " in done.stderr


@pytest.mark.parametrize("uri", ["~nobodyxyz/x", "~nobodyxyz"])
def test_a_store_that_the_environment_names_may_be_nobodys(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTE_STORE", uri)
    done = ended("store", "info")
    assert (done.returncode, "in the home of nobody known" in done.stderr) == (1, True)


# Selectors


def named_by_escapes(folder: Path) -> None:
    """Harm the card of a selector: a device whose name clears a terminal."""
    card = json.loads((folder / "card.json").read_text())
    card["ran"] = {"\x1b[2J\u202e": ["\x1b[2J"]}
    (folder / "card.json").write_text(json.dumps(card))


def fewer_classes(folder: Path) -> None:
    """Harm the card of a selector: its trees tell more algorithms apart than it names."""
    card = json.loads((folder / "card.json").read_text())
    card["classes"]["forward"].pop()
    (folder / "card.json").write_text(json.dumps(card))


def flipped(folder: Path) -> None:
    """Harm the trees of a selector: one bit, with which XGBoost reads other trees."""
    (path,) = folder.glob("losses-*")
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [named_by_escapes, fewer_classes, flipped])
def test_a_hostile_selector_ends_in_one_printable_line(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    folder = tmp_path / "store" / ".models" / SELECTOR
    shutil.copytree(HERE.parent / "models" / SELECTOR, folder)
    harm(folder)
    weight = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    path = saved(tmp_path / "m.onnx", helper.make_node("Conv", ["x", "w"], ["y"]), stored=(weight,))
    done = ended("estimate", path, "--device", CPU, "--strategy", "latte", "--store", tmp_path / "store")
    error, hint = (each for each in done.stderr.splitlines() if not each.startswith("warning: "))
    assert (done.returncode, hint) == (1, "hint: `latte train-selector` makes it again")
    assert f"{SELECTOR}` is damaged: " in error and error.isprintable()


# Files of another user

UNREAD = {
    "estimate m.onnx --device CPU": "m.onnx",
    "estimate good.onnx --device CPU --baseline p.json --max-regression 5%": "p.json",
    "estimate good.onnx --device some --store s": "s",
    "allocate good.onnx --fleet f.yaml --round-duration 1h": "f.yaml",
    "allocate good.onnx --fleet good.yaml --round-duration 1h --devices d.csv": "d.csv",
    "allocate good.onnx --fleet good.yaml --round-duration 1h --devices d.parquet": "d.parquet",
    "plan show p.json": "p.json",
    "plan check p.json good.onnx": "p.json",
    "simulate f.yaml": "f.yaml",
    **{f"import {source.value} d.csv --name some --store own": "d.csv" for source in ImportSource},
    **{f"store {words} --store s": "s" for words in ("info", "devices", "check", "compact", "export some")},
    "store merge s --store own": "s",
    "store merge good --store s": "s",
}
RUN_EACH = """
import json, sys
from running import ended
for line in json.loads(sys.argv[1]):
    print(json.dumps(ended(*line.split())))
"""


def test_files_of_another_user_are_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user: tuple[str, ...] = ()
    if not os.geteuid():
        if not shutil.which("setpriv"):
            pytest.skip("root reads all files, and `setpriv` is not there")
        as_user = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override")
    (tmp_path / "good.onnx").write_bytes(zoo.export("lenet"))
    fleet = {"class": "a", "device": CPU, "samples": 8, "batch": 8, "bandwidth": {"up": "1Mbit", "down": "1Mbit"}}
    (tmp_path / "good.yaml").write_text(json.dumps({"classes": [fleet]}))
    with open_store(str(tmp_path / "good"), shipped=False).writer(DEVICE) as writer:
        writer.append(measurement(1))
    for name in {*UNREAD.values()}:
        if name == "s":
            (tmp_path / "s" / "device=some").mkdir(parents=True)
        else:
            (tmp_path / name).write_bytes(b"a")
        (tmp_path / name).chmod(0)
        if not os.geteuid():
            os.chown(tmp_path / name, 65534, 65534)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *sys.path]))
    lines = [line.replace("CPU", CPU) for line in UNREAD]
    command = [*as_user, sys.executable, "-c", RUN_EACH, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (tmp_path / "s").chmod(0o700)
    told = dict(zip(lines, map(json.loads, done.stdout.splitlines()), strict=True))
    assert {line: said for line, said in told.items() if not tells(*said)} == {}


def tells(code: int, _: str, err: str) -> bool:
    """Whether a command said in one line, with a hint, that a file may not be read."""
    errors, hints = ([line for line in err.splitlines() if line.startswith(start)] for start in ("error: ", "hint: "))
    return (code, len(errors), len(hints), "Permission denied" in err) == (1, 1, 1, True)
