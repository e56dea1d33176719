"""Label files, as `data.labels` names them: read with class folders and with a pile, and through `edgekit label suggest`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from edgekit.data.decode import decode
from edgekit.data.divide import divide
from edgekit.data.pile import divide_pile
from edgekit.data.source import ImageSource
from edgekit.data.sources import open_labeled, open_pool
from edgekit.preprocess import Preprocessing
from edgekit.recipe import DataConfig, load, parse
from edgekit.recipe.plain_yaml import Dumper
from edgekit.run import Run
from edgekit.train.stages.pipeline import train
from tests.helpers.image_folders import class_folders

from .judge import Broken, run_command
from .mutators import VALUES, Draws, change_file, changed_bytes, copied

# A file of 64 MB and its text, at four bytes a character where one of them is not of the first 65,536.
MEMORY = 384 << 20
_RECIPE: dict[str, Any] = {
    "name": "pile",
    "pretrain": {
        "encoder": {"name": "resnet10", "width": 0.125, "stem": "strided"}, "projection": {"output": 8}, "epochs": 1, "batch_size": 16,
        "optimizer": {"name": "adamw", "lr": 1e-3, "scale_lr": False, "warmup_epochs": 0},
    },
    "hardware": {"accelerator": "cpu"},
}  # fmt: skip
_NAMES = (
    "", ".", "..", "/", "\\", "../a/000.png", "a/../a/000.png", "./a/000.png", "a\\000.png", "a//000.png", "A/000.PNG", "a/000.png\x00",
    "/etc/passwd", "C:\\a\\000.png", "a/000", "~", "a/000.png/", " a/000.png ", "=1+1", "a/" + "0" * 5000, "\u202ea/000.png", "a/000.pn\u0131",
)  # fmt: skip
_CLASSES = (
    "a", "A", "b", "", " ", "\t", "a\nerror: forged", "\x1b[2J", "\x00", "\u202egnp", "<script>alert(1)</script>", "x" * 5000, "é", "e\u0301",
    "a/b", "..", "nan", "0", "-1", "a,b", '"', "'", "=1+1", "None", "\ufeff", "\ud7ff", "\U0001f600", "con", "a.", "ａ",
)  # fmt: skip
_HEADERS = (
    ["class", "file"], ["file"], ["file", "class", "file"], ["File", "class"], [" file", "class "], ["file", "class", "class"], ["file", "", ""],
    ["name", "label"],
)  # fmt: skip
_SMALL = (
    "",
    "\n",
    "file",
    "file\n",
    "file,class",
    "file,class\n",
    ",\n",
    '"file","class"\n',
    "\ufefffile,class\n",
    "sep=,\nfile,class\n",
)
_ENDS = ("\n", "\r\n", "\r", "\n\n", "\x0b", "\x85", "\u2028", "")


def make_corpus(folder: Path) -> None:
    """Images of three classes, and a run that is pretrained on them as a pile."""
    images = class_folders(folder / "images", {"a": 10, "b": 10, "c": 8})
    (images / "a" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    data = {"labeled": None, "pool": str(images), "test": 0.3, "image_size": 16, "max_skipped": 0.2}
    train(parse({**_RECIPE, "data": data}), Run(folder / "run"), until="pretrain")


class Target:
    """One label file a case."""

    def __init__(self, corpus: Path, secret: Path) -> None:
        self._corpus, self._secret = corpus, secret
        images = str(corpus / "images")
        self._folders = open_labeled(images)
        self._pile = open_pool(images)
        self._many = _many(2000)
        preprocessing = Preprocessing(image_size=8, resize_to=8)
        self._digests = {id(s): decode(s, preprocessing, 0.2).digests for s in (self._folders, self._pile)}
        self._digests[id(self._many)] = [f"{i:064x}" for i in range(len(self._many.names))]
        rows = [{"file": name, "class": name[0]} for name in self._folders.names if "damaged" not in name]
        self._rows = rows
        self._valid = [
            _written(rows[::2]),
            _written(rows, ["class", "file", "use"]),
            _written([{"file": r["file"]} for r in rows[::3]]),
        ]

    def run(self, draws: Draws, folder: Path) -> Callable[[], object]:
        """Make a label file; gives what reads it."""
        path, kind = folder / "labels.csv", draws.random()
        if kind < 0.4:
            path.write_bytes(_encoded(draws, _written_badly(draws, _changed_rows(draws, self._rows))))
        elif kind < 0.7:
            path.write_bytes(
                changed_bytes(draws, draws.choice(self._valid).encode(), [v.encode() for v in self._valid])
            )
        elif kind < 0.97:
            path.write_bytes(_encoded(draws, _forged(draws, self._rows)))
        else:
            path.write_text(draws.choice(self._valid))
            change_file(draws, path, self._secret)
        way = draws.random()
        if way > 0.99:
            return lambda: self._suggest(path, folder)
        source = self._many if way < 0.01 else draws.choice((self._folders, self._pile))
        digests = self._digests[id(source)]
        labeled = str(self._corpus / "images") if source is self._folders else None
        data = DataConfig.model_construct(
            **{
                **DataConfig().model_dump(),
                "labels": str(path),
                "test": 0.3,
                "probe": draws.choice((0.0, 0.1)),
                "labeled": labeled,
            }
        )
        if source is self._folders:
            return lambda: divide(data, source, digests, None)
        check = draws.random() < 0.7
        return lambda: divide_pile(data, source, digests, check=check)

    def _suggest(self, labels: Path, folder: Path) -> None:
        """The whole command, with a run that has such a file; what it writes holds nothing of what the file forges."""
        run = copied(self._corpus / "run", folder / "run")
        content = load(run / "recipe.yaml").model_dump()
        content["data"]["labels"] = str(labels)
        (run / "recipe.yaml").write_text(yaml.dump(content, Dumper=Dumper))
        run_command("label", "suggest", run, "--count", 5, "--test-count", 5, "--output", folder / "out")
        page = (folder / "out" / "label.html").read_text(encoding="utf-8")
        if any(mark in page for mark in ("\x1b", "\x00", "<script>alert")):
            raise Broken("the page holds a control character")


def _many(count: int) -> ImageSource:
    """A pile of so many images, of which nothing but their names is looked at."""

    def read(i: int) -> NoReturn:
        raise AssertionError(f"image {i} is read")

    return ImageSource(where="pile", names=[f"class{i % 7}/{i:06}.png" for i in range(count)], read=read)


def _changed_rows(draws: Draws, rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Some of the rows, with one to three of their values changed."""
    made = [dict(row) for row in draws.sample(rows, draws.randrange(1, len(rows) + 1))]
    for _ in range(draws.choice((1, 1, 2, 3))):
        row = draws.choice(made)
        change = draws.random()
        if change < 0.3:
            row["class"] = draws.choice(_CLASSES)
        elif change < 0.6:
            row["file"] = draws.choice(_NAMES)
        elif change < 0.75:
            row[draws.choice(("file", "class", "use", "more"))] = str(draws.choice(VALUES))[:200_000]
        elif change < 0.9:
            made[draws.randrange(len(made) + 1) : 0] = [{**row, "class": draws.choice(_CLASSES)}] * draws.choice(
                (1, 2, 300)
            )
        else:
            row.pop("class", None)
    return made


