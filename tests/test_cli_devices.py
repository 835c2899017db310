"""`latte devices` at a terminal, and names of devices that are nearly right."""

from pathlib import Path

import pytest
from running import here
from terminal import on_terminal

from latte_cli.datasheets import sheets

SHIPPED = ("nvidia-h200-reference", "reference-amd-epyc-family-26-model-2-2c-2t")


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_every_name_is_whole_at_a_terminal(columns: int) -> None:
    shown = on_terminal("devices", "--all", columns=columns)
    assert shown.returncode == 0
    assert "…" not in shown.text
    names = {line.split()[0] for line in shown.text.splitlines() if line.split()}
    assert {*SHIPPED, *(sheet.slug for sheet in sheets())} <= names
    assert all(len(line) <= columns for line in shown.text.splitlines())


def test_a_short_terminal_shows_the_profiles_and_how_to_list_the_rest() -> None:
    shown = on_terminal("devices")
    assert len(shown.lines) <= 23
    assert all(name in shown.text for name in SHIPPED)
    assert f"{len(sheets())} more are known by their data sheets" in shown.text
    assert sheets()[0].slug not in shown.text
    assert sheets()[0].slug in on_terminal("devices", lines=300).text
    assert "raspberry-pi-5" in on_terminal("devices", "raspberry").text


def test_a_pipe_has_every_device() -> None:
    assert here("devices").stdout.count("\n") == 1 + len(SHIPPED) + len(sheets())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("refernce", SHIPPED[1]),
        ("jetson-nan", "nvidia-jetson-nano"),
        ("rasberry-pi-5", "raspberry-pi-5"),
        ("epyc-7724", "amd-epyc-7742"),
        ("rtx4090", "nvidia-geforce-rtx-4090"),
        ("RTX3080Ti", "nvidia-geforce-rtx-3080-ti"),
        ("gtx-108", "nvidia-geforce-gtx-1080"),
    ],
)
def test_the_nearest_device_is_named_by_any_of_its_words(model: Path, typed: str, meant: str) -> None:
    done = here("estimate", model, "--device", typed, code=1)
    assert f"hint: did you mean `{meant}" in done.stderr


def test_what_is_like_no_device_has_no_nearest(model: Path) -> None:
    assert "did you mean" not in here("estimate", model, "--device", "quantum", code=1).stderr
