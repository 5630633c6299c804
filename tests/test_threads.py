"""Threads: each has its own levels; an error in one leaves the others alone."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, hessian, jacfwd, jvp, vjp, vmap
from jaxtorch.core.level import STATE

ROUNDS = 20


def work(seed: int, meet: Callable[[], Any]) -> None:
    """Run nests that meet the other threads in their middle."""
    made = torch.Generator().manual_seed(seed)
    for _ in range(ROUNDS):
        x = torch.randn(3, 2, generator=made)

        def func(x: Tensor) -> Tensor:
            y = x.sin()
            meet()
            z = torch.zeros(2)
            z += y
            return (z * x).sum()

        expected = x.sin() + x * x.cos()
        assert_close(vmap(grad(func))(x), expected)
        assert_close(grad(lambda x: vmap(func)(x).sum())(x), expected)
        assert_close(jvp(func, (x[0],), (x[1],))[1], (expected[0] * x[1]).sum())
        assert_close(
            vmap(hessian(func))(x), torch.diag_embed(2 * x.cos() - x * x.sin())
        )
        assert STATE.levels == []


def test_four_threads_at_once() -> None:
    barrier = threading.Barrier(4)

    def meet() -> None:
        barrier.wait(timeout=60)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, seed, meet) for seed in range(4)]:
            future.result(timeout=120)
    assert STATE.levels == []


class OwnError(Exception):
    """An error in the middle of a nest."""


def test_one_thread_raises_in_the_middle_of_a_nest() -> None:
    barrier = threading.Barrier(4)
    depths = []

    def meet() -> None:
        barrier.wait(timeout=60)

    def failing() -> None:
        def func(x: Tensor) -> Tensor:
            meet()
            depths.append(len(STATE.levels))
            raise OwnError

        for _ in range(ROUNDS * 4):
            with pytest.raises(OwnError):
                vmap(jacfwd(vmap(grad(func))))(torch.ones(2, 2))
            assert STATE.levels == []

    rounds = lambda seed: work(seed, meet)  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(rounds, seed) for seed in range(3)]
        futures.append(pool.submit(failing))
        for future in futures:
            future.result(timeout=120)
    assert depths == [5] * ROUNDS * 4


def test_levels_of_one_thread_are_not_seen_by_another() -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append(list(STATE.levels))
        seen.append(type(torch.ones(2) + 1))

    def func(x: Tensor) -> Tensor:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return x * 2

    vmap(func)(torch.ones(2))
    assert seen == [[], Tensor]


def test_pull_made_in_one_thread_is_called_in_another() -> None:
    x = torch.randn(3)
    with ThreadPoolExecutor(1) as pool:
        _, pull = pool.submit(vjp, torch.sin, x).result()
        assert_close(pool.submit(pull, torch.ones(3)).result(), (x.cos(),))
    assert_close(pull(torch.ones(3)), (x.cos(),))


def test_backward_threads_of_torch_autograd() -> None:
    w = torch.randn(3, requires_grad=True)

    def step(seed: int) -> Tensor:
        x = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
        out = vmap(grad(lambda a: (a.sin() * w**2).sum()))(x)
        (got,) = torch.autograd.grad(out.sum(), w)
        return got - (2 * w.detach() * x.cos().sum(0))

    with ThreadPoolExecutor(4) as pool:
        for error in pool.map(step, range(20)):
            assert_close(error, torch.zeros(3), atol=1e-5, rtol=0)