def _written(rows: Sequence[Mapping[str, str]], columns: Sequence[str] = ("file", "class")) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _written_badly(draws: Draws, rows: Sequence[Mapping[str, str]]) -> str:
    """As CSV, sometimes with another delimiter, header, quoting or end of line than there should be."""
    columns = draws.choice(_HEADERS) if draws.random() < 0.15 else ["file", "class"]
    text = io.StringIO()
    quoting = draws.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(
        text, delimiter=draws.choice(",,,,,,,,,,;\t|"), quoting=quoting, escapechar="\\", lineterminator=draws.choice(_ENDS[:4])
    )  # fmt: skip
    if draws.random() < 0.95:
        writer.writerow(columns)
    for row in rows:
        values = [row.get(name, "") for name in columns]
        writer.writerow(values[: draws.randrange(len(values) + 1)] if draws.random() < 0.05 else values)
    return text.getvalue()


def _encoded(draws: Draws, text: str) -> bytes:
    """In UTF-8, or rarely in something else."""
    form = draws.random()
    if form < 0.03:
        return text.encode(draws.choice(("utf-16", "utf-32", "latin-1", "cp037")), errors="replace")
    encoded = text.encode(errors="surrogatepass")
    if form < 0.06:
        return b"\xef\xbb\xbf" * draws.choice((1, 2)) + encoded
    return encoded


def _forged(draws: Draws, rows: Sequence[Mapping[str, str]]) -> str:
    """Text that costs more than it looks, in one of the ways that there are."""
    row, end = draws.choice(rows), draws.choice(_ENDS)
    few, many = draws.choice((1, 10, 100, 1000)), draws.choice((10, 1000, 30_000, 300_000))
    width = draws.choice((1, 100, 131_072, 131_073, 400_000))
    kinds: list[Callable[[], str]] = [
        lambda: "file,class" + end + (f"{row['file']},{row['class']}" + end) * many,
        lambda: "file" + ",x" * few * 20 + "\n" + f"{row['file']}\n" * draws.choice((10, 1000, 20_000)),
        lambda: "file" + "," * many + "\n" + row["file"] + "\n",
        lambda: ",".join(f"c{i}" for i in range(few)) + ",file,class\n" + "," * many + "\n",
        lambda: "file,class\n" + f"{row['file']},{'x' * width}\n",
        lambda: "file,class\n" + f'{row["file"]},"' + "\n" * width,
        lambda: "file,class\n" + '"' * few * 100 + "\n",
        lambda: "file,class\n" + "".join(f"{r['file']},k{i}\n" for i, r in enumerate(rows)) * few,
        lambda: "file,class\n" + "".join(f"class{i % 7}/{i:06}.png,k{i % few}\n" for i in range(min(many, 2000))),
        lambda: "file,class\n" + "".join(f"class{i}/{i:05}.jpg,x\n" for i in range(20)),
        lambda: "file,class\n" + "".join(f"{r['file']},{draws.choice(_CLASSES)}\n" for r in rows),
        lambda: "file,class\n" + "\n" * many + f"{row['file']},{row['class']}\n",
        lambda: "#" * width + "\nfile,class\n",
        lambda: "x" * width,
        lambda: "\0" * width,
        lambda: "file,class\n" + "\ud800" * few,
        lambda: draws.choice(_SMALL),
    ]  # fmt: skip
    return draws.choice(kinds)()
