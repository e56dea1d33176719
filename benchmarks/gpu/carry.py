"""What a machine without a network is brought: packages, CIFAR-10 and a bundle, in parts below a transfer's limit, and put together there.

A part is a folder of pieces and the list of all files (parts.json): a file that does not fit into one part goes on in the next. Pieces that
have arrived are kept until their file is whole, so that the parts may come one call at a time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pictures

# What edgekit's training needs beside torch, torchvision, Lightning, timm, NumPy, Pillow and their own needs; LightlySSL for the comparison.
PACKAGES = (
    "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "click", "rich", "markdown-it-py", "mdurl",
    "pygments", "pyyaml", "safetensors", "braceexpand", "lightly",
)  # fmt: skip
RTX_PACKAGES = ("tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs")
MANYLINUX = ("2_28", "2_27", "2_24", "2_17", "2014")
PARTS = "parts.json"
GROUPS = (
    "packages",
    "bundle",
    "cifar10",
    "rtx",
)  # in the order in which they are carried: what can be done without comes last


class Trouble(Exception):
    """What is wrong, in a line."""


def main(options: Any) -> int:
    """Prepare or unpack; the exit code."""
    try:
        return prepare(options) if options.prepare else unpack(options.unpack, options.carried)
    except Trouble as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 2


# -- here: collect --


def prepare(options: Any) -> int:
    """Collect everything and divide it into parts; nothing is left in FOLDER from before."""
    folder: Path = options.prepare
    if folder.exists() and any(folder.iterdir()) and not (folder / "part-1" / PARTS).is_file():
        raise Trouble(f"{folder} holds something else: name a folder that is empty, or of an earlier --prepare")
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        staging = Path(temporary)
        for name in PACKAGES:
            add_package(name, options.python, staging / "packages")
        for name in RTX_PACKAGES if options.rtx else ():
            add_package(name, options.python, staging / "rtx")
        export_bundle(staging / "bundle", targets=("onnx", "trt-rtx") if options.rtx else ("onnx",))
        if options.cifar10:
            pictures.pack(options.cifar10, staging / "cifar10")
        else:
            print("no --cifar10: the part `promise` will not run there")
        files = [path for group in GROUPS for path in sorted((staging / group).glob("*")) if path.is_file()]
        divide(files, staging, folder, int(options.part_mib * 2**20))
    for part in sorted(folder.iterdir()):
        size = sum(path.stat().st_size for path in part.iterdir())
        print(f"{part}: {size / 2**20:.1f} MiB")
    return 0


def add_package(name: str, python: str, folder: Path) -> None:
    """A wheel of the installed version for another Python: built from what is installed where it holds no compiled code of one Python."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise Trouble(f"{name} is not installed here (install edgekit with the extras [dev] first)") from error
    tags = [line.split(": ")[1] for line in (package.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
    if all(tag.split("-")[1] == "none" and tag.startswith("py") for tag in tags):
        target = folder / f"{name.replace('-', '_')}-{package.version}-{tags[0]}.whl"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in package.files or []:
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    archive.write(str(file.locate()), str(file))
        return
    platforms = [f"--platform=manylinux{'' if n == '2014' else '_'}{n}_x86_64" for n in MANYLINUX]
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["pip"]
    command = [
        *pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms,
        "--dest", str(folder), f"{name}=={package.version}",
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = " ".join((getattr(error, "stderr", "") or str(error)).split())[-300:]
        raise Trouble(
            f"{name} {package.version} for Python {python} could not be downloaded with pip: {said}"
        ) from error


def export_bundle(folder: Path, targets: tuple[str, ...]) -> Path:
    """A small network with seeded weights and settled BatchNorm as a bundle, as `edgekit export` makes it."""
    import numpy as np
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    name, size = "mobilenetv3_small_050", 96
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (128, 6, 6, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC) for pixels in coarse]
    model = timm.create_model(name, num_classes=10).train()
    batch = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for part in batch.split(32):
            model((part - 0.45) / 0.225)
        model.eval()
        # Logits of the size of a trained network's: on tiny ones every rounding would pass the proof.
        model.classifier.weight.mul_(3.0 / model((batch - 0.45) / 0.225).std())
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "images").mkdir()
        for i, image in enumerate(images):
            image.save(work / "images" / f"{i}.png")
        save_file(model.state_dict(), work / "weights.safetensors")
        (work / "classes.txt").write_text("".join(f"class {i}\n" for i in range(10)))
        command = [
            sys.executable, "-m", "edgekit", "export", f"timm:{name}", "--weights", str(work / "weights.safetensors"), "--size", str(size),
            "--classes", str(work / "classes.txt"), "--calibrate", str(work / "images"), "--output", str(folder), "--precision", "fp32",
            *(("--precision", "fp16") if "trt-rtx" in targets else ()), *(part for target in targets for part in ("--target", target)),
        ]  # fmt: skip
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")]),
        }
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise Trouble(f"edgekit export ended with {done.returncode}: {' '.join(done.stderr.split())[-400:]}")
    return folder


