"""What comes from outside is shown without control characters and without secrets, whoever shows it."""

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from unicodedata import category
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_rows import DEVICE, measurement, profile, step_layers, tasks, write
from running import ended
from test_help import COMMANDS as COMMANDS_BY_PATH

from latte_cli import cli, report
from latte_cli.algorithms import Algorithm
from latte_cli.cli import console
from latte_cli.errors import LatteError
from latte_cli.network import zoo
from latte_cli.printable import address, csv_cell, printable, secrets, without_secrets
from latte_cli.report.page import Column, Rows, Section, SortedCell, page
from latte_cli.report.pictures.drawing import figure_of, inline, label
from latte_cli.report.thresholds import write_github, write_junit
from latte_cli.store import open_store
from latte_cli.store.columns import write_columns
from latte_cli.thresholds import ThresholdCheck

SIGNS = "\x1b[31m\r\n\t\x00\x7f\x9b\u202e\u2066\u200b\u2028\ufeff\ud800\ue000"
OUTSIDE = st.text(st.one_of(st.sampled_from(SIGNS), st.characters()), max_size=12)


def ugly(text: str) -> list[str]:
    """The signs of a text that turn or end lines, move the cursor or cannot be encoded."""
    return [sign for sign in text if not sign.isprintable() and category(sign) != "Zs"]


@given(OUTSIDE)
@example(SIGNS)
def test_what_is_printable_is_one_line_and_printed_again_the_same(text: str) -> None:
    assert not ugly(printable(text))
    assert printable(printable(text)) == printable(text)
    printable(text).encode()


def test_what_can_be_printed_stays_as_it_is() -> None:
    for text in ("conv1", "свёртка", "畳み込み 1", "a\N{NO-BREAK SPACE}b", "±1 …", r"C:\x", "a@b", "12:30", "a%40b"):
        assert printable(text) == text


@given(OUTSIDE, OUTSIDE)
@example(SIGNS, SIGNS)
def test_every_writer_of_lines_makes_them_printable(name: str, other: str) -> None:
    out = io.StringIO()
    table = report.Table(columns=(name, f">{other}"), rows=[(other, name)], title=(name, other), footer=[name])
    report.write_table(table, out)
    assert len(out.getvalue().splitlines()) == out.getvalue().count("\n") <= 5
    report.write_csv((name, "number"), [(other, 1.5)], out)
    check = ThresholdCheck(quantity="step", strategy=name, device=other, value=2.0, most=1.0)
    write_github([check], name, out)
    write_junit([check], name, out)
    assert not ugly(out.getvalue().replace("\n", ""))


@given(OUTSIDE)
@example(SIGNS)
def test_a_framed_table_holds_no_escapes_of_its_cells(name: str) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    report.write_table(report.Table(columns=("name",), rows=[(name,)], title=name, footer=[name]), out)
    assert not ugly(re.sub(r"\x1b\[[0-9;]*m|\n", "", out.getvalue()))


@given(OUTSIDE)
@example(SIGNS)
def test_messages_are_single_lines(name: str) -> None:
    import sys

    own, sys.stderr = sys.stderr, io.StringIO()
    try:
        console.error(name, name)
        console.warn(name)
        console.note(name)
        said = sys.stderr.getvalue()
    finally:
        sys.stderr = own
    assert said.count("\n") == (4 if name else 3)
    assert not ugly(said.replace("\n", ""))


@given(OUTSIDE)
@example(SIGNS)
def test_a_page_shows_names_printable(name: str) -> None:
    rows = Rows(caption=name, columns=[Column(title=name)], rows=[[SortedCell(shown=name, value=name)]])
    text = page(name, [Section(title=name, anchor="a", facts=[(name, name)], notes=[name], tables=[rows])])
    assert not ugly(text.replace("\n", ""))
    assert SIGNS[:5] not in text


def test_figures_show_names_printable_and_no_formulas() -> None:
    figure, [axes] = figure_of(3, 2)
    axes.set_title(label(f"a{SIGNS}b $x^$ c"))
    text = inline(figure, "name", f"title{SIGNS}", f"description{SIGNS}")
    assert not ugly(text.replace("\n", "").replace("\t", ""))
    assert "$x^$" in text


