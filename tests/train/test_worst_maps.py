"""Maps of the student's worst mistakes: which places spoke for the wrong class, in the file beside the evaluation."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit import recipe as recipes
from edgekit.answers import Answers, read_answers
from edgekit.data.images import ImageSet
from edgekit.foreign import Unreadable
from edgekit.train.evaluate.answers import EXPLAINED, answer, with_maps, with_worst

HEIGHT, WIDTH = 40, 128
RECIPE = recipes.parse({"name": "x", "data": {"image_size": [HEIGHT, WIDTH]}})


class Quadrant(nn.Module):
    """The logit of the second class is the brightness of the upper left quadrant."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        signal = images[:, :, : HEIGHT // 2, : WIDTH // 2].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(signal), 4 * signal], dim=1)


def images_of(count: int, bright: int) -> ImageSet:
    """The first `bright` images have a bright upper left quadrant; all are of the first class."""
    pixels = np.full((count, HEIGHT, WIDTH, 3), 40, np.uint8)
    pixels[:bright, : HEIGHT // 2, : WIDTH // 2] = 220
    names = [f"{i}.png" for i in range(count)]
    return ImageSet(pixels, names, [f"{i:032x}" for i in range(count)], np.zeros(count, np.int64))


@pytest.fixture(scope="module")
def explained() -> Answers:
    images, device = images_of(12, 8), torch.device("cpu")
    own = answer({"student": Quadrant()}, images, RECIPE, device)
    own, worst = with_worst(own, images, ["dark", "bright"])
    assert [one.predicted for one in worst] == ["bright"] * 8
    return with_maps(own, Quadrant(), images, RECIPE, device)


def test_the_wrong_class_is_explained_where_its_signal_is(explained: Answers) -> None:
    """Thumbnails are 20 x 64 pixels."""
    assert explained.maps.shape == (EXPLAINED, 20, 64)
    for heat in explained.maps:
        assert heat[:9, :30].min() > 0
        assert np.abs(heat[15:]).max() == np.abs(heat[:, 37:]).max() == 0


def test_the_file_keeps_the_maps_and_one_without_them_is_read(explained: Answers, tmp_path: Path) -> None:
    path = tmp_path / "answers.npz"
    explained.write(path)
    assert (read_answers(path, 2).maps == explained.maps).all()
    with np.load(path) as archive:
        older = {name: archive[name] for name in archive.files if name != "maps"}
    stream = io.BytesIO()
    np.savez_compressed(stream, **older)
    path.write_bytes(stream.getvalue())
    read = read_answers(path, 2)
    assert (len(read.maps), len(read.worst)) == (0, 8)


@pytest.mark.parametrize(
    "maps",
    [
        np.zeros((9, 20, 64), np.float32),
        np.zeros((2, 20, 63), np.float32),
        np.zeros((2, 20, 64), np.float64),
        np.full((2, 20, 64), np.nan, np.float32),
        np.zeros(3, np.float32),
    ],
)
def test_maps_of_other_images_are_refused(explained: Answers, maps: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "answers.npz"
    replace(explained, maps=maps).write(path)
    with pytest.raises(Unreadable, match="its maps are invalid"):
        read_answers(path, 2)


def test_without_mistakes_nothing_is_run() -> None:
    images, device = images_of(4, 0), torch.device("cpu")
    own, _ = with_worst(answer({"student": Quadrant()}, images, RECIPE, device), images, ["dark", "bright"])
    assert with_maps(own, nn.Identity(), images, RECIPE, device) is own
