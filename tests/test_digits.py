"""The main job on a few images, and its parts on problems with known answers."""

from pathlib import Path

import matplotlib.image
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from examples.digits import influence, newton
from examples.digits.__main__ import main
from examples.digits.data import load
from examples.digits.model import Params, initial_params
from examples.digits.report import relative_error


def test_runs_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "digits.png"
    assert main(["--tiny", "--out", str(picture)]) == 0
    assert "hessian of the last layer, 640 x 640" in capsys.readouterr().out
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[0] > 500
    assert pixels.std() > 0.05


def test_a_wrong_derivative_fails_the_run(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = influence.per_sample_gradients

    def wrong(params: Params, images: Tensor, labels: Tensor) -> Tensor:
        return right(params, images, labels) * 1.01

    monkeypatch.setattr(influence, "per_sample_gradients", wrong)
    assert main(["--tiny", "--out", str(tmp_path / "digits.png")]) == 1
    assert "FAILED: per-sample gradients" in capsys.readouterr().out


def test_wrong_labels_are_as_many_as_asked() -> None:
    digits = load(100, 20, 7, torch.Generator().manual_seed(0))
    assert int(digits.wrong.sum()) == 7
    assert digits.images.shape == (100, 1, 8, 8)
    assert len(digits.test_labels) == 20


def test_per_sample_gradients_average_to_the_gradient_of_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    digits = load(12, 1, 0, generator)
    params = initial_params(generator)
    ours = influence.per_sample_gradients(params, digits.images, digits.labels)
    loop = influence.per_sample_gradients_by_loop(params, digits.images, digits.labels)
    assert ours.shape == (12, sum(p.numel() for p in params.values()))
    assert relative_error(ours, loop) < 1e-5


def test_noise_scale_of_known_gradients() -> None:
    gradients = torch.tensor([[3.0, 1.0], [3.0, -1.0]])
    # mean (3, 0), covariance trace 2
    assert influence.noise_scale(gradients) == pytest.approx(2.0 / 9.0)


def test_conjugate_gradients_solve_a_linear_system() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(8, 8, dtype=torch.float64, generator=generator)
    matrix = root @ root.t() + torch.eye(8, dtype=torch.float64)
    target = torch.randn(8, dtype=torch.float64, generator=generator)
    solution, count = newton.conjugate_gradients(lambda v: matrix @ v, target, 1e-10)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target))
    assert count <= 8


def test_newton_finds_what_scikit_learn_finds() -> None:
    digits = load(150, 1, 0, torch.Generator().manual_seed(0))
    pixels = digits.images.flatten(1).double()
    decay = 0.05
    loss = newton.regression_loss(pixels, digits.labels, decay)
    start = torch.zeros(10, 64, dtype=torch.float64)
    weights, norms, _ = newton.newton(loss, start, 20)
    peer = LogisticRegression(
        C=1.0 / (decay * len(pixels)), fit_intercept=False, tol=1e-8, max_iter=1000
    ).fit(pixels.numpy(), digits.labels.numpy())
    assert norms[-1] < 1e-9
    expected = torch.from_numpy(peer.coef_)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