def test_csv_files_of_columns_and_rows_hold_names_printable(tmp_path: Path) -> None:
    names = ["a\x1b[31m", "b\n", "\u202ec"]
    write_columns(tmp_path / "a.csv", {"device": names, "number": [1, 2, 3]})
    store = open_store(str(tmp_path / "store"), shipped=False)
    odd = Algorithm(library="torch", name="\x1b[31m\n\u202e")
    write(store, [measurement(replace(tasks(step_layers(zoo.network("lenet", batch_size=1)))[0], algorithm=odd))])
    with (tmp_path / "b.csv").open("wb") as out:
        store.export(DEVICE.slug, "csv", out)
    for name in ("a.csv", "b.csv"):
        text = (tmp_path / name).read_text()
        assert not ugly(text.replace("\n", ""))
        assert "\\x1b[31m" in text
        assert len(list(csv.reader(io.StringIO(text)))) == text.count("\n")


# Cells that a spreadsheet would take for formulas (OWASP, "CSV Injection")

STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
FORMULAS = st.builds(
    lambda before, start, rest: before + start + rest,
    st.sampled_from(["", " ", "\xa0", "a;", ";", "1; ", '";', "a,"]),
    st.sampled_from(STARTS),
    st.sampled_from(["cmd|' /C calc'!A0", "SUM(1)", "1+1", "1", "", "=", "-1", "1e5x", "1;=2"]) | OUTSIDE,
)
PLAIN = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?([ x][-+]?[\d.]+(e[-+]?\d+)?)*", re.IGNORECASE)


def dangers(line: str) -> list[str]:
    """The parts of a cell that a spreadsheet would compute, wherever it splits lines."""
    cells = [cell.strip() for cell in line.split(";")]
    return [cell for cell in cells if cell and cell[0] in STARTS and not PLAIN.fullmatch(cell)]


@given(FORMULAS)
@example("=cmd|' /C calc'!A0")
def test_no_cell_is_a_formula_wherever_a_line_is_split(text: str) -> None:
    assert not dangers(csv_cell(text))
    assert not ugly(csv_cell(text))
    assert csv_cell(csv_cell(text)) == csv_cell(text)
    assert csv_cell(text).replace("'", "") == printable(text).replace("'", "")


@given(st.one_of(st.integers(), st.floats()) | st.none())
def test_numbers_stay_numbers_in_a_csv_file(value: float | None) -> None:
    out = io.StringIO()
    report.write_csv(("value", "other"), [(value, 1)], out)
    [[shown, other]] = list(csv.reader(io.StringIO(out.getvalue())))[1:]
    assert other == "1"
    assert shown == "" if value is None else shown == str(value)


@pytest.mark.parametrize("text", ["-1", "+1.5e-3", "-.5", "-1 2 -3", "-1x2", "1;-2", "conv1", "a-b", "a=b", "'=1", ""])
def test_numbers_in_texts_and_plain_names_stay_as_they_are(text: str) -> None:
    assert csv_cell(text) == text


def test_all_csv_files_are_written_with_the_one_function() -> None:
    package = Path(cli.__file__).parents[1]
    wanted = {"report/__init__.py", "store/export.py", "store/columns.py", "allocator/files.py"}
    sources = {str(path.relative_to(package)): path.read_text("utf-8") for path in package.rglob("*.py")}
    assert {name for name, text in sources.items() if re.search(r"csv\.(Dict)?[wW]rite", text)} == wanted
    assert {name for name, text in sources.items() if "csv_cell" in text} == wanted | {"printable.py"}


def test_json_blanks_secrets_and_keeps_names_as_they_are() -> None:
    out = io.StringIO()
    report.write_json({"name": SIGNS, "store": "s3://key:word@b/p", "s3://key:word@c": [1.5]}, out)
    found = json.loads(out.getvalue())
    assert found == {"name": SIGNS, "store": "s3://***@b/p", "s3://***@c": [1.5]}
    assert out.getvalue().isascii()


# Secrets

