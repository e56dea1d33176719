"""The commands that are killed: on which files, with which arguments, and what of their files must come out the same every time."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RECIPE = """\
name: tiny
data: {labeled: images, image_size: 16, labels: 3}
pretrain:
  encoder: {name: resnet10, width: 0.125, stem: strided}
  projection: {output: 16}
  epochs: 2
  batch_size: 32
  optimizer: {name: lars, lr: 0.2, warmup_epochs: 0}
finetune: {epochs: 1, batch_size: 6, optimizer: {name: sgd, lr: 0.05, warmup_epochs: 0}}
distill: {student: {name: resnet10, width: 0.125, stem: strided}, epochs: 1, batch_size: 32, optimizer: {warmup_epochs: 0}}
supervised: {epochs: 1, batch_size: 6, optimizer: {warmup_epochs: 0}}
hardware: {accelerator: cpu, checkpoint_seconds: 0}
"""
DETECTOR = """\
name: parts
task: anomaly
data: {normal: images, image_size: 16, probe: 0.25}
pretrain:
  encoder: {name: resnet10, width: 0.125, stem: strided}
  projection: {output: 16}
  epochs: 1
  batch_size: 32
  optimizer: {name: lars, lr: 0.2, warmup_epochs: 0}
anomaly: {coreset: 40, trim: 0.1}
hardware: {accelerator: cpu, checkpoint_seconds: 0}
"""
_UNFINISHED = r"(\.[a-z0-9_]{8}\.tmp|\.partial)(/|$)"
FOLDERS = ("work", "tmp", "home", "cache")
KINDS = ("kill", "torn", "full", "eio")
EXPORT = ("export", "run", "--no-timing", "--jobs", "1", "--few-images", "--target", "onnx", "--target", "openvino")
EXPORT_ONE = (*EXPORT[:6], "--target", "onnx", "--precision", "fp32")
BENCH = ("bench", "run/export", "--quick", "--seconds", "0.05", "--variant", "onnx-fp32")


@dataclass(frozen=True)
class Case:
    """A command in one situation.

    Args:
        command: its name.
        situation: what is there before.
        arguments: of `edgekit`.
        before: commands that make what is there.
        foreign: files of the user's, beside and among what the command writes, which it must leave alone.
        moves: paths below which files that were there may move elsewhere.
        slow: whether a trial takes seconds.
    """

    command: str
    situation: str
    arguments: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    foreign: tuple[str, ...] = ()
    moves: tuple[str, ...] = ()
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.command}, {self.situation}"


_TRAIN = ("train", "recipe.yaml", "--run", "run")
_BESIDE = (
    "work/notes.txt",
    "work/.notes.tmp",
    "tmp/edgekit-notes",
    "tmp/edgekit-export-abcdefgh/kept",
    "tmp/.x.abcdefg.tmp",
)
_IN_RUN = ("work/run/notes.txt", "work/run/.notes.json.tmp", "work/run/mine/notes.txt")
_IN_BUNDLE = (
    "work/run/export/notes.txt",
    "work/run/export/mine/notes.txt",
    "work/run/.export.notes",
    "work/run/export.old",
)
_ABLATE = ("ablate", "pretrain.temperature=0.1,0.5", "recipe.yaml", "--run", "ablation")
_EMBED = ("embed", "run", "images", "--of", "student")

_DETECT = ("train", "detector.yaml", "--run", "run")
_LEARN = (*_DETECT, "--set", "anomaly.method=stfpm", "--set", "anomaly.epochs=2")

CASES = (
    Case("train", "a new run", _TRAIN, (), _BESIDE),
    Case(
        "train", "a complete run with another recipe",
        (*_TRAIN, "--set", "finetune.epochs=2"), (_TRAIN,), (*_BESIDE, *_IN_RUN), ("work/run/finetune", "work/run/distill"),
    ),
    Case(
        "train", "stages copied from another run",
        ("train", "recipe.yaml", "--run", "second", "--reuse", "run"), (_TRAIN,), (*_BESIDE, *_IN_RUN),
    ),
    Case("train", "a detector from normal images", _DETECT, (), _BESIDE),
    Case("train", "a detector of another method", _LEARN, (_DETECT,), (*_BESIDE, *_IN_RUN), ("work/run/anomaly",)),
    Case("export", "a new bundle", (*EXPORT, "--zip"), (_TRAIN,), (*_BESIDE, *_IN_RUN)),
    Case("export", "over another bundle", (*EXPORT_ONE, "--embedding", "--zip"), (_TRAIN, EXPORT_ONE), (*_BESIDE, *_IN_RUN, *_IN_BUNDLE)),
    Case("export", "a variant more", EXPORT, (_TRAIN, EXPORT_ONE), (*_BESIDE, *_IN_RUN, *_IN_BUNDLE)),
    Case("bench", "no results yet", (*BENCH, "--batch", "1", "--batch", "2"), (_TRAIN, EXPORT_ONE), (*_BESIDE, *_IN_RUN, *_IN_BUNDLE), slow=True),
    Case(
        "bench", "over earlier results",
        BENCH, (_TRAIN, EXPORT_ONE, BENCH), (*_BESIDE, *_IN_RUN, *_IN_BUNDLE, "work/run/bench/notes.txt"), slow=True,
    ),
    Case("report", "no report yet", ("report", "run"), (_TRAIN, EXPORT_ONE), (*_BESIDE, *_IN_RUN)),
    Case("report", "over an earlier report", ("report", "run"), (_TRAIN, ("report", "run"), EXPORT_ONE), (*_BESIDE, *_IN_RUN)),
    Case("report", "elsewhere", ("report", "run", "--output", "pages/new/page.html"), (_TRAIN, EXPORT_ONE), (*_BESIDE, "work/pages/notes.txt")),
    Case("embed", "a new folder", _EMBED, (_TRAIN,), (*_BESIDE, *_IN_RUN)),
    Case(
        "embed", "over earlier files",
        (*_EMBED, "--k", "3", "--against", "pool"), (_TRAIN, _EMBED), (*_BESIDE, *_IN_RUN, "work/run/embed/images-student/notes.txt"),
    ),
    Case("ablate", "a new folder", _ABLATE, (), _BESIDE),
    Case(
        "ablate", "with a cell more", ("ablate", "pretrain.temperature=0.1,0.5,0.9", *_ABLATE[2:]), (_ABLATE,),
        (*_BESIDE, "work/ablation/notes.txt", "work/ablation/cells/notes.txt", "work/ablation/cells/temperature=0.1/notes.txt"),
        moves=("work/ablation/ablation.",),  # they grow with every cell that is done again
    ),
)  # fmt: skip


def write_inputs(root: Path) -> None:
    """The folders that a command has, and its images and recipe: 80 images of 16 x 16 pixels in four classes."""
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for label in range(4):
        folder = root / "work" / "images" / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(20):
            coarse = random.integers(0, 100, (4, 4, 3)) + 40 * label
            Image.fromarray(np.kron(coarse, np.ones((4, 4, 1), np.int64)).astype(np.uint8)).save(folder / f"{i:02}.png")
    (root / "work" / "recipe.yaml").write_text(RECIPE)
    (root / "work" / "detector.yaml").write_text(DETECTOR)


def plant(root: Path, foreign: tuple[str, ...]) -> None:
    """Write files of the user's."""
    for name in foreign:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the user's {name}\n")


