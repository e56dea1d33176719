"""`edgekit predict`: run a bundle's model on images."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from edgekit.cli import completers
from edgekit.cli.choices import Number
from edgekit.terminal import echo

if TYPE_CHECKING:
    from edgekit.bundle import Bundle
    from edgekit.cli.heat_maps import HeatMaps
    from edgekit.gallery import Recognizer
    from edgekit.progress import Advance
    from edgekit.runtimes.predictor import Predictor
    from edgekit.runtimes.sources import InputFrame
    from edgekit.tasks import Answer

_IN_JSON_LINES = "-"


@click.command(name="predict")
@click.argument("bundle", shell_complete=completers.files)
@click.argument("images", nargs=-1, type=click.Path(path_type=Path), metavar="[IMAGE…]")
@click.option(
    "--video",
    metavar="FILE|camera:N|URL",
    shell_complete=completers.files,
    help="Classify every frame of a video, or of a camera until Ctrl-C.  [needs OpenCV]",
)
@click.option(
    "--variant", metavar="ID", shell_complete=completers.variants,
    help="The variant to use.  [default: a verified one, see docs/bundle.md]",
)  # fmt: skip
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Number of classes to print.")
@click.option(
    "--threshold",
    type=Number(),
    help="Print only classes at least this probable; with --gallery, call an image unknown up to this similarity; for anomaly "
    "detection, call an image anomalous above this score.  [default: 0; with --gallery, the gallery's own; for anomaly detection "
    "and for several classes an image, the bundle's]",
)
@click.option(
    "--gallery",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Name the nearest class of a gallery, or unknown, instead of the model's own answer (see edgekit gallery).",
)
@click.option(
    "--abstain/--no-abstain", default=True, show_default=True,
    help="Answer unknown about images unlike those that the model was trained on, if the bundle has a rule for that.",
)  # fmt: skip
@click.option(
    "--abstain-below", type=Number(), metavar="SCORE",
    help="Another threshold for unknown: images with a lower score.  [default: the bundle's]",
)  # fmt: skip
@click.option(
    "--heatmap", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Write each image with a heat map on it, at its own size, into this folder. For anomaly detection: how anomalous each place is; for "
    "classes: which places speak for the first one (about 80 runs an image).",
)  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Images per run.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Inference threads; 0: the runtime decides.")
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    metavar="N",
    help="Refuse images with more pixels than this.  [default: 100 million]",
)
@click.option("--json", "--jsonl", "as_json", is_flag=True, help="Print one line of JSON per image.")
@click.option(
    "--embedding",
    metavar="FILE|-",
    shell_complete=completers.files,
    help="Write the embeddings to a .npz (with the file names) or .npy file; - adds them to the JSON lines.",
)
def command(
    bundle: str,
    images: tuple[Path, ...],
    video: str | None,
    variant: str | None,
    top: int,
    threshold: float | None,
    gallery: Path | None,
    abstain: bool,
    abstain_below: float | None,
    heatmap: Path | None,
    batch: int,
    threads: int,
    max_pixels: int | None,
    as_json: bool,
    embedding: str | None,
) -> None:
    """Classify images with a BUNDLE (a folder or a .zip). Each IMAGE is a file, or a folder that is searched for images.
    A single - reads a list of files from standard input, one per line or separated by NUL.

    An image unlike those that the model was trained on is answered with unknown, if the bundle has a rule for that.

    An image that cannot be read is named on standard error and skipped; the exit code is then 1. The last lines of standard
    error give the throughput and the number of such images.

    \b
    For example:
      edgekit predict runs/photos/export photo.jpg
      edgekit predict bundle.zip photos/ --variant onnx-int8 --top 1 --batch 16
      find photos -name '*.jpg' -print0 | edgekit predict bundle.zip - --json > classes.jsonl
      edgekit predict bundle.zip --video camera:0 --threshold 0.8
      edgekit predict bundle.zip photos/ --embedding photos.npz
      edgekit predict bundle.zip --gallery shop.gallery photo.jpg
      edgekit predict bundle.zip photos/ --heatmap maps/
    """
    _check_arguments(images, video, as_json, embedding, abstain, abstain_below, gallery)
    from edgekit.bench.workload import Workload, check_parallel
    from edgekit.bundle import Bundle
    from edgekit.errors import BundleError, check_range
    from edgekit.pixel_range import PixelRangeWarning
    from edgekit.preprocess import MAX_PIXELS
    from edgekit.runtimes.predictor import Predictor
    from edgekit.runtimes.sources import Video, image_files, listed
    from edgekit.walk import Walk

    warnings.filterwarnings("ignore", module="PIL")  # about unused metadata, such as damaged EXIF
    warnings.filterwarnings("ignore", category=PixelRangeWarning)  # printed at the end, with numbers
    check_parallel(threads, Workload())
    opened = Bundle.open(bundle)
    if threshold is not None:
        check_range("--threshold", threshold, *_answers_by(gallery).thresholds(opened.task))
    if heatmap is not None and gallery is None and not (opened.task.alarms or opened.task.explains):
        raise BundleError(
            f"{bundle}: a bundle of the task {opened.task.name} gives no heat maps",
            "leave --heatmap out, or name its classes with --gallery FILE",
        )
    predictor: Predictor
    if gallery is not None:
        predictor = recognizer(opened, gallery, variant, threads, max_pixels or MAX_PIXELS)
    else:
        predictor = Predictor(
            opened, variant, threads=threads, max_pixels=max_pixels or MAX_PIXELS, abstain=abstain, abstain_below=abstain_below
        )  # fmt: skip
    if predictor.variant.status != "verified":
        echo(f"warning: {predictor.variant.id} is {predictor.variant.status}, not verified", err=True)
    if embedding and not predictor.has_embedding:
        raise BundleError(
            f"{bundle}: {predictor.variant.id} has no embedding output",
            "export the bundle again with `edgekit export RUN --embedding`",
        )
    job = _PredictJob(predictor, top, threshold, batch, as_json, embedding, video)
    if heatmap is not None:
        from edgekit.cli.heat_maps import HeatMaps

        job.heat_maps = HeatMaps(heatmap, predictor, images)
    left_out: Counter[str] = Counter()
    job.notes = lambda: [*Walk(left_out).notes("the folders"), *predictor.notes("the input")]
    if video is not None:
        with Video(video) as frames:
            job.run(frames, frames.count, ahead=not frames.is_live)
    elif images == (Path("-"),):
        job.run(listed(_standard_input(), left_out), None, ahead=False)
    else:
        files = image_files(images, left_out)
        job.run(files, len(files), ahead=True)
    if job.failed:
        click.get_current_context().exit(1)


def _answers_by(gallery: Path | None) -> type[Predictor]:
    """Return the class that answers: with a gallery, or the model itself."""
    from edgekit.gallery import Recognizer
    from edgekit.runtimes.predictor import Predictor

    return Predictor if gallery is None else Recognizer


def recognizer(bundle: Bundle, gallery: Path, variant: str | None, threads: int, max_pixels: int) -> Recognizer:
    """Open a gallery; print a warning if the variant may name other classes than the one that made it."""
    from edgekit.gallery import GalleryWarning, Recognizer

    warnings.filterwarnings("ignore", category=GalleryWarning)  # printed here
    found = Recognizer(bundle, gallery, variant, threads=threads, max_pixels=max_pixels)
    if found.doubt:
        echo(f"warning: {found.doubt}", err=True)
    return found


def _check_arguments(
    images: tuple[Path, ...],
    video: str | None,
    as_json: bool,
    embedding: str | None,
    abstain: bool,
    below: float | None,
    gallery: Path | None,
) -> None:
    if video is None and not images:
        raise click.UsageError("no input: name images or folders, use - for a list on standard input, or --video")
    if video is not None and images:
        raise click.UsageError("--video cannot be combined with IMAGE: leave one out")
    if Path("-") in images and len(images) > 1:
        raise click.UsageError("- cannot be combined with other images: add them to the list")
    if embedding == _IN_JSON_LINES and not as_json:
        raise click.UsageError("--embedding - needs --json")
    if embedding and embedding != _IN_JSON_LINES and Path(embedding).suffix not in {".npz", ".npy"}:
        raise click.UsageError(f"--embedding {embedding}: give a .npz or .npy file, or -")
    if not abstain and below is not None:
        raise click.UsageError("--abstain-below cannot be combined with --no-abstain: leave one out")
    if gallery is not None and below is not None:
        raise click.UsageError("--abstain-below cannot be combined with --gallery: --threshold changes the gallery's")


def _standard_input() -> BinaryIO:
    if sys.stdin is None:  # closed, as for some services
        raise click.UsageError("-: standard input is closed: name the images on the command line")
    return sys.stdin.buffer


class _PredictJob:
    """Classify images, print the answers, and count them."""

    def __init__(
        self,
        predictor: Predictor,
        top: int,
        threshold: float | None,
        batch: int,
        as_json: bool,
        embedding: str | None,
        video: str | None,
    ) -> None:
        self._predictor = predictor
        self._top, self._threshold, self._batch = top, threshold, batch
        self._as_json, self._embedding, self._video = as_json, embedding, video
        self._embeddings: list[tuple[str, Any]] = []
        self.heat_maps: HeatMaps | None = None
        self.notes: Callable[[], list[str]] = list  # about the input, once all of it is read
        self.done = self.failed = self.unknown = self.anomalous = 0

    def run(self, items: Iterable[Path | InputFrame], total: int | None, *, ahead: bool) -> None:
        """Classify all items, write the embeddings, and print the notes, the throughput and how many heat maps were written.
        After Ctrl-C, which is how to stop a camera, do this for the items so far.

        Args:
            items: files or frames.
            total: their number, if known.
            ahead: whether later items may be read before earlier ones are answered.
        """
        from edgekit.progress import progress

        runs = self._steps
        # The end of a stream is not known. On a terminal the printed lines show the progress, unless each of them takes many runs.
        shown = total is not None and (runs > 1 or not sys.stdout.isatty())
        unit = "runs" if runs > 1 else "images"
        bar = (
            progress("predict", (total or 0) * runs, unit=unit) if shown else nullcontext(lambda steps=1, note="": None)
        )
        began = time.perf_counter()
        try:
            with bar as advance:
                for line in self._lines(items, ahead, advance):
                    if line is not None:
                        echo(line)
        except KeyboardInterrupt:
            self._finish(time.perf_counter() - began)
            raise
        self._finish(time.perf_counter() - began)

    @property
    def _steps(self) -> int:
        """Of the progress, for one image."""
        return self.heat_maps.runs if self.heat_maps is not None else 1

    def _finish(self, seconds: float) -> None:
        if self._embedding and self._embedding != _IN_JSON_LINES:
            _write_embeddings(Path(self._embedding), self._embeddings)
        for note in self.notes():
            echo(f"note: {note}", err=True)
        self._print_throughput(seconds)
        if self.heat_maps is not None and (summary := self.heat_maps.summary()):
            echo(summary, err=True)

    def _lines(self, items: Iterable[Path | InputFrame], ahead: bool, advance: Advance) -> Iterator[str | None]:
        """Yield the line to print for each item; None for one that failed, whose error goes to standard error."""
        from edgekit.errors import DataError

        answers = self._predictor.predict_many(
            items,
            batch=self._batch,
            top=self._top,
            threshold=self._threshold,
            read=self._read,
            ahead=ahead,
        )
        for item, answer in answers:
            if isinstance(answer, DataError):
                self.failed += 1
                advance(self._steps)
                echo(f"error: {answer}", err=True)
                yield None
                continue
            self.done += 1
            self.unknown += answer.unknown
            self.anomalous += answer.anomalous is True
            if self.heat_maps is not None:
                self.heat_maps.write(self.heat_maps.name_of(item), self._read(item), answer, advance)
            else:
                advance(1)
            if self._embedding and self._embedding != _IN_JSON_LINES:
                self._embeddings.append((self._name(item), answer.embedding))
            yield self._json_line(item, answer) if self._as_json else self._line(item, answer)

    def _read(self, item: Path | InputFrame) -> Any:
        from edgekit.preprocess import open_image

        return open_image(item, self._predictor.max_pixels) if isinstance(item, Path) else item.image

    def _name(self, item: Path | InputFrame) -> str:
        return os.fspath(item) if isinstance(item, Path) else f"{self._video}#{item.number}"

    def _line(self, item: Path | InputFrame, answer: Answer) -> str:
        return f"{click.format_filename(self._name(item))}  {answer.line()}"

    def _json_line(self, item: Path | InputFrame, answer: Answer) -> str:
        import json

        if isinstance(item, Path):
            content: dict[str, Any] = {"file": os.fspath(item)}
        else:
            seconds = None if item.seconds is None else round(item.seconds, 6)
            content = {"video": self._video, "frame": item.number, "seconds": seconds}
        content |= answer.as_json()
        content["variant"] = self._predictor.variant.id
        if self._embedding == _IN_JSON_LINES and answer.embedding is not None:
            content["embedding"] = [float(f"{value:.7g}") for value in answer.embedding.tolist()]
        return json.dumps(content)

    def _print_throughput(self, seconds: float) -> None:
        from edgekit.tasks import UNKNOWN

        if self.done + self.failed == 1:
            return
        what = "frames" if self._video else "images"
        unreadable = f", {self.failed} could not be read" if self.failed else ""
        unreadable += f", {self.unknown} {UNKNOWN}" if self.unknown else ""
        unreadable += f", {self.anomalous} anomalous" if self.anomalous else ""
        rate = f"{self.done / seconds:.1f} {what}/s" if seconds > 0 else "n/a"
        how = f"{self._predictor.variant.id}, batch {self._batch}, from file to answer"
        echo(f"{self.done} {what}{unreadable}, {seconds:.1f} s: {rate} ({how})", err=True)


def _write_embeddings(path: Path, embeddings: list[tuple[str, Any]]) -> None:
    """Write the embeddings (n, features) float32 in the order of the lines; a .npz file has the arrays `embeddings` and
    `files` (the names)."""
    import numpy as np

    from edgekit.files import atomic_write

    rows = np.stack([row for _, row in embeddings]) if embeddings else np.empty((0, 0), np.float32)
    with atomic_write(path) as stream:
        if path.suffix == ".npy":
            np.save(stream, rows)
        else:
            np.savez(stream, embeddings=rows, files=np.array([name for name, _ in embeddings], dtype=str))