SCHEMES = ("s3", "s3a", "S3", "http", "gs", "abfs", "file", "nosuch", "1x", "")
WORDS = (
    *("wJal7rXUt", "wJal/rXUt", "wJal+rXUt/bPxR==", "wJal%zzrXUt", "wJal rXUt", "wJal:rXUt", "wJal?rXUt", "wJal#rXUt"),
    *("wJal`rXUt", "wJal'rXUt", 'wJal"rXUt', "wJal%2FrXUt", "wJal\N{LATIN SMALL LETTER N WITH TILDE}rXUt"),
    *("wJal\\rXUt", "wJal&rXUt", "wJal=rXUt", "wJal[rXUt", "wJal%rXUt", "wJal%0ArXUt", "wJal\x1brXUt", "wJal\nrXUt"),
    *("wJal@rXUt", "wJal%40rXUt", "wJal/@/rXUt"),
)
HIDDEN = (
    *("{s}://AKIA7:{x}@bucket/p", "{s}://:{x}@bucket/p", "{s}://{x}@bucket/p", "{s}://{x}:@bucket/p"),
    *("{s}://AKIA7:{x}@", "{s}://AKIA7:{x}@b ad/p", "{s}://AKIA7:{x}@host:9x/p", "{s}://AKIA7:{x}@bucket/a@b"),
    "{s}://AKIA7:{x}@bucket/p?region=none&scheme=http",
    "{s}://bucket/p?secret_key={x}",
    "{s}://bucket/p?access_key=AKIA7&secret_key={x}&session_token={x}&region=none",
    "{s}://bucket/p?endpoint_override=http://AKIA7:{x}@h&region=none",
    "{s}://bucket/p?{x}",
)
UNENDED = ("{s}://AKIA7:{x}", "{s}://AKIA7:{x}/bucket/p", "{s}://AKIA7:{x}?region=none", "{s}://AKIA7:{x}%40bucket/p")


def cases() -> list[str]:
    """Addresses with a secret that cannot be mistaken for the name of a bucket."""
    whole = [form.format(s=s, x=x) for s, form, x in product(SCHEMES, HIDDEN, WORDS)]
    return whole + [form.format(s=s, x=x) for s, form, x in product(SCHEMES, UNENDED, WORDS) if "@" not in x]


def leaks(text: str) -> bool:
    return any(piece in form for form in (text, unquote(text)) for piece in ("wJal", "rXUt", "bPxR", "AKIA7"))


def test_an_address_is_shown_without_its_secrets_and_they_are_known() -> None:
    for uri in cases():
        assert not leaks(address(uri)), uri
        assert not leaks(printable(address(uri))), uri
        assert secrets(uri), uri
        for form in (uri, quote(uri), quote_plus(uri), unquote(uri)):
            assert any(secret in form.lower() for secret in secrets(uri)), uri


def test_no_error_of_a_store_repeats_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for uri in cases():
        if uri.startswith("s3:") and "region" not in uri:
            continue  # pyarrow asks Amazon for the bucket's region
        try:
            said = [open_store(uri, shipped=False).uri]
        except LatteError as error:
            said = [error.message, error.hint or "", repr(error.__cause__)]
            assert "\n" not in printable(error.message)
        assert not any(map(leaks, said)), (uri, said)


def test_the_command_line_s_own_errors_repeat_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = (["store", "info"], ["zoo", "list"], ["store", "info", "--format"], ["allocate", "--seed"], [])
    for uri, command in zip(cases()[::181], commands * 1000, strict=False):
        for given_ in ([uri], [f"--nosuch={uri}"]):
            monkeypatch.setattr("sys.argv", ["latte", *command, *given_])
            with pytest.raises(SystemExit) as end:
                cli.main()
            said = capsys.readouterr()
            assert end.value.code in (1, 2)
            assert not leaks(said.out + said.err), (command, uri, said)


