"""Mixup and CutMix: each image and its target are mixed with those of another image of the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mixup(images_NCHW: Tensor, labels_N: Tensor, *, alpha: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Average each image with another one, with a share drawn for each image (Zhang et al. 2018).

    Args:
        images_NCHW: float.
        labels_N: int64.
        alpha: of Beta(alpha, alpha), from which the shares are drawn.
        num_classes: K.

    Returns:
        images_NCHW in new memory, and float targets_NK, whose rows sum to 1.
    """
    share_N, partner_N = _draw_shares_and_partners(len(images_NCHW), alpha, images_NCHW.device)
    # index_select, because indexing by a tensor takes twice the time on a CPU.
    mixed_NCHW = images_NCHW.index_select(0, partner_N).lerp_(images_NCHW, share_N.view(-1, 1, 1, 1))
    return mixed_NCHW, _mix_targets(labels_N, share_N, partner_N, num_classes)


def cutmix_(images_NCHW: Tensor, labels_N: Tensor, *, alpha: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Paste, in place, a box of another image into each image, and mix the targets by area (Yun et al. 2019).

    The box has the image's aspect ratio. Its center is anywhere, so part of it may be outside the image.

    Args:
        images_NCHW: of any type.
        labels_N: int64.
        alpha: of Beta(alpha, alpha), from which the shares of the area outside the boxes are drawn.
        num_classes: K.

    Returns:
        the given images_NCHW, and float targets_NK, whose rows sum to 1.
    """
    N, _, H, W = images_NCHW.shape
    share_N, partner_N = _draw_shares_and_partners(N, alpha, torch.device("cpu"))
    center_N2, half_side_N1 = torch.rand(N, 2), (1 - share_N).sqrt().view(-1, 1) / 2  # as fractions of the sides
    start_N2 = ((center_N2 - half_side_N1).clamp_min(0) * torch.tensor([H, W])).round().long()
    end_N2 = ((center_N2 + half_side_N1).clamp_max(1) * torch.tensor([H, W])).round().long()
    boxes = [
        (slice(None), slice(top, bottom), slice(left, right))
        for (top, left), (bottom, right) in zip(start_N2.tolist(), end_N2.tolist(), strict=True)
    ]
    # All boxes are copied before the first is pasted.
    patches = [images_NCHW[partner][box].clone() for partner, box in zip(partner_N.tolist(), boxes, strict=True)]
    for image_CHW, box, patch_CHW in zip(images_NCHW, boxes, patches, strict=True):
        image_CHW[box] = patch_CHW
    share_N = 1 - (end_N2 - start_N2).prod(dim=1) / (H * W)
    device = labels_N.device
    return images_NCHW, _mix_targets(labels_N, share_N.to(device), partner_N.to(device), num_classes)


def _draw_shares_and_partners(count: int, alpha: float, device: torch.device) -> tuple[Tensor, Tensor]:
    concentration_N = torch.full((count,), alpha, device=device)
    share_N = torch.distributions.Beta(concentration_N, concentration_N, validate_args=False).sample()
    return share_N, torch.randperm(count, device=device)


def _mix_targets(labels_N: Tensor, share_N: Tensor, partner_N: Tensor, num_classes: int) -> Tensor:
    onehot_NK = F.one_hot(labels_N, num_classes).float()
    return torch.lerp(onehot_NK[partner_N], onehot_NK, share_N.view(-1, 1))
