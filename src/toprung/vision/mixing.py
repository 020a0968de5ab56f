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
    share_N, partner_N = _draw_shares_and_partners(images_NCHW, alpha)
    mixed_NCHW = torch.lerp(images_NCHW[partner_N], images_NCHW, share_N.view(-1, 1, 1, 1))
    return mixed_NCHW, _mix_targets(labels_N, share_N, partner_N, num_classes)


def cutmix(images_NCHW: Tensor, labels_N: Tensor, *, alpha: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Paste a box of another image into each image, and mix the targets by area (Yun et al. 2019).

    The box has the image's aspect ratio. Its center is anywhere, so part of it may be outside the image.

    Args:
        images_NCHW: of any type.
        labels_N: int64.
        alpha: of Beta(alpha, alpha), from which the shares of the area outside the boxes are drawn.
        num_classes: K.

    Returns:
        images_NCHW in new memory, and float targets_NK, whose rows sum to 1.
    """
    N, _, H, W = images_NCHW.shape
    share_N, partner_N = _draw_shares_and_partners(images_NCHW, alpha)
    half_side_N1 = (1 - share_N).sqrt().view(-1, 1) / 2  # as a fraction of the image's side
    is_row_NH, is_column_NW = (
        (_pixel_centers(side, images_NCHW.device) - torch.rand(N, 1, device=images_NCHW.device)).abs() < half_side_N1
        for side in (H, W)
    )
    is_box_N1HW = (is_row_NH[:, :, None] & is_column_NW[:, None, :]).unsqueeze(1)
    share_N = 1 - is_row_NH.float().mean(dim=1) * is_column_NW.float().mean(dim=1)
    pasted_NCHW = torch.where(is_box_N1HW, images_NCHW[partner_N], images_NCHW)
    return pasted_NCHW, _mix_targets(labels_N, share_N, partner_N, num_classes)


def _draw_shares_and_partners(images_NCHW: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    N = len(images_NCHW)
    concentration = torch.full((N,), alpha, device=images_NCHW.device)
    share_N = torch.distributions.Beta(concentration, concentration, validate_args=False).sample()
    return share_N, torch.randperm(N, device=images_NCHW.device)


def _pixel_centers(side: int, device: torch.device) -> Tensor:
    """Return the positions of the centers of a side's pixels, as fractions of the side."""
    return (torch.arange(side, device=device) + 0.5) / side


def _mix_targets(labels_N: Tensor, share_N: Tensor, partner_N: Tensor, num_classes: int) -> Tensor:
    onehot_NK = F.one_hot(labels_N, num_classes).float()
    return torch.lerp(onehot_NK[partner_N], onehot_NK, share_N.view(-1, 1))
