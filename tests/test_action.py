"""The action for GitHub: its script is run as a runner does, in a separate folder, with the real `latte`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from forking import zygote

from latte_cli.network.zoo import export

ROOT = Path(__file__).parents[1]
ACTION = ROOT / ".github" / "actions" / "latte"
BODY = yaml.safe_load((ACTION / "action.yml").read_text())
STEPS = BODY["runs"]["steps"]
RUN = {step["run"].split()[-1]: step for step in STEPS if "run" in step}
DEFAULTS = {name: str(given.get("default", "")) for name, given in BODY["inputs"].items()}
DEVICE = "reference-amd-epyc-family-26-model-2-2c-2t"

# GitHub's command line, as far as the script asks it: it answers from files, and notes what it was asked.
GH = """#!/usr/bin/env bash
echo "$*" >> gh.log
case "$1 $2" in
"run list") [ ! -f artefact.json ] || echo 7 ;;
"run download") mkdir -p .latte/baseline && cp artefact.json .latte/baseline/estimate.json ;;
esac
"""


def test_every_command_of_the_action_is_its_script() -> None:
    assert [*RUN] == ["install", "baseline", "estimate", "compare", "comment", "verdict"]
    for name, step in RUN.items():
        assert step["run"] == f'bash "$GITHUB_ACTION_PATH/run.sh" {name}'
        assert step["shell"] == "bash"
    script = (ACTION / "run.sh").read_text()
    assert "${{" not in script  # inputs come in variables, which a shell does not run
    assert {name for step in STEPS for name in step.get("env", {})} >= {*re.findall(r"\$(LATTE_\w+)", script)}


def test_every_input_is_used_and_described() -> None:
    text = (ACTION / "action.yml").read_text()
    for name, given in BODY["inputs"].items():
        assert given["description"]
        assert f"inputs.{name}" in text


def test_the_workflow_of_the_page_names_inputs_of_the_action() -> None:
    workflow = yaml.safe_load((ROOT / "docs" / "how-to" / "latte-gate.yml").read_text())
    [step] = [step for step in workflow["jobs"]["estimate"]["steps"] if step.get("uses", "").endswith("actions/latte")]
    assert step["with"].keys() <= BODY["inputs"].keys()
    assert {name for name, given in BODY["inputs"].items() if given.get("required")} <= step["with"].keys()
    assert workflow["permissions"]["pull-requests"] == "write"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A checkout with a model, and a runner's files and commands."""
    (tmp_path / "model.onnx").write_bytes(export("lenet"))
    (tmp_path / "bin").mkdir()
    for name, content in (("gh", GH), ("pip", '#!/usr/bin/env bash\necho "$*" >> pip.log\n')):
        (tmp_path / "bin" / name).write_text(content)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def run(workspace: Path, name: str, code: int = 0, **given: str) -> str:
    """What a step of the action prints, with what the runner and the inputs `given` put into its environment."""
    inputs = DEFAULTS | {"model": "model.onnx", "device": DEVICE, "batch-size": "8"} | given
    values = {
        variable: re.sub(r"\$\{\{ inputs\.(\S+) \}\}", lambda found: inputs[found[1]], value)
        for variable, value in RUN[name].get("env", {}).items()
    }
    environment = {
        **{key: value for key, value in os.environ.items() if key != "LATTE_STORE"},
        **values,
        "PATH": f"{workspace / 'bin'}:{zygote().commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(workspace / "output"),
        "GITHUB_STEP_SUMMARY": str(workspace / "summary.md"),
        "GITHUB_ACTION_PATH": str(ACTION),
        "LATTE_BRANCH": "main",
        "LATTE_PULL_REQUEST": "12",
        "LATTE_REGRESSED": outputs(workspace).get("regressed", ""),
    }
    done = subprocess.run(
        ["bash", "-c", RUN[name]["run"]], cwd=workspace, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def outputs(workspace: Path) -> dict[str, str]:
    """The outputs of the steps so far."""
    path = workspace / "output"
    return dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}


def changed(workspace: Path, change: Any) -> None:
    """Let the main branch's estimate be what `change` makes of this one."""
    body = json.loads((workspace / ".latte" / "estimate.json").read_text())
    change(body)
    (workspace / "artefact.json").write_text(json.dumps(body))


def twice_as_fast(body: Any) -> None:
    body["estimates"][0]["totals"]["step_s"] /= 2


def test_the_first_run_estimates_and_compares_with_nothing(workspace: Path) -> None:
    run(workspace, "install")
    assert (workspace / "pip.log").read_text().startswith("install --quiet latte-cli ")
    assert "has no estimate yet" in run(workspace, "baseline")
    run(workspace, "estimate")
    run(workspace, "compare")
    assert outputs(workspace)["regressed"] == "false"
    assert float(outputs(workspace)["step-s"]) > 0
    assert (workspace / "summary.md").read_text().startswith("### ")
    run(workspace, "verdict")


def test_a_change_that_makes_the_step_longer_is_commented_on_and_fails(workspace: Path) -> None:
    run(workspace, "estimate")
    changed(workspace, twice_as_fast)
    run(workspace, "baseline")
    assert "::error title=latte" in run(workspace, "compare")
    assert outputs(workspace)["regressed"] == "true"
    assert "**+100.0 %** from A to B" in (workspace / ".latte" / "comment.md").read_text()
    run(workspace, "comment")
    asked = (workspace / "gh.log").read_text()
    assert "run download 7 --name latte-baseline --dir .latte/baseline" in asked
    assert "pr comment 12 --body-file .latte/comment.md" in asked
    run(workspace, "verdict", code=3)


def test_a_baseline_that_was_asked_otherwise_is_said_and_left_out(workspace: Path) -> None:
    run(workspace, "estimate")
    changed(workspace, lambda body: body["model"].update(batch_size=16))
    run(workspace, "baseline")
    said = run(workspace, "compare")
    assert "its batch-size is `16`, not `8`" in said
    assert "::warning title=latte::the estimate of the main branch cannot be compared" in said
    assert outputs(workspace)["regressed"] == "false"


def test_a_limit_holds_without_a_baseline(workspace: Path) -> None:
    run(workspace, "estimate", options="--optimizer adam --samples 1000")
    run(workspace, "compare", **{"fail-above": "1us"})
    assert outputs(workspace)["regressed"] == "true"


def test_an_input_is_a_word_and_never_a_command(workspace: Path) -> None:
    said = run(workspace, "estimate", code=1, model="$(touch hacked); `touch hacked`.onnx")
    assert "cannot read" in said
    assert not (workspace / "hacked").exists()


def test_a_profile_of_ones_own_is_copied_once_into_the_cached_folder(workspace: Path) -> None:
    from made_rows import DEVICE as OWN
    from made_rows import profile, step_layers

    from latte_cli.network import load
    from latte_cli.store import open_store

    store = open_store(str(workspace / "profiles"), shipped=False)
    profile(store, step_layers(load(workspace / "model.onnx", batch_size=8)))
    run(workspace, "estimate", device=OWN.slug, profile="profiles")
    assert any((workspace / ".latte" / "store").rglob("*.parquet"))
    (workspace / "profiles").rename(workspace / "gone")
    run(workspace, "estimate", device=OWN.slug, profile="profiles")
