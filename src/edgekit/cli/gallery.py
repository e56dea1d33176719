"""`edgekit gallery`: make, change, show and test galleries, by which `edgekit predict --gallery` recognizes classes."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import completers
from edgekit.cli.choices import Number
from edgekit.terminal import echo, echo_json
from edgekit.text import counted

if TYPE_CHECKING:
    from edgekit.gallery import Gallery
    from edgekit.gallery.building import Made
    from edgekit.gallery.record import Threshold
    from edgekit.gallery.testing import GalleryScores

_PATH = click.Path(path_type=Path)
_bundle = click.argument("bundle", type=_PATH)
_gallery = click.argument("gallery", type=_PATH)
_threads = click.option(
    "--threads", type=click.IntRange(0), default=0, help="Inference threads; 0: the runtime decides."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
_ENDING = ".gallery"
_MOST_LISTED = 40  # classes


class _Group(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from edgekit.errors import EdgekitError, near

        if args and args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            hint = near(args[0], self.commands) or f"it is one of {', '.join(self.commands)}"
            raise EdgekitError(f"no such command edgekit gallery {args[0]}", hint)
        return super().resolve_command(ctx, args)


@click.group(name="gallery", cls=_Group)
def command() -> None:
    """Recognize classes by a few images of each, without training: one image a class is enough, and classes come and go.

    A gallery is one file with the embeddings of images. It needs a bundle whose graphs give the embedding:
    `edgekit export RUN --embedding`, or `edgekit export RUN --task recognition`.

    \b
    For example:
      edgekit gallery create bundle.zip shop/           # shop/mug/1.jpg, shop/bowl/1.jpg, …
      edgekit predict bundle.zip --gallery shop.gallery photo.jpg
      edgekit gallery add bundle.zip shop.gallery new-products/
      edgekit gallery test bundle.zip shop.gallery test-photos/
    """


@command.command(name="create", short_help="Make a gallery of the images of a FOLDER.")
@_bundle
@click.argument("folder", type=_PATH)
@click.option(
    "--output", type=_PATH, metavar="FILE", help="The gallery's file.  [default: FOLDER's name.gallery, here]"
)
@click.option(
    "--variant",
    metavar="ID",
    shell_complete=completers.variants,
    help="The variant that computes the embeddings.  [default: as edgekit predict]",
)
@click.option(
    "--false-accepts",
    type=Number(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Share of the images of unknown classes that may be taken for a class.  [default: 0.05]",
)
@click.option(
    "--threshold",
    type=Number(-1, 1),
    metavar="S",
    help="Set the similarity up to which an image is unknown, instead.",
)
@click.option("--replace", is_flag=True, help="Replace a gallery that is there already.")
@_threads
@_json
def create(
    bundle: Path,
    folder: Path,
    output: Path | None,
    variant: str | None,
    false_accepts: float | None,
    threshold: float | None,
    replace: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Make a gallery of FOLDER's images, one sub-folder a class.

    The threshold for `unknown` comes from the images themselves: each class in turn stands for one that the gallery does not
    hold. Where there are too few images for that, there is no threshold, and every image gets a class.

    \b
    For example:
      edgekit gallery create bundle.zip shop/
      edgekit gallery create bundle.zip shop/ --output shop.gallery --variant onnx-int8 --false-accepts 0.01
    """
    if threshold is not None and false_accepts is not None:
        raise click.UsageError("--threshold cannot be combined with --false-accepts: leave one out")
    target = output or Path(f"{folder.resolve().name}{_ENDING}")
    from edgekit.bundle import Bundle
    from edgekit.errors import DataError
    from edgekit.files import check_writable_file
    from edgekit.gallery.building import create as make

    if not replace and target.exists():
        raise DataError(
            f"{target}: is there already", "add to it with `edgekit gallery add`, or give --replace or another --output"
        )
    check_writable_file(target)
    made = make(
        Bundle.open(bundle),
        folder,
        variant=variant,
        false_accepts=false_accepts,
        threshold=threshold,
        threads=threads,
    )
    made.gallery.write(target)
    _show(target, made, as_json)


