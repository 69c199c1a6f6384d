"""What a user installs: the wheel holds the package, its experiments and the typed marker, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    experiments = {
        f"supermask/experiments/{p.relative_to(ROOT / 'experiments')}" for p in ROOT.glob("experiments/**/*.yaml")
    }
    modules = {f"supermask/{p.relative_to(ROOT / 'src/supermask')}" for p in ROOT.glob("src/supermask/**/*.py")}
    assert experiments
    assert experiments | modules | {"supermask/py.typed"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"supermask"}
    required = [line for line in text.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert sorted(required) == ["Requires-Dist: numpy>=1.26", "Requires-Dist: torch>=2.11"]
