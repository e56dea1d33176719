"""Images with heat maps on them, written into a folder: `edgekit predict --heatmap`."""

from __future__ import annotations

import io
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.text import counted

if TYPE_CHECKING:
    from edgekit.progress import Advance
    from edgekit.runtimes.predictor import Predictor
    from edgekit.runtimes.sources import InputFrame
    from edgekit.tasks import Answer


_MARK = ("Software", "edgekit heat map")  # a text of each PNG file, so that only these are replaced


class HeatMaps:
    """Writes images with their heat maps on them into a folder.

    Args:
        folder: created if missing.
        predictor: that gives the answers.
        roots: the files and folders that the user named.
    """

    def __init__(self, folder: Path, predictor: Predictor, roots: tuple[Path, ...]) -> None:
        self._folder, self._predictor, self._roots = folder, predictor, roots
        self._taken: set[str] = set()
        self._written = 0

    @property
    def runs(self) -> int:
        """The number of runs that the map of one image takes, beside those of its answer; 1 where the model itself gives the map."""
        from edgekit.tasks.occlusion import run_count

        height, width = self._predictor.preprocessing.image_size
        return run_count((height, width)) if self._predictor.explains else 1

    def summary(self) -> str:
        """The line that says what was written and where; empty if nothing was."""
        return f"{counted(self._written, 'heat map')} in {self._folder}" if self._written else ""

    def name_of(self, item: Path | InputFrame) -> str:
        """The name of an image's file without its suffix: as below the folder that the user named."""
        if not isinstance(item, Path):
            return f"frame-{item.number:06}"
        inside = [item.relative_to(root) for root in self._roots if root != item and item.is_relative_to(root)]
        return (inside[0] if inside else Path(item.name)).with_suffix("").as_posix()

    def write(self, name: str, image: Any, answer: Answer, advance: Advance) -> Path:
        """Write one image; return the file, `NAME.png`, of further images of that name `NAME-2.png` and so on.

        Args:
            name: see `name_of`.
            image: upright, of any mode.
            answer: about it.
            advance: called with the number of runs after each of them, `runs` in all.

        Raises:
            EdgekitError: the file is there already, and is not a heat map.
        """
        import numpy as np
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        from edgekit.errors import EdgekitError
        from edgekit.files import write_bytes
        from edgekit.preprocess import to_rgb
        from edgekit.tasks.heat_maps import overlay

        mark = PngInfo()
        mark.add_text(*_MARK)
        free = next(free for n in count(1) if (free := name if n == 1 else f"{name}-{n}") not in self._taken)
        self._taken.add(free)
        path = self._folder / f"{free}.png"
        if path.exists() and not _is_heat_map(path):  # such as the image itself, where the folder is that of the images
            raise EdgekitError(
                f"--heatmap: {path} is there already, and is not a heat map of edgekit", "give another folder"
            )
        preprocessing, alarm = self._predictor.preprocessing, self._predictor.alarm
        rgb = image if image.mode == "RGB" else to_rgb(image, preprocessing.pixel_range)
        pixels = np.asarray(rgb)
        if self._predictor.explains:
            found = self._predictor.explain(rgb, advance=advance)
            drawn = overlay(pixels, found.heat, preprocessing, span=found.span)
        else:
            assert answer.heat is not None
            drawn = overlay(pixels, answer.heat, preprocessing, None if alarm is None else alarm.map_threshold)
            advance(1)
        stream = io.BytesIO()
        Image.fromarray(drawn).save(stream, "PNG", pnginfo=mark)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, stream.getvalue())
        self._written += 1
        return path


def _is_heat_map(path: Path) -> bool:
    """Whether a file has the mark of those that `HeatMaps` writes, which stands before its pixels."""
    try:
        with path.open("rb") as stream:
            return "\0".join(_MARK).encode() in stream.read(200)
    except OSError:
        return False