STORES = (
    "s3a://AKIA7:wJal/rXUt@bucket/p",
    "http://AKIA7:wJal rXUt@host",
    "s3://AKIA7:wJal%2FrXUt@bucket/p?endpoint_override=127.0.0.1:1&scheme=http&x=wJal",
)
FLEET = "classes: [{class: a, device: cpu, samples: 8, batch: 8, bandwidth: {up: 1Mbit, down: 1Mbit}}]"
COMMANDS = (
    *(("store", name) for name in ("info", "devices", "export", "compact", "check")),
    *(("store", name, "--format", form) for name in ("info", "check") for form in ("json", "csv")),
    ("estimate", "m.onnx"),
    ("explain", "m.onnx"),
    ("verify", "m.onnx"),
    ("tune", "m.onnx", "-o", "out.json"),
    ("report", "m.onnx", "-o", "out.html"),
    ("allocate", "m.onnx", "--fleet", "f.yaml", "--round-duration", "1h"),
    ("profile", "m.onnx", "--budget", "1s"),
    ("train-selector",),
    ("train-estimator",),
    ("simulate", str(Path(__file__).parents[1] / "docs/study.yaml"), "-o", "study"),
    ("import", "miopen", "f.yaml"),
    ("store", "merge", "elsewhere"),
)


