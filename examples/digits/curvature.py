"""Jacobians of the scores by the pixels, and the Hessian of the last layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import jaxtorch
from examples.digits.data import Digits
from examples.digits.model import Params, features, logits
from examples.digits.report import Row, check


@dataclass(frozen=True)
class Curvature:
    """What first and second derivatives show.

    Attributes:
        saliency: gradient by the pixels of (best score - second best), [n, 8, 8].
        distance: how far each image is from the border between them, to first order.
        eigenvalues: of the Hessian of the loss by the last layer, ascending.
    """

    saliency: Tensor
    distance: Tensor
    eigenvalues: Tensor


def scores_of(params: Params) -> Callable[[Tensor], Tensor]:
    """Return the scores of one image of shape [1, 8, 8] as a function of it."""
    return lambda image: logits(params, image.unsqueeze(0)).squeeze(0)


def input_jacobians(params: Params, images: Tensor) -> Tensor:
    """Return the Jacobian of every image's scores, shape [n, 10, 1, 8, 8]."""
    jacobians: Tensor = jaxtorch.vmap(jaxtorch.jacrev(scores_of(params)))(images)
    return jacobians


def input_jacobians_by_loop(params: Params, images: Tensor) -> Tensor:
    """The same with torch.autograd, one image and one score after the other."""
    scores = scores_of(params)
    return torch.stack(
        [torch.autograd.functional.jacobian(scores, image) for image in images]
    )


def margins(params: Params, images: Tensor, jacobians: Tensor) -> tuple[Tensor, Tensor]:
    """Return the margin's gradient and the distance to the border to first order.

    Source: Moosavi-Dezfooli et al., DeepFool, 2016, for the two best classes.
    """
    best, order = logits(params, images).topk(2, dim=1)
    row = torch.arange(len(images))
    saliency = (jacobians[row, order[:, 0]] - jacobians[row, order[:, 1]]).squeeze(1)
    distance = (best[:, 0] - best[:, 1]) / saliency.flatten(1).norm(dim=1)
    return saliency, distance


def last_layer_loss(
    params: Params, digits: Digits, sample: int
) -> Callable[..., Tensor]:
    """Return the loss of ``sample`` images as a function of the last weights."""
    inputs = features(params, digits.images[:sample]).detach()
    bias, labels = params["linear.bias"], digits.labels[:sample]
    return lambda weights: F.cross_entropy(F.linear(inputs, weights, bias), labels)


def study(
    params: Params, digits: Digits, sample: int, layer_sample: int
) -> tuple[Curvature, list[Row]]:
    """Check Jacobians of ``sample`` images and the Hessian of ``layer_sample``."""
    images = digits.test_images[:sample]
    jacobians = input_jacobians(params, digits.test_images)
    saliency, distance = margins(params, digits.test_images, jacobians)
    jacobian_row = check(
        f"vmap(jacrev) by the pixels, {sample} images",
        f"median distance to the border {distance.median():.2f} (pixels in 0..1)",
        lambda: input_jacobians(params, images),
        lambda: input_jacobians_by_loop(params, images),
    )
    loss = last_layer_loss(params, digits, layer_sample)
    weights = params["linear.weight"]
    hessian = jaxtorch.hessian(loss)(weights)
    size = weights.numel()
    eigenvalues = torch.linalg.eigvalsh(hessian.reshape(size, size).double())
    hessian_row = check(
        f"hessian of the last layer, {size} x {size}",
        f"top eigenvalue {eigenvalues[-1]:.3g}, trace {eigenvalues.sum():.3g}",
        lambda: jaxtorch.hessian(loss)(weights),
        lambda: torch.autograd.functional.hessian(loss, weights),
        rounds=2,
    )
    return Curvature(saliency, distance, eigenvalues), [jacobian_row, hessian_row]
