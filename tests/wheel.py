"""Builds a wheel, installs it away from the checkout, and runs it there: `python -m tests.wheel`, or `make wheel`.

Dependencies are those of the interpreter that runs this: what is tried is whether the wheel holds all that it needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from graft.version import __version__

ROOT = Path(__file__).parents[1]
MAKE_PATCH = """
import torch, graft
from graft.patch.provenance import BaseIdentity, Provenance
from graft.tensors.dtypes import spec_of
weight = torch.zeros(4, 3)
mask = graft.Mask.of({"weight": spec_of(weight)}, {"weight": [1, 5]})
made = Provenance(BaseIdentity(n_parameters=12))
patch = graft.Patch(mask, {"weight": torch.tensor([7.0, 8.0])}, {"weight": "0" * 16}, made)
graft.save_patch(patch, "tiny.safetensors")
print(graft.__file__)
"""


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the checkout into a folder."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_wheel(wheel: Path, folder: Path) -> Path:
    """Make an environment of the wheel and this interpreter's packages, and return its folder of scripts."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "besides.pth").write_text("\n".join(here) + "\n", encoding="utf-8")  # after the wheel's own modules
    return folder / "bin"


def try_wheel(scripts: Path, folder: Path) -> None:
    """Run the installed command and library in a folder that is not the checkout.

    Raises:
        SystemExit: something does not work; what it printed is shown.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str) -> str:
        finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if finished.returncode:
            sys.exit(f"{' '.join(command)[:80]}: exit code {finished.returncode}\n{finished.stdout}{finished.stderr}")
        return finished.stdout

    graft = str(scripts / "graft")
    expect(__version__ in run(graft, "--version"), "graft --version names another version")
    expect("localize" in run(graft, "--help"), "graft --help lacks a command")
    for command in ("train", "report", "push"):
        run(graft, command, "--help")
    where = run(str(scripts / "python"), "-c", MAKE_PATCH).strip()
    expect(Path(where).is_relative_to(scripts.parent), f"the library came from {where}, not from the wheel")
    sent = "from graft.server.page_files import read_all; print(*(len(body) > 100 for body in read_all()))"
    expect("False" not in run(str(scripts / "python"), "-c", sent), "the wheel lacks a file of the server's page")
    expect("2 of 12" in run(graft, "inspect", "tiny.safetensors"), "graft inspect does not show the patch")


def expect(fact: bool, otherwise: str) -> None:
    """Leave with a line where something is not so."""
    if not fact:
        sys.exit(otherwise)


def main() -> None:
    """Build, install and try."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scripts = install_wheel(build_wheel(folder / "dist"), folder / "env")
        (folder / "elsewhere").mkdir()
        try_wheel(scripts, folder / "elsewhere")
    print(f"the wheel of skillgraft {__version__} installs and runs")


if __name__ == "__main__":
    main()