@pytest.mark.parametrize("way", ["option", "environment"])
def test_no_command_repeats_a_store_s_secret(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(zoo.export("lenet", batch_size=1))
    (tmp_path / "f.yaml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["latte", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert end.value.code in (1, 2), words
        assert not leaks(said.out + said.err), (words, said)

    for uri in STORES:
        if way == "environment":
            monkeypatch.setenv("LATTE_STORE", uri)
        for words in COMMANDS:
            run(*words, *(("--store", uri) if way == "option" else ()))
        run("store", "merge", uri)
        run("store", "merge", str(tmp_path), uri)
    home = Path(os.environ["XDG_STATE_HOME"]).parent
    for path in (*tmp_path.rglob("*"), *home.rglob("*")):
        assert not leaks(str(path)), path
        assert not path.is_file() or not leaks(path.read_bytes().decode(errors="replace")), path


def test_addresses_in_a_text_are_blanked_and_the_rest_is_not() -> None:
    assert without_secrets("see `s3://k:w@b/p`: no, http://h:80/x: yes") == "see `s3://***@b/p`: no, http://h:80/x: yes"
    assert without_secrets("`s3://***@b/p`: not s3://***@b/p") == "`s3://***@b/p`: not s3://***@b/p"
    assert without_secrets(str(Path("s3://k:w@b/p.onnx"))) == "s3:/***@b/p.onnx"
    for harmless in (
        "s3://bucket/path?endpoint_override=127.0.0.1:9000&scheme=http&region=eu-west-1",
        "file:///home/me/store",
        "s3://bucket/path?endpoint_override=host:port&scheme=http",
        "hdfs://host:9000/path",
        "http://[::1]:80/path",
    ):
        assert printable(harmless) == address(harmless) == harmless
        assert not secrets(harmless)


# Every command, with names from outside that attack a terminal, a spreadsheet or a page

ATTACKS = (
    *(
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3+cmd|' /C calc'!A0",
        "@SUM(1+1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "\uff1d1+1",
        "a;=1",
        " =1",
    ),
    *(
        "\x1b[2J",
        "\a",
        "\x9b2J",
        "\x85",
        "\x7f",
        "\u202e",
        "\u2066",
        "\u200f",
        "\u2028",
        "<b>&amp;\x1b",
        "`a`\n::error::b",
    ),
)
CPU = "reference-amd-epyc-family-26-model-2-2c-2t"


NO_ATTACKER = (
    *("doctor", "zoo list", "profile", "verify", "tune", "train-selector", "train-estimator", "simulate"),
    "import torch-trace",
)
"""Commands that show no names from outside, or run for long; they write with the same functions as the others.

Traces that attack are in test_torch_trace.py.
"""

ALLOCATE = "allocate m.onnx --fleet f.yaml --round-duration 1h --widths 1,0.5"
OUTPUTS = (
    "estimate m.onnx --batch-size 2 --device CPU",
    "estimate u.onnx --device CPU --allow-unknown",
    "estimate m.onnx --batch-size 2 --device CPU --memory",
    "estimate o.onnx --batch-size 2 --device CPU",
    "estimate m.onnx --batch-size 2,3 --device CPU --fits 1GiB",
    "estimate m.onnx --batch-size 2 --device CPU --fits 1GiB",
    "estimate m.onnx --batch-size 64 --device CPU --memory-limit 700KiB --checkpoint auto",
    "estimate m.onnx --batch-size 8 --device nvidia-h200-reference --gpus 2 --link 10GB/s --allow-unknown",
    "compare m.onnx --batch-size 2,3 --device CPU",
    "devices --store s",
    "explain m.onnx --batch-size 2 --device CPU",
    "explain u.onnx --device CPU --allow-unknown",
    ALLOCATE,
    "allocate m.onnx --fleet f.yaml --widths 1,0.5 --curve",
    f"{ALLOCATE} --devices d.csv",
    "plan show q.json",
    "plan check q.json m.onnx",
    "plan diff p.json q.json",
    "store info --store s",
    "store devices --store s",
    "store check --store s",
    "store export made-up-cpu-2c-2t --store s",
    "import latte-csv i.csv --store t",
    "import miopen-finddb i.csv --name a --store t",
    "import neusight-csv i.csv --name a --store t",
)
OF_TABLES = {"--memory", "--gpus", "2,3"}
"""What traces and Markdown do not show."""
FILES = (
    f"{ALLOCATE} --devices d.csv -o o.csv",
    f"{ALLOCATE} --materialise parts",
    "plan show q.json --picture q.svg",
    "report m.onnx --batch-size 2 --device CPU -o o.html --plan p.json --figures figures",
    "report u.onnx --device CPU -o u.html --allow-unknown",
    "report --device made-up-cpu-2c-2t --store s -o d.html",
    "store export made-up-cpu-2c-2t --store s -o e.csv",
)
"""Commands that write files of text."""

LIMITED = "estimate m.onnx --batch-size 2 --device CPU --fail-above step=0.001ms --annotate"


def attacking_model(path: Path, *, unknown: bool = False, size: Sequence[int | str] = (8, 8)) -> Path:
    """A model whose layers, values, operators, open dimensions and itself are called what attacks; batch 2."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(np.zeros(shape, np.float32), f"w{at}") for at, shape in enumerate(SHAPES)]
    nodes, last = [helper.make_node("Conv", ["x", "w0"], [ATTACKS[-1]], name=ATTACKS[0])], ATTACKS[-1]
    for name in ATTACKS[:-1]:
        nodes.append(helper.make_node("Relu", [last], [name], name=name))
        last = name
    for name in ATTACKS if unknown else ():
        nodes.append(helper.make_node(name, [last], [f"u{name}"], name=name, domain=name))
        last = f"u{name}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"], name=ATTACKS[1]),
        helper.make_node("Flatten", ["p"], ["f"], name=ATTACKS[2]),
        helper.make_node("Gemm", ["f", "w1"], ["y"], name=ATTACKS[3]),
    ]
    sizes = [2 if unknown else ATTACKS[-1], 3, *size]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    between = [helper.make_tensor_value_info(f"u{name}", TensorProto.FLOAT, [2, 4, 6, 6]) for name in ATTACKS]
    graph = helper.make_graph(
        nodes, ATTACKS[0], inputs, [output], initializer=weights, value_info=between if unknown else []
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(name, 1) for name in ATTACKS if unknown)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, producer_name=ATTACKS[0]), path)
    return path


SHAPES = ((4, 3, 3, 3), (4, 5))


def attacking_texts(folder: Path) -> None:
    """Files whose texts attack: models, a fleet, devices, plans, a table to import, and the store `s`."""
    attacking_model(folder / "m.onnx")
    attacking_model(folder / "u.onnx", unknown=True)
    attacking_model(folder / "o.onnx", size=("\x1b[2J", "\u202e"))
    names = [name for name in ATTACKS if name.isprintable()][:4]  # of classes: no others are taken
    common = {"device": CPU, "samples": 8, "batch": 2, "bandwidth": {"up": "5Mbit", "down": "5Mbit"}}
    fleet = {"classes": [{"class": name, **common} for name in names]}
    (folder / "f.yaml").write_text(json.dumps(fleet), "utf-8")
    devices = [("device", "class"), *((name, names[at % len(names)]) for at, name in enumerate(ATTACKS))]
    with (folder / "d.csv").open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows(devices)
    header = "input_n,input_c,input_h,input_w,output_c,kernel_h,kernel_w,padding_height,padding_width,stride_height,"
    rows = "".join(f'1,3,8,8,4,3,3,1,1,1,1,1,1,"{name}"\n' for name in ATTACKS)
    (folder / "i.csv").write_text(f"{header}stride_width,dilation_h,dilation_w,label\n{rows}", "utf-8")
    attacking_store(str(folder / "s"))


def attacking_store(uri: str) -> None:
    """A store whose algorithms and device are called what attacks."""
    store = open_store(uri, shipped=False)
    profile(store, step_layers(zoo.network("lenet", batch_size=2)))
    task = tasks(step_layers(zoo.network("lenet", batch_size=1)))[0]
    odd = [replace(task, algorithm=Algorithm(library=name, name=name)) for name in ATTACKS]
    write(store, [measurement(each, device=replace(DEVICE, name=ATTACKS[-1])) for each in odd])


def attacked_plans(folder: Path) -> None:
    """The plan `p.json` of the attacking fleet, and `q.json`, in which sub-models are called what attacks, too."""
    done = ended(*f"{ALLOCATE} -o p.json".split())
    assert done.returncode == 0, done.stderr
    document = json.loads((folder / "p.json").read_text("utf-8"))
    text = json.dumps(document)
    for at, known in enumerate(each["id"] for each in document["sub_models"]):
        text = text.replace(json.dumps(known), json.dumps(ATTACKS[at % len(ATTACKS)]))
    (folder / "q.json").write_text(text, "utf-8")


def formats(line: str) -> list[str]:
    """The formats that a command writes."""
    path = max((path for path in COMMANDS_BY_PATH if " ".join(path) == " ".join(line.split()[: len(path)])), key=len)
    return [
        form for option in COMMANDS_BY_PATH[path].params if "--format" in option.opts for form in option.type.choices
    ]


def test_the_names_that_attack_are_given_to_every_command_that_writes_csv() -> None:
    written = {" ".join(path) for path in COMMANDS_BY_PATH if "csv" in formats(" ".join(path))}
    tried = {name for name in written for line in OUTPUTS if line.startswith(f"{name} ")}
    assert tried | set(NO_ATTACKER) == written


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files that attack."""
    folder = tmp_path_factory.mktemp("attacked")
    attacking_texts(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        attacked_plans(folder)
    return folder


def check_text(text: str, what: str) -> None:
    """Nothing of a text turns lines, moves a cursor, or is a formula where it is CSV."""
    assert not ugly(text.replace("\n", "")), (what, ugly(text.replace("\n", "")))
    if "csv" in what:
        rows = list(csv.reader(io.StringIO(text)))
        assert not [cell for row in rows for cell in row if dangers(cell)], what


@pytest.mark.parametrize("line", OUTPUTS)
def test_no_format_of_a_command_carries_an_attack(line: str, attacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(attacked)
    words = line.replace("CPU", CPU).split()
    for form in formats(line):
        if form == "parquet" or (form in ("trace", "markdown") and set(words) & OF_TABLES):
            continue
        done = ended(*words, "--format", form)
        assert done.returncode in (0, 1), (form, done.stderr)
        assert done.returncode == 0 or "import" in line or "o.onnx" in line, (form, done.stderr)
        check_text(done.stdout, form)
        check_text(done.stderr, "stderr")
        if form in ("json", "trace") and done.stdout:
            json.loads(done.stdout)


@pytest.mark.parametrize("how", ["github", "junit"])
def test_no_annotation_carries_an_attack(how: str, attacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(attacked)
    done = ended(*LIMITED.replace("CPU", CPU).split(), how)
    assert done.returncode == 3, done.stderr
    check_text(done.stdout, how)
    check_text(done.stderr, how)


@pytest.mark.parametrize("line", FILES)
def test_no_file_of_a_command_carries_an_attack(line: str, attacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(attacked)
    before = set(attacked.rglob("*"))
    done = ended(*line.replace("CPU", CPU).split())
    assert done.returncode in (0, 3), done.stderr
    written = [path for path in set(attacked.rglob("*")) - before if path.is_file()]
    assert written
    for path in written:
        assert path.name.isprintable()
        if path.suffix in (".csv", ".html", ".svg", ".xml"):
            check_text(path.read_bytes().decode().replace("\t", ""), path.suffix)