def divide(files: list[Path], root: Path, folder: Path, limit: int) -> None:
    """Write FOLDER/part-N: pieces of the files in their order, each part at most `limit` bytes."""
    room = limit - 2**16  # for parts.json
    listed, part, used = [], 1, 0
    for path in files:
        content = path.read_bytes()
        pieces = []
        start = 0
        while start < len(content) or not pieces:
            if used >= room:
                part, used = part + 1, 0
            piece = content[start : start + room - used]
            start, used = start + len(piece), used + len(piece)
            pieces.append(f"part-{part}/{len(listed):03}-{len(pieces):02}")
            target = folder / pieces[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(piece)
        digest = hashlib.sha256(content).hexdigest()
        listed.append({"path": str(path.relative_to(root)), "bytes": len(content), "sha256": digest, "pieces": pieces})
    for made in folder.iterdir():
        (made / PARTS).write_text(json.dumps(listed, indent=1))


# -- there: put together --


def unpack(folder: Path, carried: Path) -> int:
    """Take the pieces that have arrived, and finish what is whole: 0 when everything is, 3 while pieces are missing."""
    lists = sorted(folder.glob(f"part-*/{PARTS}")) or sorted(folder.glob(PARTS))
    if not lists:
        raise Trouble(f"{folder}: no part is there (a folder part-N with {PARTS} in it)")
    content = lists[0].read_text()
    files = json.loads(content)
    store = carried / "store"
    store.mkdir(parents=True, exist_ok=True)
    for listed in lists:
        if listed.read_text() != content:
            raise Trouble(f"{listed.parent} is of another --prepare than {lists[0].parent}")
        for piece in listed.parent.iterdir():
            if piece.name != PARTS:
                shutil.copyfile(piece, store / piece.name)
    missing = [file for file in files if not assemble(file, store, carried / "packed")]
    groups = {file["path"].split("/")[0] for file in files}
    whole = groups - {file["path"].split("/")[0] for file in missing}
    for group, finish in zip(GROUPS, (install, place, pictures.unpack, install), strict=True):
        if group in whole:
            finish(carried / "packed" / group, carried)
            print(f"{group}: ready")
    if missing:
        parts = sorted(
            {
                piece.split("/")[0]
                for file in missing
                for piece in file["pieces"]
                if not (store / Path(piece).name).is_file()
            }
        )
        print(f"still to come: {', '.join(parts)}")
    return 3 if missing else 0


def assemble(file: dict[str, Any], store: Path, packed: Path) -> bool:
    """Whether a file is whole; joins its pieces when all are here."""
    target = packed / file["path"]
    if target.is_file() and target.stat().st_size == file["bytes"]:
        return True
    pieces = [store / Path(piece).name for piece in file["pieces"]]
    if not all(piece.is_file() for piece in pieces):
        return False
    content = b"".join(piece.read_bytes() for piece in pieces)
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise Trouble(
            f"{file['path']}: its pieces have another digest than when they were made; carry {', '.join(file['pieces'])} again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    for piece in pieces:
        piece.unlink()
    return True


def install(packages: Path, carried: Path) -> None:
    """Unzip the wheels of what is not installed here, or older, into carried/site (which comes first on the path)."""
    site = carried / "site"
    for wheel in sorted(packages.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = ""
        if installed and _numbers(installed) >= _numbers(version):
            continue
        with zipfile.ZipFile(io.BytesIO(wheel.read_bytes())) as archive:
            archive.extractall(site)
        print(f"  {name} {version}" + (f" (here is {installed})" if installed else ""))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+", maxsplit=1)[0].split(".") if part.isdigit())


def place(bundle: Path, carried: Path) -> None:
    shutil.copytree(bundle, carried / "bundle", dirs_exist_ok=True)
