"""What an installed LATTE weighs, with each extra: fresh environments, made with pip and the versions of the tests."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGES = ("", "onednn", "fl", "simulation")  # each on top of those before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--largest", type=int, default=6, help="how many packages of LATTE itself are named")
    given = parser.parse_args()
    print(
        f"x86-64 is assumed; Python {sys.version.split()[0]}\n\n| installed | MiB in all | MiB more |\n|---|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        (packages,) = Path(folder).glob("lib/python*/site-packages")
        before = size_mib(Path(folder))
        for extra in STAGES:
            target = f"{ROOT}[{extra}]" if extra else str(ROOT)
            pip = [f"{folder}/bin/pip", "install", "--quiet", "--constraint", str(given.constraints), target]
            subprocess.run(pip, check=True)
            now = size_mib(Path(folder))
            print(f"| {extra or 'LATTE'} | {now:.0f} | {now - before:.0f} |", flush=True)
            if not extra:
                sizes = {path.name: size_mib(path) for path in packages.iterdir() if path.is_dir()}
            before = now
    largest = sorted(sizes.items(), key=lambda item: -item[1])[: given.largest]
    print("\nlargest of LATTE's: " + ", ".join(f"{name} {size:.0f} MiB" for name, size in largest))


def size_mib(folder: Path) -> float:
    """The size of the files in a folder, in MiB."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


if __name__ == "__main__":
    main()
