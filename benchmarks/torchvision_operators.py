"""The names of torchvision's compiled operators.

They do not load beside a torch for processors alone, and importing torchvision, as Avalanche and CapyMOA do, asks for their names
and nothing more. Import this first.
"""

from __future__ import annotations

from torch import library

LIBRARY = library.Library("torchvision", "DEF")
for operator in (
    "nms",
    "qnms",
    "roi_align",
    "_roi_align_backward",
    "ps_roi_align",
    "_ps_roi_align_backward",
    "roi_pool",
    "_roi_pool_backward",
    "ps_roi_pool",
    "_ps_roi_pool_backward",
    "deform_conv2d",
    "_deform_conv2d_backward",
):
    LIBRARY.define(f"{operator}(Tensor x) -> Tensor")