@command.command(name="add", short_help="Add the images of a FOLDER to a GALLERY.")
@_bundle
@_gallery
@click.argument("folder", type=_PATH)
@_threads
@_json
def add(bundle: Path, gallery: Path, folder: Path, threads: int, as_json: bool) -> None:
    """Add FOLDER's images to a GALLERY, one sub-folder a class: new classes, or more images of old ones.

    Images that it holds already are skipped. The threshold is calibrated again.

    \b
    For example:
      edgekit gallery add bundle.zip shop.gallery new-products/
    """
    from edgekit.bundle import Bundle
    from edgekit.gallery import Gallery
    from edgekit.gallery.building import add as embed
    from edgekit.gallery.file import changing

    merge = embed(Bundle.open(bundle), Gallery.open(gallery), folder, threads=threads)
    with changing(gallery):
        made = merge(Gallery.open(gallery))
        made.gallery.write(gallery)
    _show(gallery, made, as_json)


@command.command(name="remove")
@_gallery
@click.argument("classes", nargs=-1, required=True, metavar="CLASS…")
@_json
def remove(gallery: Path, classes: tuple[str, ...], as_json: bool) -> None:
    """Remove classes from a GALLERY. The threshold is calibrated again. This needs no bundle.

    \b
    For example:
      edgekit gallery remove shop.gallery mug bowl
    """
    from edgekit.gallery import Gallery
    from edgekit.gallery.building import Made
    from edgekit.gallery.file import changing

    with changing(gallery):
        left = Gallery.open(gallery).removed(classes)
        left.write(gallery)
    _show(gallery, Made(left), as_json)


@command.command(name="list", short_help="List the classes of a GALLERY.")
@_gallery
@_json
def list_(gallery: Path, as_json: bool) -> None:
    """List the classes of a GALLERY with their numbers of images, its threshold, and the model that made it.

    \b
    For example:
      edgekit gallery list shop.gallery
    """
    from edgekit.gallery import Gallery
    from edgekit.gallery.building import Made

    opened = Gallery.open(gallery)
    if not as_json:
        width = max(len(name) for name in opened.classes)
        for name, count in opened.counts.items():
            echo(f"{name:<{width}}  {count:,}")
    _show(gallery, Made(opened), as_json)


@command.command(name="test", short_help="Score a GALLERY on the images of a FOLDER.")
@_bundle
@_gallery
@click.argument("folder", type=_PATH)
@click.option(
    "--variant",
    metavar="ID",
    shell_complete=completers.variants,
    help="The variant to use.  [default: as edgekit predict]",
)
@click.option("--threshold", type=Number(-1, 1), metavar="S", help="Try another threshold.")
@_threads
@_json
def test(
    bundle: Path,
    gallery: Path,
    folder: Path,
    variant: str | None,
    threshold: float | None,
    threads: int,
    as_json: bool,
) -> None:
    """Score a GALLERY on FOLDER's images, one sub-folder a class. Classes that it does not hold should be called unknown.

    An image that cannot be read is named on standard error and skipped; the exit code is then 1.

    \b
    For example:
      edgekit gallery test bundle.zip shop.gallery test-photos/ --variant onnx-int8 --json
    """
    from edgekit.bundle import Bundle
    from edgekit.cli.predict import recognizer
    from edgekit.gallery.testing import score
    from edgekit.preprocess import MAX_PIXELS

    with recognizer(Bundle.open(bundle), gallery, variant, threads, MAX_PIXELS) as opened:
        found = score(opened, folder, threshold)
        own = opened.gallery.threshold if threshold is None else threshold
        variant = opened.variant.id
    for line in found.failed:
        echo(f"error: {line}", err=True)
    for note in found.notes:
        echo(f"note: {note}", err=True)
    if as_json:
        echo_json(json.dumps({"gallery": str(gallery), "variant": variant, "threshold": own, **found.as_json()}))
    else:
        _print_scores(found, own, variant)
    if found.failed:
        click.get_current_context().exit(1)


