"""Install requirements into /moodbench/venv; runs in the build stage of both Dockerfiles, with the base's Python alone.

    INDEX_URL=... TORCH_INDEX_URL=... TORCH_BUILD=cpu|cuda python3 install.py REQUIREMENTS

torch comes from the wheelhouse if one there fits, else from its own index, and must be the build that was asked for;
everything else from the wheelhouse and the index. A second call adds to the first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WHEELS = HERE / "inputs" / "wheels"
CA_BUNDLE = HERE / "inputs" / "ca.pem"
PIP_VENV = HERE / "pip"  # pip lives apart, so that the image has none
VENV = Path("/moodbench/venv")
PYTHON = VENV / "bin" / "python"

# What no cell opens: headers, static libraries and the packages' own tests. numpy's stay: numpy.testing imports them.
UNUSED = (
    "torch/include",
    "torch/share",
    "torch/lib/*.a",
    "torch/bin/protoc*",
    "torch/bin/*test*",
    "pyarrow/include",
    "pyarrow/tests",
    "pyarrow/*.a",
    "pandas/tests",
    "scipy/**/tests",
    "sklearn/**/tests",
    "sympy/**/tests",
    "networkx/**/tests",
    "psutil/tests",
)

CHECK_TORCH = """
import sys, torch
kind = "cpu" if torch.version.cuda is None else "cuda"
if kind != sys.argv[1]:
    sys.exit(f"error: torch {torch.__version__} is a {kind} build, and this image needs a {sys.argv[1]} build")
"""


def main() -> None:
    requirements = HERE / sys.argv[1]
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", "--without-pip", VENV)
        run(sys.executable, "-m", "venv", PIP_VENV)
        install_torch()
    pip("install", "--index-url", os.environ["INDEX_URL"], *wheelhouse(), "--requirement", requirements)
    pip("check")
    remove_unused()
    compile_all()
    # Last: a requirement might have replaced torch, and nothing that is needed may have been removed.
    run(PYTHON, "-c", CHECK_TORCH, os.environ["TORCH_BUILD"])


def install_torch() -> None:
    """By itself and without dependencies: no index but torch's own can then offer another build of it."""
    if list(WHEELS.glob("torch-*.whl")):
        try:
            pip("install", "--no-deps", "--no-index", *wheelhouse(), "torch")
        except SystemExit:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            sys.exit(f"error: no torch wheel of the wheelhouse fits Python {version}: add one that does, or none")
    else:
        pip("install", "--no-deps", "--index-url", os.environ["TORCH_INDEX_URL"], "torch")


def wheelhouse() -> list[str]:
    return ["--find-links", str(WHEELS)] if WHEELS.is_dir() else []


def pip(command: str, *arguments: str | Path) -> None:
    options: list[str | Path] = ["--python", PYTHON, "--disable-pip-version-check", command]
    if command == "install":
        options += ["--no-cache-dir", "--no-compile", "--only-binary", ":all:", "--progress-bar", "off"]
        options += ["--constraint", HERE / "constraints.txt"]
    run(PIP_VENV / "bin" / "python", "-m", "pip", *options, *arguments)


def run(*command: str | Path) -> None:
    environment = dict(os.environ)
    if CA_BUNDLE.exists():
        environment |= {"PIP_CERT": str(CA_BUNDLE), "SSL_CERT_FILE": str(CA_BUNDLE)}
    done = subprocess.run([str(part) for part in command], env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def site_packages() -> Path:
    return VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def remove_unused() -> None:
    for pattern in UNUSED:
        for path in list(site_packages().glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)  # `**` also finds folders inside one already removed
            else:
                path.unlink(missing_ok=True)


def compile_all() -> None:
    """Files compiled once are never compared with their source again: a cell starts fast on a read-only root."""
    missing = [
        str(path)
        for path in site_packages().rglob("*.py")
        if not (path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc").exists()
    ]
    listing = HERE / "to-compile.txt"
    listing.write_text("\n".join(missing))
    compiler = [PYTHON, "-m", "compileall", "-qq", "-j", "0", "--invalidation-mode", "unchecked-hash", "-i", listing]
    # Some packages carry files of another Python version on purpose: those stay uncompiled.
    subprocess.run([str(part) for part in compiler], check=False)


main()
