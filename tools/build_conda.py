"""Build the Conda recipe and run its tests, without a channel of the network: with one made of this Python and of wheels from PyPI.

    uv venv --managed-python CONDA && uv pip install --python CONDA/bin/python py-rattler-build packaging
    CONDA/bin/python tools/build_conda.py --work DIR

It shows that the recipe is valid, that the package is complete, and that its tests pass with these packages. It does not show that the channel
conda-forge has packages of these names and versions. DIR/out/noarch has the package at the end. It needs uv, and a Python that lies in a
folder of its own, as those of uv and pyenv do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from rattler_build import FileEntry, Package, assemble_package, build_recipes

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "packaging" / "conda" / "recipe.yaml"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SITE = f"lib/{PYTHON}/site-packages"


def canonical(name: str) -> str:
    """Return a distribution's name as Conda writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted() -> list[str]:
    """Return what the recipe asks for in its environments, without Python."""
    sections = re.findall(r"^  (?:host|run):\n((?:    - .*\n)+)", RECIPE.read_text(), re.MULTILINE)
    lines = [line.strip("- ") for section in sections for line in section.splitlines()]
    return sorted({line for line in lines if line.split()[0] != "python"})


def package_python(work: Path, folder: Path) -> None:
    """Package the Python that runs this, without what is installed into it."""
    stage = work / "python"
    left_out = ("site-packages", "test", "tests", "__pycache__", "idlelib", "*.a", "include", "share")
    if not stage.is_dir():
        shutil.copytree(sys.base_prefix, stage, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
        (stage / SITE).mkdir(parents=True)
        (stage / SITE / "README.txt").write_text("What is installed lies here.\n")
    version = ".".join(map(str, sys.version_info[:3]))
    assemble_package("python", version, "linux-64", "0_cpython", folder, files_dir=stage, compression_level=1)


def requirements(distribution: metadata.Distribution) -> Iterator[str]:
    """Yield what a distribution depends on, as Conda writes it."""
    for line in distribution.requires or []:
        found = Requirement(line)
        if found.marker is None or found.marker.evaluate({"extra": ""}):
            bounds = str(found.specifier).replace("~=", ">=")
            yield f"{canonical(found.name)} {bounds}".strip()


def package_wheels(work: Path, folder: Path) -> None:
    """Install what the recipe asks for into a folder, and package every distribution that lies there."""
    site = work / "site"
    if not site.is_dir():
        command = ["uv", "pip", "install", "--quiet", "--python", sys.executable, "--target", str(site)]
        subprocess.run([*command, *(line.replace(" ", "") for line in wanted())], check=True)
    for distribution in metadata.distributions(path=[str(site)]):
        files = [
            FileEntry.from_paths(site / path, Path(SITE) / path)
            for path in distribution.files or []
            if ".." not in path.parts and "__pycache__" not in path.parts and path.parts[0] != "bin"
        ]
        depends = [f"python {sys.version_info.major}.{sys.version_info.minor}.*", *requirements(distribution)]
        assemble_package(
            canonical(distribution.name),
            distribution.version,
            "linux-64",
            "0",
            folder,
            files=[entry for entry in files if entry.source.is_file()],
            depends=depends,
            compression_level=1,
        )


def index(channel: Path) -> None:
    """Write the lists of packages of a channel."""
    for folder in (channel / "linux-64", channel / "noarch"):
        folder.mkdir(parents=True, exist_ok=True)
        packages = {}
        for path in sorted(folder.glob("*.conda")):
            found, content = Package.from_file(path), path.read_bytes()
            packages[path.name] = {
                "name": found.name,
                "version": found.version,
                "build": found.build_string,
                "build_number": found.build_number,
                "depends": found.depends,
                "subdir": folder.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
            }
            if found.name == "python":
                packages[path.name]["python_site_packages_path"] = SITE
        listing = {"info": {"subdir": folder.name}, "packages": {}, "packages.conda": packages, "repodata_version": 1}
        (folder / "repodata.json").write_text(json.dumps(listing))


def main() -> None:
    """Make the channel, build the recipe, and run the tests of the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder; the channel that lies there is used again")
    work = parser.parse_args().work.resolve()
    channel = work / "channel"
    if Path(sys.base_prefix).resolve() in {Path("/"), Path("/usr"), Path("/usr/local")}:
        sys.exit(f"{sys.base_prefix}: the Python of the system cannot be packaged; run this with one of uv or pyenv")
    if not (channel / "noarch" / "repodata.json").is_file():
        (channel / "linux-64").mkdir(parents=True, exist_ok=True)
        package_python(work, channel / "linux-64")
        package_wheels(work, channel / "linux-64")
        index(channel)
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/edgekit/__init__.py").read_text(), re.MULTILINE)
    if found is None:
        sys.exit("src/edgekit/__init__.py: no __version__")
    os.environ["EDGEKIT_VERSION"] = found[1]
    build_recipes([RECIPE], channel=[channel.as_uri()], output_dir=work / "out", test="skip", use_sharded=False)
    [path] = (work / "out" / "noarch").glob(f"edgekit-vision-{found[1]}-*.conda")
    package = Package.from_file(path)
    for i in range(package.test_count):
        result = package.run_test(i, channel=[channel.as_uri()], use_sharded=False)
        sys.stdout.write(f"test {i + 1} of {package.test_count}: {'passed' if result.success else 'failed'}\n")
        sys.stdout.flush()
        if not result.success:
            sys.exit("\n".join(result.output))
    sys.stdout.write(f"{path}: {len(package.files)} files, {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
