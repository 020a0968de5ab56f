"""Random augmentation of whole batches of photographs on their device, drawn separately for every image.

The images of a dataset are prepared somewhat larger than the network's input, from which each epoch takes other crops.
Random numbers come from torch's global state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from toprung.errors import UserError, unknown_name_error
from toprung.vision.augmentation import choose_strengths
from toprung.vision.auto_augment import MAX_MAGNITUDE, POLICIES, auto_augment
from toprung.vision.crops import DEFAULT_CROP_PCT, center_crop, check_crop, draw_boxes, random_resized_crop
from toprung.vision.mixing import cutmix_, mixup
from toprung.vision.photo_operations import adjust_colors, round_to_uint8


@dataclass(frozen=True, kw_only=True)
class PhotoAugmentationStrengths:
    """The strength of each operation; the default disables it."""

    crop_scale: float = 1.0
    """Smallest area of the random crop, as a fraction of the image; with 1, the crop is the center, as in evaluation
    (Szegedy et al. 2015, from 0.08)."""
    flip: float = 0.0
    """Probability of a left-right flip."""
    color_jitter: float = 0.0
    """Brightness, contrast and saturation are each multiplied by a factor between 1 - color_jitter and
    1 + color_jitter."""
    policy: str = "none"
    """none, trivial (TrivialAugment, Müller and Hutter 2021, wide) or rand (RandAugment, Cubuk et al. 2020)."""
    rand_magnitude: float = 9.0
    """Magnitude of rand, from 0 to 30; the other policies ignore it."""
    erasing: float = 0.0
    """Probability of filling a box, of up to a third of the image, with random pixels (Zhong et al. 2020)."""
    mixup: float = 0.0
    """Alpha of Beta(alpha, alpha), from which an image's share in its mix with another is drawn (Zhang et al. 2018)."""
    cutmix: float = 0.0
    """The same for a box of another image, whose area is the share of its class (Yun et al. 2019). With mixup, a fair
    coin decides for each batch which of the two is used."""

    def __post_init__(self) -> None:
        if self.policy not in ("none", *POLICIES):
            raise unknown_name_error(str(self.policy), kind="augmentation policy", known=["none", *POLICIES])
        for name, (smallest, largest) in _LIMITS.items():
            strength = getattr(self, name)
            if not smallest <= strength <= largest:
                raise UserError(
                    f"The augmentation strength {name} must be from {smallest:g} to {largest:g}, not {strength}."
                )


_LIMITS = {
    "crop_scale": (0.01, 1.0),
    "flip": (0.0, 1.0),
    "color_jitter": (0.0, 1.0),
    "rand_magnitude": (0.0, float(MAX_MAGNITUDE)),
    "erasing": (0.0, 1.0),
    "mixup": (0.0, 10.0),
    "cutmix": (0.0, 10.0),
}
PHOTO_STRENGTHS = tuple(asdict(PhotoAugmentationStrengths()))

# For each strength and each operation of a policy: what a dataset's card must allow. A card that allows affine allows
# the policies to rotate, by up to 30 degrees.
_REQUIRED = {
    "crop_scale": ("shift", "affine"),
    "flip": ("flip",),
    "color_jitter": ("color",),
    "erasing": ("cutout",),
    "mixup": ("mixup",),
    "cutmix": ("cutout", "mixup"),
    "identity": (),
    "shear_x": ("affine",),
    "shear_y": ("affine",),
    "translate_x": ("shift",),
    "translate_y": ("shift",),
    "rotate": ("affine",),
    "brightness": ("color",),
    "color": ("color",),
    "contrast": ("color",),
    "sharpness": ("color",),
    "posterize": ("color",),
    "solarize": ("color",),
    "autocontrast": ("color",),
    "equalize": ("color",),
}

PHOTO_LEVELS = {
    "none": PhotoAugmentationStrengths(),
    # timm and torchvision crop from 0.08 when they train for hundreds of epochs; fine-tuning is shorter.
    "light": PhotoAugmentationStrengths(crop_scale=0.35, flip=0.5),
    # All but crop_scale are the values of torchvision's training recipe of 2021
    # (https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives/).
    "heavy": PhotoAugmentationStrengths(
        crop_scale=0.2,
        flip=0.5,
        policy="trivial",
        erasing=0.1,
        mixup=0.2,
        cutmix=1.0,
    ),
}


