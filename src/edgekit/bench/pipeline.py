"""Time each step from JPEG bytes to the task's answers."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.preprocess import read_image
from edgekit.runtimes import Session
from edgekit.runtimes.session import Staged, run_required

# The image for timing decoding and resizing: of a camera's size, made from a golden image.
_JPEG_SIZE = (640, 480)
_JPEG_QUALITY = 90
_SECONDS = 0.5
_RUNS = 11
_TOP = 5


def pipeline(session: Session, bundle: Bundle, pixels: NDArray[np.uint8], stop: Callable[[], bool]) -> dict[str, float]:
    """Return the median times in milliseconds of the steps from JPEG bytes to the task's answers (the five most probable classes), for a whole batch.

    Args:
        session: runs the batch.
        bundle: its preprocessing and its task.
        pixels: uint8 (n, H, W, 3), the batch that the JPEGs are made from.
        stop: called between two runs; if it returns True, the times so far are returned.
    """
    preprocessing, task, classes = bundle.manifest.preprocessing, bundle.task, bundle.manifest.classes
    jpegs = [_jpeg(image) for image in pixels]
    times: list[tuple[int, int, int, int]] = []
    end = time.perf_counter() + _SECONDS
    while not stop() and (time.perf_counter() < end or len(times) < _RUNS):
        began = time.perf_counter_ns()
        batch = np.stack([preprocessing(read_image(jpeg)) for jpeg in jpegs])
        prepared = time.perf_counter_ns()
        outputs = run_required(session, batch, task)
        ran = time.perf_counter_ns()
        task.answers(outputs, classes, _TOP, None)
        times.append((began, prepared, ran, time.perf_counter_ns()))
    if not times:
        return {}
    return {
        "preprocess": median(t[1] - t[0] for t in times) / 1e6,
        "postprocess": median(t[3] - t[2] for t in times) / 1e6,
        "end_to_end": median(t[3] - t[0] for t in times) / 1e6,
    }


def transfers(session: Session, batch: NDArray[np.uint8]) -> dict[str, float]:
    """Return the median times in milliseconds of a run's transfers and computation; empty if nothing is transferred."""
    if not isinstance(session, Staged) or session.stages(batch) is None:
        return {}
    runs = [stages for _ in range(_RUNS) if (stages := session.stages(batch)) is not None]
    return {name: median(getattr(stages, name) for stages in runs) / 1e6 for name in runs[0]._fields}


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).resize(_JPEG_SIZE).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()
