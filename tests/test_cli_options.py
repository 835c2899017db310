"""Words that options take beside the names that `latte` uses itself."""

import pytest
from running import here

from latte_cli.cli.options import parse_layout, parse_measured_layout, parse_measured_precision, parse_precision
from latte_cli.errors import ExitCode, LatteError
from latte_cli.precisions import LAYOUT_WORDS, PRECISION_WORDS, Layout, Precision


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((each.value, each.value) for each in Precision),
        ("FP32", "fp32"),
        ("float32", "fp32"),
        ("half", "fp16"),
        ("f32", "fp32"),
        ("bfloat16", "bf16"),
        ("bf16-autocast", "bf16_autocast"),
    ],
)
def test_a_precision_is_taken_by_what_others_call_it(text, name):
    assert (parse_precision(text), parse_measured_precision(text)) == (name, name)


@pytest.mark.parametrize(
    ("text", "name"),
    [("nchw", "nchw"), ("NCHW", "nchw"), ("NHWC", "channels_last"), ("channels-last", "channels_last")],
)
def test_a_layout_is_taken_by_what_others_call_it(text, name):
    assert (parse_layout(text), parse_measured_layout(text)) == (name, name)


@pytest.mark.parametrize("text", ["amp", "mixed"])
def test_a_word_for_two_precisions_is_refused_with_both(text):
    with pytest.raises(LatteError, match="may mean 2") as caught:
        parse_precision(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.hint == "did you mean `bf16_autocast` or `fp16_autocast`?"


def test_other_words_are_left_to_the_command_or_refused():
    assert (parse_precision("fp31"), parse_layout("auto")) == ("fp31", "auto")
    with pytest.raises(LatteError, match="unknown precision `fp31`"):
        parse_measured_precision("fp31")
    with pytest.raises(LatteError, match="unknown layout `auto`"):
        parse_measured_layout("auto")


def test_no_other_word_is_a_name():
    assert not {*PRECISION_WORDS} & {*Precision}
    assert not {*LAYOUT_WORDS} & {*Layout}


def test_other_words_give_the_same_estimate(model):
    def words(*more):
        return here("estimate", model, *more, "--format", "csv").stdout

    plain = words("--device", "nvidia-h200-reference")
    assert words("--device", "H200", "--precision", "float32", "--layout", "NCHW") == plain
    error = here("estimate", model, "--device", "h200", "--layout", "NHWC", code=1).stderr
    assert "has no rows in fp32 channels_last" in error
