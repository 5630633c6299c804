"""The functions that are differentiated: each written once, for torch and for JAX."""

from collections.abc import Callable

from benchmarks.harness import Array, Library

Function = Callable[..., Array]


def two_layers(lib: Library) -> Function:
    """Return ``tanh(W2 tanh(W1 x))``."""
    np = lib.np
    return lambda x, w1, w2: np.tanh(w2 @ np.tanh(w1 @ x))


def elementwise(lib: Library) -> Function:
    """Return ``x sin(x)``: its Jacobian is diagonal."""
    return lambda x: x * lib.np.sin(x)


def tridiagonal(lib: Library) -> Function:
    """Return the residual of the Bratu problem ``-u'' = exp(u)`` on a grid."""
    np = lib.np

    def residual(u: Array) -> Array:
        zero = u[:1] * 0.0
        left = np.concatenate([zero, u[:-1]])
        right = np.concatenate([u[1:], zero])
        return 2.0 * u - left - right - np.exp(u) / u.shape[0] ** 2

    return residual


def arm(lib: Library) -> Function:
    """Return the position of the hand of a planar-jointed arm in space, 7 joints.

    Each joint turns about the next of the axes z and y of its link, and each link goes
    on along x.
    """
    np = lib.np

    def turn(angle: Array, axis: int, point: Array) -> Array:
        c, s = np.cos(angle), np.sin(angle)
        x, y, z = point[0], point[1], point[2]
        if axis == 2:
            return np.stack([c * x - s * y, s * x + c * y, z])
        return np.stack([c * x + s * z, y, c * z - s * x])

    def hand(angles: Array, link: Array) -> Array:
        point = link
        for joint in reversed(range(7)):
            point = link + turn(angles[joint], 2 - joint % 2, point)
        return point

    return hand


def smooth_maximum(lib: Library) -> Function:
    """Return ``log sum exp(W tanh(W x))``, a scalar function with a full Hessian."""
    np = lib.np

    def func(x: Array, weight: Array) -> Array:
        return np.log(np.exp(weight @ np.tanh(weight @ x)).sum())

    return func


def logistic_loss(lib: Library) -> Function:
    """Return the mean loss of logistic regression with a ridge."""
    np = lib.np

    def loss(w: Array, x: Array, y: Array) -> Array:
        margins = y * (x @ w)
        return np.log1p(np.exp(-margins)).mean() + 0.005 * (w**2).sum()

    return loss


def lennard_jones(lib: Library) -> Function:
    """Return the energy of atoms at positions [n, 3]."""

    def energy(positions: Array, pairs: Array) -> Array:
        gaps = positions[pairs[0]] - positions[pairs[1]]
        inverse = 1.0 / (gaps**2).sum(-1) ** 3
        return (4.0 * (inverse**2 - inverse)).sum()

    return energy
