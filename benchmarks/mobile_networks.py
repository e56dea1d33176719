"""The networks of `mobile_table.py` and their images. Also imported in the environment of the official converter (`mobile_official.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALIBRATION, EVALUATION, TESTED = 150, 200, 3000  # images; the last are the labeled ones of trained networks
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation
HALF = 0.5, 0.25  # those of edgekit's own recipes


@dataclass(frozen=True)
class Network:
    """A network of the table.

    Attributes:
        name: as `export_sweep.build` takes it, or a ResNet of edgekit.
        size: side of its images, in pixels.
        width: of edgekit's ResNets.
        run: the folder of a trained run; its student is the network. None: seeded weights that look trained.
        convolutional: whether the goal of the table is for it.
    """

    name: str
    size: int = 96
    width: float = 1.0
    run: str = ""
    convolutional: bool = True

    @property
    def statistics(self) -> tuple[Any, Any]:
        """Mean and standard deviation of the normalization."""
        return IMAGENET if self.name.startswith("timm:") and not self.run else HALF


UNTRAINED = {
    "mobilenetv3_small": Network("timm:mobilenetv3_small_100"),
    "resnet18": Network("timm:resnet18"),
    "efficientnet_lite0": Network("timm:efficientnet_lite0"),
    "resnet10": Network("resnet10", 32, 0.5),
    "mobilenetv4_small": Network("timm:mobilenetv4_conv_small"),
    "vit_tiny": Network("timm:vit_tiny_patch16_224", convolutional=False),
}


def network(entry: Network, weights: Path) -> Any:
    """The network with the weights of a file (`write_weights`): uint8 images (n, s, s, 3) -> logits."""
    import torch

    from edgekit.models.pixels import PixelClassifier

    model = PixelClassifier(_build(entry), *entry.statistics).eval()
    model.model.load_state_dict(torch.load(weights, weights_only=True))
    return model


def write_weights(entry: Network, path: Path, images: Any) -> None:
    """Write the state dict of a network: of its run, or seeded, with the statistics of `images`, uint8 (n, s, s, 3)."""
    import torch

    from edgekit.models.pixels import normalize
    from edgekit.models.resnet import RESNETS
    from export_sweep import look_trained

    torch.manual_seed(0)
    model = _build(entry)
    if not entry.run:
        if entry.name in RESNETS:  # edgekit's own classifiers begin at 0, and 0 is what every file would then answer
            torch.nn.init.normal_(model.head.weight, std=0.01)
        look_trained(model, normalize(torch.from_numpy(images[:96]), *entry.statistics))
    torch.save(model.state_dict(), path)


def _build(entry: Network) -> Any:
    from edgekit.models.classifier import Classifier
    from edgekit.models.store import load_classifier
    from edgekit.recipe import Architecture
    from export_sweep import CLASSES, build

    if entry.run:
        return load_classifier(Path(entry.run) / "distill")
    if entry.name.startswith("timm:"):
        return build(entry.name, entry.size)
    names = [f"class {i}" for i in range(CLASSES)]
    return Classifier.build(Architecture(name=entry.name, width=entry.width), entry.size, names, [])


def write_arrays(entry: Network, folder: Path, data: Path | None) -> None:
    """Write `calibration.npy` and `evaluation.npy`, uint8 (n, s, s, 3), and the `labels.npy` of trained networks.

    Args:
        entry: untrained networks get generated images.
        folder: destination.
        data: `train` and `test`, a folder of PNGs a class in each; of trained networks alone.
    """
    import numpy as np

    from export_sweep import shapes

    if not entry.run:
        images = shapes(CALIBRATION + EVALUATION, entry.size)
        np.save(folder / "calibration.npy", images[:CALIBRATION])
        np.save(folder / "evaluation.npy", images[CALIBRATION:])
        return
    if data is None:
        raise SystemExit("trained networks need --data")
    calibration, _ = _read(data / "train", CALIBRATION)
    evaluation, labels = _read(data / "test", TESTED)
    np.save(folder / "calibration.npy", calibration)
    np.save(folder / "evaluation.npy", evaluation)
    np.save(folder / "labels.npy", labels)


def _read(folder: Path, count: int) -> tuple[Any, Any]:
    """A seeded draw of images, and the positions of their classes in the alphabet."""
    import numpy as np
    from PIL import Image

    files = sorted(folder.glob("*/*.png"))
    classes = sorted({file.parent.name for file in files})
    rows = np.random.default_rng(0).permutation(len(files))[:count]
    images = np.stack([np.asarray(Image.open(files[row]).convert("RGB")) for row in rows])
    return images, np.array([classes.index(files[row].parent.name) for row in rows], np.int64)
