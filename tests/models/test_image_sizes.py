"""Networks for images of any height and width: ViTs with grids that are not square, and what takes squares alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed

from edgekit.errors import RecipeError
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import build_encoder
from edgekit.models.pixels import resized
from edgekit.models.store import load_classifier, save_classifier
from edgekit.recipe import Architecture, DataConfig, EncoderTeacher
from edgekit.run import Run
from edgekit.sizes import ImageSize
from edgekit.train.pretrain.teacher import load_encoder_teacher

VIT = Architecture(name="timm:test_vit", patch_size=8)


def images(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_vit_has_one_position_per_patch_of_a_grid_of_any_shape() -> None:
    encoder = build_encoder(VIT, (24, 40))
    prefix = encoder.network.num_prefix_tokens
    assert encoder.network.patch_embed.grid_size == (3, 5)
    assert encoder.network.pos_embed.shape[1] - prefix in {15, 15 - prefix}
    assert encoder(images(24, 40)).shape == (2, encoder.feature_dim)
    with pytest.raises(RecipeError, match=r"24x42 px is not a multiple of the 8-px patches.*\(use \[24, 40\] px"):
        build_encoder(VIT, (24, 42))
    with pytest.raises(RecipeError, match=r"42 px is not a multiple of the 8-px patches.*\(use 40 or 48 px"):
        build_encoder(VIT, 42)


def test_positions_of_a_square_grid_are_interpolated_to_another_shape(tmp_path: Path) -> None:
    square = timm.create_model("test_vit", num_classes=0, img_size=32, patch_size=8)
    torch.nn.init.normal_(square.pos_embed, generator=torch.Generator().manual_seed(0))
    save_file({name: t.contiguous() for name, t in square.state_dict().items()}, tmp_path / "vit.safetensors")
    architecture = VIT.model_copy(update={"weights": str(tmp_path / "vit.safetensors"), "interpolate_positions": True})
    encoder = build_encoder(architecture, (24, 40))
    prefix = 0 if square.no_embed_class else square.num_prefix_tokens
    expected = resample_abs_pos_embed(square.pos_embed, [3, 5], num_prefix_tokens=prefix)
    torch.testing.assert_close(encoder.network.pos_embed, expected)
    assert build_encoder(architecture, (32, 32)).network.pos_embed.shape == square.pos_embed.shape


def test_a_model_comes_back_from_its_folder(tmp_path: Path) -> None:
    for size, written in (((24, 40), '"image_size": [\n    24,\n    40\n  ]'), (24, '"image_size": 24')):
        folder = tmp_path / str(written[-2:].strip())
        folder.mkdir()
        model = Classifier.build(
            VIT if size != 24 else Architecture(name="resnet10", width=0.125), size, ["a", "b"], []
        )
        save_classifier(folder, model)
        assert written in (folder / "model.json").read_text()
        again = load_classifier(folder)
        assert again.image_size == ImageSize.of(size)
        pixels = images(*again.image_size)
        assert torch.equal(again(pixels), model.eval()(pixels))


def test_a_network_for_squares_alone_says_so() -> None:
    with pytest.raises(RecipeError, match=r"torchvision:vit_b_16 takes only square images, not 32x64 px"):
        build_encoder(Architecture(name="torchvision:vit_b_16"), (32, 64))


def test_images_too_small_on_one_side_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"16x64 px is too small"):
        build_encoder(Architecture(name="resnet18", stem="imagenet"), (16, 64))


def test_a_teacher_of_another_shape_gets_resized_images() -> None:
    views = images(24, 40)
    assert resized(views, (24, 40), 0.5, 0.25) is views
    assert resized(views, (40, 24), 0.5, 0.25).shape == (2, 3, 40, 24)
    assert resized(views, 32, 0.5, 0.25).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "published", "seen"),
    [("timm:test_resnet", 160, (128, 192)), ("timm:test_vit", 160, (160, 160))],
)
def test_a_teacher_sees_as_many_pixels_in_the_student_s_shape_if_it_can(
    name: str, published: int, seen: tuple[int, int], tmp_path: Path
) -> None:
    """A ViT is for one size: unless `image_size` says another, it sees the images stretched."""
    network = timm.create_model(name.removeprefix("timm:"), num_classes=0)
    save_file({n: t.contiguous() for n, t in network.state_dict().items()}, tmp_path / "own.safetensors")
    source = EncoderTeacher(model=name, weights=str(tmp_path / "own.safetensors"))
    sizes = {}
    for size in ([96, 144], 96):
        teacher = load_encoder_teacher(source, DataConfig(image_size=size), Run(tmp_path / "run"))
        sizes[str(size)] = teacher.image_size
        assert teacher(images(*ImageSize.of(size))).shape == (2, teacher.width)
    assert sizes == {"[96, 144]": ImageSize.of(seen), "96": ImageSize.of(published)}