def build_photo_augmentation(
    *,
    level: str,
    size: int,
    card_augmentations: Collection[str],
    num_classes: int,
    strengths: Mapping[str, float | str | None] | None = None,
    crop_pct: float = DEFAULT_CROP_PCT,
) -> PhotoAugmentation:
    """Build the augmentation of a level, with some strengths changed and only the operations the dataset allows.

    Args:
        level: none, light or heavy.
        size: height and width of the augmented images, in pixels.
        card_augmentations: the operations that do not change a label (see `toprung.vision.OPERATIONS`); what needs
            another one is disabled, and left out of the policies.
        num_classes: K, the width of the targets of mixup and CutMix.
        strengths: replacements for the level's strengths, by the field names of `PhotoAugmentationStrengths`; None
            keeps the level's value.
        crop_pct: see `center_crop`, which replaces the random crop if that is disabled.

    Raises:
        UserError: the level, a strength's name or the policy is unknown, or a number is out of range.
    """
    changed = choose_strengths(PHOTO_LEVELS, level, strengths)
    check_crop(size, crop_pct)
    allowed = [name for name, required in _REQUIRED.items() if set(required) <= set(card_augmentations)]
    off = asdict(PhotoAugmentationStrengths())
    disabled = {name: off[name] for name in PHOTO_STRENGTHS if name in _REQUIRED and name not in allowed}
    operations = tuple(name for name in POLICIES["trivial"].largest if name in allowed)
    if operations == ("identity",):
        disabled["policy"] = "none"
    return PhotoAugmentation(
        replace(changed, **disabled),
        size=size,
        num_classes=num_classes,
        policy_operations=operations,
        crop_pct=crop_pct,
    )


@dataclass(frozen=True)
class PhotoAugmentation:
    """A callable that augments a batch into new memory and leaves the batch unchanged.

    The policy draws from `policy_operations` only.
    """

    strengths: PhotoAugmentationStrengths
    size: int
    num_classes: int
    policy_operations: tuple[str, ...]
    crop_pct: float = DEFAULT_CROP_PCT

    def __call__(self, images_NCHW: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """Augment one batch.

        Args:
            images_NCHW: uint8, 0..255, of any height and width.
            labels_N: int64.

        Returns:
            images_NCHW as float32, 0..1, of `size` x `size` pixels, and the targets: the given labels_N or, with mixup
            or CutMix, float targets_NK whose rows sum to 1. `torch.nn.functional.cross_entropy` accepts both.
        """
        strengths = self.strengths
        if strengths.crop_scale < 1:
            images_NCHW = random_resized_crop(images_NCHW, size=self.size, min_area=strengths.crop_scale)
        elif images_NCHW.shape[2:] == (self.size, self.size):  # not cropped in evaluation either
            images_NCHW = images_NCHW.clone()  # a flip works in place
        else:
            images_NCHW = center_crop(images_NCHW, size=self.size, crop_pct=self.crop_pct)
        if strengths.flip:
            _flip_(images_NCHW, strengths.flip)
        if strengths.color_jitter:
            factors_N3 = 1 + strengths.color_jitter * (2 * torch.rand(len(images_NCHW), 3) - 1)
            images_NCHW = round_to_uint8(adjust_colors(images_NCHW, factors_N3))
        if strengths.policy == "none":
            images_NCHW = images_NCHW.float()
        else:
            images_NCHW = auto_augment(
                images_NCHW,
                policy=strengths.policy,
                operations=self.policy_operations,
                rand_magnitude=strengths.rand_magnitude,
            )
        if strengths.erasing:
            _erase_(images_NCHW, strengths.erasing)
        targets = labels_N
        if strengths.cutmix and (not strengths.mixup or torch.rand(()) < 0.5):
            images_NCHW, targets = cutmix_(images_NCHW, labels_N, alpha=strengths.cutmix, num_classes=self.num_classes)
        elif strengths.mixup:
            images_NCHW, targets = mixup(images_NCHW, labels_N, alpha=strengths.mixup, num_classes=self.num_classes)
        return images_NCHW.div_(255), targets


def _flip_(images_NCHW: Tensor, probability: float) -> None:
    """Mirror some images left and right, in place."""
    for index in (torch.rand(len(images_NCHW)) < probability).nonzero().flatten().tolist():
        images_NCHW[index] = images_NCHW[index].flip(2)


def _erase_(images_NCHW: Tensor, probability: float) -> None:
    """Fill a box of some images with random pixels, in place: the best of the fillings of Zhong et al. 2020."""
    H, W = images_NCHW.shape[2:]
    indices = (torch.rand(len(images_NCHW)) < probability).nonzero().flatten().tolist()
    boxes = draw_boxes(len(indices), H, W, area=(0.02, 1 / 3), aspect_ratio=(0.3, 1 / 0.3)).tolist()
    for index, (top, left, height, width) in zip(indices, boxes, strict=True):
        images_NCHW[index, :, top : top + height, left : left + width].random_(0, 256)
