"""Augmentation of whole uint8 batches on the training device, random for each image: the family of SimCLR's figure 4.

Every draw comes from one CPU generator, so the same seed gives the same views on every device. Only the pixels of the Gaussian noise
are drawn on the device.
"""

from __future__ import annotations

from edgekit.data.augment.color import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, luma
from edgekit.data.augment.draws import Draws
from edgekit.data.augment.filters import add_noise, blur_kernel, cut_out, gaussian_blur, sobel
from edgekit.data.augment.geometry import crop_resize_flip, random_boxes
from edgekit.data.augment.one_branch import OneBranch
from edgekit.data.augment.tiles import TiledAugment
from edgekit.data.augment.transform import Augment

__all__ = [
    "Augment", "Draws", "OneBranch", "TiledAugment", "add_noise", "adjust_brightness", "adjust_contrast", "adjust_hue", "adjust_saturation",
    "blur_kernel", "crop_resize_flip", "cut_out", "gaussian_blur", "luma", "random_boxes", "sobel",
]  # fmt: skip
