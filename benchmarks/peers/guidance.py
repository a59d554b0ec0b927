"""GSG and LCG in PyTorch: gradients of log p(labels | image) with respect to the image, summed over pixels.

A `Likelihood` is what is differentiated: a segmenter and the log-likelihood of labels under its logits, in one module
so that torch.compile sees both. Images [B,3,H,W], labels [B,H,W] int64, VOID where no class is known.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOID = 255

Gradient = Callable[[Tensor], Tensor]
"""seen image -> grad log p(labels | image), the same shape."""
Likelihoods = Callable[[Tensor, Tensor], Tensor]
"""(image, labels) -> log p(labels | image), summed over all known pixels. []"""


class Likelihood(nn.Module):
    def __init__(self, segmenter: nn.Module):
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        return -F.cross_entropy(self.segmenter(image), labels, ignore_index=VOID, reduction="sum")


def global_scene(likelihood: Likelihoods, image: Tensor, labels: Tensor) -> Tensor:
    """GSG: the gradient of log p(labels | whole image)."""
    image = image.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(likelihood(image, labels), image)[0]


def local_class_loop(likelihood: Likelihoods, image: Tensor, labels: Tensor, fill: float) -> Tensor:
    """LCG as it is written: class after class, each with a forward and a backward pass of its own."""
    gradient = torch.zeros_like(image)
    for label in labels.unique().tolist():
        if label == VOID:
            continue
        region = (labels == label)[:, None]
        mask = region.to(image.dtype)
        hidden = mask * image + (1 - mask) * fill
        slope = global_scene(likelihood, hidden, labels.where(region[:, 0], VOID))
        gradient += mask * slope
    return gradient


def present_pairs(labels: Tensor) -> Tensor:
    """All (image, class) pairs with at least one pixel. [B,H,W] -> [2,P] int64."""
    found = [(i, c) for i, one in enumerate(labels) for c in one.unique().tolist() if c != VOID]
    return torch.tensor(found, device=labels.device).reshape(-1, 2).T


def local_class_batched(
    likelihood: Likelihoods, image: Tensor, labels: Tensor, fill: float, pairs: Tensor, microbatch: int, padded: bool
) -> Tensor:
    """LCG over present (image, class) pairs, `microbatch` of them at once.

    padded: fill the last microbatch up with empty regions, so that a compiled likelihood sees one shape.
    """
    gradient = torch.zeros_like(image)
    for some in pairs.split(microbatch, dim=1):
        if padded and some.shape[1] < microbatch:
            some = torch.cat([some, some.new_tensor([[0], [-1]]).expand(2, microbatch - some.shape[1])], dim=1)
        index, label = some
        own = labels[index]
        region = own == label[:, None, None]
        hidden = torch.where(region[:, None], image[index], fill)
        slope = global_scene(likelihood, hidden, own.where(region, VOID))
        gradient.index_add_(0, index, slope * region[:, None])
    return gradient