def _show(path: Path, made: Made, as_json: bool) -> None:
    gallery = made.gallery
    for note in made.notes:
        echo(f"note: {note}", err=True)
    if as_json:
        content = {"gallery": str(path), "images": len(gallery), "skipped": made.skipped, **gallery.record.as_json()}
        echo_json(json.dumps(content, ensure_ascii=False))
        return
    if made.skipped:
        echo(f"note: skipped {counted(made.skipped, 'image')} that the gallery holds already", err=True)
    record = gallery.record
    size = 0
    with suppress(OSError):
        size = path.stat().st_size
    echo(
        f"{path}: {counted(len(gallery), 'image')} of {counted(len(gallery.classes), 'class', 'classes')}, "
        f"{record.features} features by {record.variant} of {record.bundle}, {size / 1e3:,.0f} kB"
    )
    how = "nearest image" if record.neighbors == 1 else f"{record.neighbors} nearest images, on average"
    scored = f"similarity with a class: that with its {how}"
    for line in (scored, *_threshold_lines(record.threshold), *_agreement_lines(gallery)):
        echo(f"  {line}")


def _threshold_lines(threshold: Threshold) -> list[str]:
    from edgekit.shares import percent

    lines = []
    if threshold.value is None:
        lines.append(f"no threshold, every image gets a class: {threshold.note or 'none was asked for'}")
    else:
        how = (
            "as given"
            if threshold.false_accepts is None
            else f"for {percent(threshold.false_accepts, 0)} false accepts, from {counted(threshold.impostors, 'image')} "
            "as if of unknown classes"
        )
        lines.append(f"unknown up to a similarity of {threshold.value:.3f}: {how}")
        lines += [threshold.note] if threshold.note else []
    if threshold.top1 is not None:
        rejected = (
            "" if threshold.false_rejects is None else f", {percent(threshold.false_rejects)} would be called unknown"
        )
        lines.append(
            f"leaving one out: {percent(threshold.top1)} of {counted(threshold.genuine, 'image')} right{rejected}"
        )
    return lines


def _agreement_lines(gallery: Gallery) -> list[str]:
    from edgekit.shares import percent

    return [
        f"{name} names the same class for {percent(found.share)} of {counted(found.images, 'image')}, mean cosine {found.cosine:.3f}"
        for name, found in gallery.record.agreement.items()
    ]


def _print_scores(found: GalleryScores, threshold: float | None, variant: str) -> None:
    from edgekit.intervals import wilson
    from edgekit.shares import percent

    def share(count: int, total: int) -> str:
        low, high = wilson(count / total, total)
        return f"{percent(count / total)} (95% interval {percent(low)} to {percent(high)}), {count:,} of {total:,}"

    echo(f"{variant}, {'no threshold' if threshold is None else f'unknown up to a similarity of {threshold:.3f}'}")
    if found.known:
        echo(f"nearest class right     {share(found.right, found.known)}")
        echo(f"right, and not unknown  {share(found.accepted, found.known)}")
        echo(f"falsely called unknown  {share(found.rejected, found.known)}")
    if found.unknown:
        echo(f"falsely given a class   {share(found.unknown - found.refused, found.unknown)} of other classes")
    if found.auroc is not None:
        echo(f"AUROC known, unknown    {found.auroc:.4f}")
    worst = sorted(found.per_class.items(), key=lambda item: item[1][1] / item[1][0])[:_MOST_LISTED]
    width = max((len(name) for name, _ in worst), default=0)
    for name, (images, right) in worst:
        echo(f"  {name:<{width}}  {right:,} of {images:,}")
