"""The fleets of `benchmarks/phones_fleet.py`: from made-up tables like FLASH's, and from FLASH's own where they are."""

import gzip
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from latte_cli.federated.study import parse_study
from latte_cli.fleet import parse_fleet

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "phones_fleet.py"
SHARED = ROOT.parent / "shared" / "data" / "fleets"
MODULE = runpy.run_path(str(SCRIPT))


def printed(form, *options):
    command = [sys.executable, str(SCRIPT), form, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Phones of scores 400 to 6,000 and of 1 to 5 GB, and one that is too old; links of 4 to 64 Mbit/s up."""
    folder = tmp_path_factory.mktemp("phones")
    scores = enumerate((400, 1000, 2000, 4000, 6000))
    rows = [f"phone {at},SoC {at},{1 + at}GB,2018,1,{score},1,1,1" for at, score in scores]
    header = "model,cpu,ram,year,cpu_q_ai_score,cpu_f_ai_score,fp16_score,fp32_score,ai_score"
    with gzip.open(folder / "flash_phones.csv.gz", "wt") as file:
        file.write("\n".join([header, *rows, "old,SoC,0.5GB,2010,1,100,1,1,1"]) + "\n")
    links = {f"link {at}": {"down_u": 2000 * 2**at, "up_u": 500 * 2**at} for at in range(5)}
    (folder / "flash_links.json").write_text(json.dumps(links))
    return folder


def test_a_fleet_and_a_study_have_the_same_few_classes_of_alike_phones(folder):
    options = ("--data", folder, "--devices", 60, "--seed", 3)
    fleet = parse_fleet(printed("fleet", *options).stdout.encode(), source="fleet")
    study = parse_study(printed("study", *options).stdout.encode(), source="study")
    (scenario,) = study.scenarios
    assert [each.fleet_class.name for each in scenario.tiers] == [each.name for each in fleet.classes]
    assert [each.slower for each in scenario.tiers] == [each.epochs for each in fleet.classes]
    assert 4 < len(fleet.classes) <= 8
    assert sum(each.count for each in fleet.classes) == len(scenario.devices) == 60
    slower = {(each.name.partition(",")[0], each.epochs) for each in fleet.classes}
    assert slower - {("fastest", 4), ("fastest", 5), ("fastest", 6)} == {("fast", 13), ("slow", 26), ("slowest", 64)}
    assert {each.memory_bytes for each in fleet.classes} <= {2**29 * gigabytes for gigabytes in range(1, 6)}
    for each in fleet.classes:
        quick = each.name.endswith("quick link")
        assert 4e6 <= each.up_bit_per_s <= 64e6 and quick == (each.up_bit_per_s >= 16e6)


def test_chance_comes_from_the_seed_alone(folder):
    options = ("--data", folder, "--devices", 9)
    first, again, other = (printed("study", *options, "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == again
    assert first.split("scenarios:")[1] != other.split("scenarios:")[1]


def test_phones_that_are_all_alike_are_one_class():
    phone = MODULE["Phone"](score=3212, ram_bytes=2**32, up_bit_per_s=1e7, down_bit_per_s=2e7)
    (found,) = MODULE["classes"]([phone] * 3)
    assert (found.count, found.slower, found.memory_mib) == (3, 8, 2048)


def test_without_the_measurements_it_says_so_in_one_line(tmp_path):
    done = printed("study", "--data", tmp_path)
    assert done.stdout == ""
    assert done.stderr.startswith(f"skipped: `{tmp_path}` has no measurements") and done.stderr.count("\n") == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"FLASH's files are not in {SHARED}")
def test_the_study_of_the_documentation_is_what_is_printed():
    assert printed("study", "--data", SHARED).stdout == (ROOT / "docs" / "study-phones.yaml").read_text("utf-8")
