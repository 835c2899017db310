"""Estimates as Markdown: what a comment on a change shows, and that no name in it is more than a name."""

import html
import json
import re

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from onnx import TensorProto, helper, numpy_helper
from running import here

from latte_cli.printable import printable
from latte_cli.report.markdown import code

DEVICE = ("--device", "nvidia-h200-reference")
HOSTILE = [
    "a|b|c",
    "`code` ``",
    "<img src=x onerror=alert(1)>",
    "[link](javascript:alert(1))",
    "@everyone #1 http://example.com www.example.com a@b.c",
    "**bold** _it_ ~~no~~ $x$ :smile:",
    "\\| \\` &lt;",
    "# title\n\n---\n> quote",
    "</code></td></table><script>",
]
MARKDOWN = MarkdownIt("gfm-like", {"html": True, "linkify": False}).enable("table")


def text_of(rendered: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", rendered))


def test_a_comment_names_the_regions_that_are_checkpointed(model):
    words = ("estimate", model, *DEVICE, "--batch-size", 8, "--checkpoint", "conv1..pool1", "--format", "markdown")
    out = here(*words).stdout
    assert "torch.utils.checkpoint" in out
    assert "  - <code>conv1..pool1" in out


@pytest.fixture
def hostile(tmp_path):
    """A network whose name and layers have names that try to be Markdown, HTML, links and mentions."""
    nodes, reads = [], "x"
    for at, name in enumerate(HOSTILE):
        nodes.append(helper.make_node("Gemm", [reads, "w"], [f"h{at}"], name=name))
        reads = f"h{at}"
    shape = ["N", 8]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(reads, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.zeros((8, 8), np.float32), "w")],
    )
    path = tmp_path / "<b>|x @all.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1))
@example("a|b")
@example("\\|")
@example("_a_")
@example("www.example.com")
def test_a_name_is_nothing_but_itself(name):
    table = f"| head |\n|---|\n| x{code(name)}x |\n"
    rendered = MARKDOWN.render(table)
    assert re.findall(r"<(?!/?(?:table|thead|tbody|tr|th|td|code)\b)[^>]*>", rendered) == []
    cell = rendered.split("<td>")[1].split("</td>")[0]
    assert text_of(cell).strip() == f"x{printable(name)}x".strip()
    assert not re.search(r"[@#`|<>*\[\]()\\]|://|www\.|_(?![A-Za-z0-9])", re.sub(r"</?code>|&#\d+;", "", code(name)))


def test_a_comment_has_totals_and_the_heaviest_layers(model):
    out = here("estimate", model, *DEVICE, "--format", "markdown", "--samples", 100).stdout
    lines = out.splitlines()
    assert lines[0] == "### <code>lenet</code>, batch 1"
    assert "| estimate | step | 95 % of steps | forward | backward | update | memory |" in lines
    assert any(line.startswith("- epoch of 100 samples: ") for line in lines)
    heaviest = out.split("| heaviest layers |")[1].splitlines()[2:]
    assert len(heaviest) == 5
    assert MARKDOWN.render(out).count("<table>") == 2


def test_names_in_a_comment_stay_names(hostile):
    out = here("estimate", hostile, *DEVICE, "--format", "markdown").stdout
    rendered = MARKDOWN.render(out)
    tags = set(re.findall(r"<(/?[a-z0-9]+)", rendered))
    assert tags <= {
        f"{end}{tag}"
        for end in ("", "/")
        for tag in ("h3", "code", "table", "thead", "tbody", "tr", "th", "td", "strong")
    }
    assert len(re.findall("<tr>", rendered)) == 2 + 6
    assert not re.search(r"@(all|everyone)|https?://|www\.", out)
    shown = text_of(rendered)
    assert sum(printable(name) in shown for name in HOSTILE) == 5


def test_a_comment_says_what_moved_since_the_baseline_and_what_failed(hostile, tmp_path):
    base, faster = tmp_path / "base.json", tmp_path / "faster.json"
    base.write_text(here("estimate", hostile, *DEVICE, "--format", "json").stdout)
    document = json.loads(base.read_text())
    document["estimates"][0]["totals"]["step_s"] /= 2
    for layer in document["estimates"][0]["layers"]:
        layer["time_s"] /= 2
    faster.write_text(json.dumps(document))
    words = ("--format", "markdown", "--baseline")
    same = here("estimate", hostile, *DEVICE, *words, base).stdout
    assert "**+0.0 %** since the baseline: " in same
    assert "heaviest" not in same and "| layer |" not in same
    limits = ("--max-regression", "5%", "--fail-above", "1h")
    other = here("estimate", hostile, *DEVICE, *words, faster, *limits, code=3).stdout
    assert "**+100.0 %** since the baseline: " in other
    assert len(other.split("| layer |")[1].split("\n\n")[0].splitlines()) == 2 + 5
    assert re.search(r"\nand \d+ more\n", other)
    assert "- **failed**: the step is 100.0 % longer" in other
    assert "- passed: step " in other


def test_what_a_comment_does_not_show_is_refused(model):
    error = here("estimate", model, *DEVICE, "--format", "markdown", "--memory", code=2).stderr
    assert "`--format markdown` does not show `--memory`" in error
    error = here("estimate", model, *DEVICE, "--format", "markdown", "--batch-size", "2,4", code=2).stderr
    assert "`--format markdown` shows one batch" in error