def outcome(root: Path, *, unfinished: bool = False) -> dict[str, str]:
    """Every file below a folder, and a digest of what must be the same in it whenever and how often the command ran.

    Folders stand there too, without a digest. Times, durations and latencies are left out; a file that is not whole raises.

    Args:
        root: the folder.
        unfinished: whether names that say "not finished" are left out: only they may hold half a file.
    """
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if "/tensorboard/" in name:  # one more file of events a start, named by time and process
            continue
        if unfinished and re.search(_UNFINISHED, name):
            continue
        found[name] = "" if path.is_dir() else hashlib.sha256(_essence(path)).hexdigest()
    return found


def _essence(path: Path) -> bytes:
    content = path.read_bytes()
    for pattern, essence in _ESSENCES.items():
        if re.search(pattern, path.as_posix()):
            return essence(content)
    return content


def _without(*names: str) -> Callable[[bytes], bytes]:
    """A JSON file without what such keys hold."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(v) for key, v in value.items() if key not in names}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return lambda content: json.dumps(strip(json.loads(content)), sort_keys=True).encode()


def _page(content: bytes) -> bytes:
    """An HTML page without its dates and what it says of durations."""
    text = content.decode()
    assert text.rstrip().endswith("</html>"), "half a page"
    text = re.sub(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?(\+00:00)?)?", "DATE", text)
    return re.sub(r"\b\d+(\.\d+)? (ms|s|min|h)\b", "DURATION", text).encode()


def _latency(content: bytes) -> bytes:
    """Of a bench's result: that it is valid and whole, and none of its samples is counted twice."""
    from edgekit.result import Latency, Result

    latency = Result.model_validate_json(content).measurement
    assert isinstance(latency, Latency)
    assert not latency.interrupted
    assert sum(latency.rounds) == len(latency.samples_ns)
    assert len(latency.rounds) == 1  # --quick is one round
    return f"{latency.variant} {latency.batch} {latency.bundle}".encode()


def _table(content: bytes) -> bytes:
    """A CSV file: whole rows."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert len({len(row) for row in rows}) == 1, "half a row"
    return content


def _archive(content: bytes) -> bytes:
    """A zipped bundle without the manifest, which holds dates."""
    import zipfile

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = sorted(archive.namelist())
        return b"".join(name.encode() + archive.read(name) for name in names if not name.endswith("bundle.json"))


_ESSENCES: dict[str, Callable[[bytes], bytes]] = {
    r"/stage\.json$": _without("seconds", "created"),
    r"/bundle\.json$": _without("created", "command", "machine", "seconds", "making_seconds"),
    r"/bench/.*\.json$": _latency,
    r"/ablation\.json$": _without("seconds", "created", "command", "machine"),
    r"/ablation\.html$": lambda content: _page(content)[
        :15
    ],  # durations of all sorts stand in it; it is drawn from ablation.json
    r"\.html$": _page,
    r"\.csv$": _table,
    r"\.zip$": _archive,
}
