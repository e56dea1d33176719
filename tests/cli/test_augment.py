"""`edgekit augment preview`: the picture of a recipe's views."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.helpers.recipe_changes import TINY, changed

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed(TINY, name="tiny")))
    return path


def tiles(path: Path) -> np.ndarray:
    """The tiles of a picture, (rows, columns, side, side, 3)."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    columns = [pixels[:, i * 66 : i * 66 + 64] for i in range(8)]
    return np.stack([np.stack([c[i * 66 : i * 66 + 64] for c in columns]) for i in range(len(pixels) // 66 + 1)])


def test_without_augmentation_every_view_is_the_image(recipe: Path, edgekit: Command) -> None:
    plain = {"crop": 0.0, "flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0}
    code, out, err = edgekit(
        "augment", "preview", recipe, "--set", f"pretrain.augmentation={json.dumps(plain)}", "--json"
    )
    assert code == 0, err
    assert json.loads(out) == {"stage": "pretrain", "picture": "tiny-pretrain-views.png"}
    shown = tiles(Path("tiny-pretrain-views.png")).astype(int)
    assert shown.shape == (8, 8, 64, 64, 3)
    # Pixels go through float32 and back.
    assert np.abs(shown - shown[:, :1]).max() <= 1
    assert len({row[0].tobytes() for row in shown}) > 1


def test_the_views_of_another_stage_differ_from_the_image(recipe: Path, edgekit: Command) -> None:
    code, out, err = edgekit("augment", "preview", recipe, "--stage", "supervised", "--output", "views.png")
    assert code == 0, err
    assert out == "wrote views.png: each row shows an image, then random views of it\n"
    shown = tiles(Path("views.png")).astype(int)
    assert all(np.abs(row[1:] - row[:1]).max() > 10 for row in shown)
    code, _, err = edgekit("augment", "preview", "none.yaml")
    assert code == 2
    assert err.startswith("error: none.yaml")
