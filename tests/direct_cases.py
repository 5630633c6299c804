"""Cases of overloads that no operator of PyTorch's database reaches."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
DOUBLE = torch.float64

Make = Callable[[], Sequence[Tensor]]
Direct = tuple[Callable[..., Any], Make]


def normal(*shapes: Sequence[int]) -> Make:
    """Draw one float64 tensor of each shape."""
    return lambda: [torch.randn(tuple(shape), dtype=DOUBLE) for shape in shapes]


def positive(*shapes: Sequence[int]) -> Make:
    """Draw float64 tensors of numbers between 0.1 and 0.9."""
    return lambda: [
        torch.rand(tuple(shape), dtype=DOUBLE) * 0.8 + 0.1 for shape in shapes
    ]


def integers(*shapes: Sequence[int], high: int = 9) -> Make:
    """Draw tensors of small integers."""
    return lambda: [torch.randint(0, high, shape) for shape in shapes]


def scalar_first(overload: Any, make: Make, scalar: Any = 2) -> Direct:
    """Call a binary overload with a number in the first place."""
    return lambda y: overload(scalar, y), make


def scalar_second(overload: Any, make: Make, scalar: Any = 2) -> Direct:
    """Call a binary overload with a number in the second place."""
    return lambda x: overload(x, scalar), make


INTEGER: dict[str, Direct] = {}
for _name in ("and", "or", "xor", "left_shift", "right_shift"):
    _packet = getattr(aten, f"bitwise_{_name}")
    INTEGER[f"bitwise_{_name}.Scalar_Tensor"] = scalar_first(
        _packet.Scalar_Tensor, integers((3,), high=3)
    )
    _scalar = "Tensor_Scalar" if "shift" in _name else "Scalar"
    INTEGER[f"bitwise_{_name}.{_scalar}"] = scalar_second(
        getattr(_packet, _scalar), integers((3,))
    )
for _name in ("and", "or", "xor", "lshift", "rshift"):
    _packet = getattr(aten, f"__{_name}__")
    INTEGER[f"__{_name}__.Scalar"] = scalar_second(_packet.Scalar, integers((3,)))
    INTEGER[f"__{_name}__.Tensor"] = (
        _packet.Tensor,
        integers((2, 3), (3,), high=4),
    )

POLYNOMIALS: dict[str, Direct] = {}
for _name in (
    *(f"chebyshev_polynomial_{k}" for k in "tuvw"),
    *(f"shifted_chebyshev_polynomial_{k}" for k in "tuvw"),
    "hermite_polynomial_h",
    "hermite_polynomial_he",
    "laguerre_polynomial_l",
    "legendre_polynomial_p",
):
    _packet = getattr(aten, f"special_{_name}")
    POLYNOMIALS[f"special_{_name}.n_scalar"] = scalar_second(
        _packet.n_scalar, positive((3,)), 3
    )
    POLYNOMIALS[f"special_{_name}.x_scalar"] = scalar_first(
        _packet.x_scalar, integers((3,), high=4), 0.3
    )

SCALARS: dict[str, Direct] = {
    "bucketize.Scalar": (
        lambda b: aten.bucketize.Scalar(0.3, b.cumsum(-1)),
        positive((4,)),
    ),
    "copysign.Scalar": scalar_second(aten.copysign.Scalar, normal((3,)), -2.0),
    "div.Scalar_mode": (
        lambda x: aten.div.Scalar_mode(x, 0.7, rounding_mode="floor"),
        normal((3,)),
    ),
    "floor_divide.Scalar": scalar_second(aten.floor_divide.Scalar, normal((3,)), 0.7),
    "fmod.Scalar": scalar_second(aten.fmod.Scalar, normal((3,)), 0.7),
    "isin.Scalar_Tensor": scalar_first(aten.isin.Scalar_Tensor, integers((4,)), 3),
    "isin.Tensor_Scalar": scalar_second(aten.isin.Tensor_Scalar, integers((4,)), 3),
    "norm.Scalar": scalar_second(aten.norm.Scalar, normal((3, 2)), 3),
    "norm.ScalarOpt_dtype": (
        lambda x: aten.norm.ScalarOpt_dtype(x, 2, dtype=DOUBLE),
        normal((3, 2)),
    ),
    "norm.ScalarOpt_dim_dtype": (
        lambda x: aten.norm.ScalarOpt_dim_dtype(x, 2, [1], True, dtype=DOUBLE),
        normal((3, 2)),
    ),
    "remainder.Scalar_Tensor": scalar_first(
        aten.remainder.Scalar_Tensor, positive((3,)), 1.7
    ),
    "scatter.value_reduce": (
        lambda x: aten.scatter.value_reduce(
            x, 0, torch.tensor([[0, 1], [1, 1]]), 3.0, reduce="add"
        ),
        normal((3, 2)),
    ),
    "searchsorted.Scalar": (
        lambda b: aten.searchsorted.Scalar(b.cumsum(-1), 0.3),
        positive((4,)),
    ),
    "special_xlog1py.other_scalar": scalar_second(
        aten.special_xlog1py.other_scalar, normal((3,)), 0.5
    ),
    "special_xlog1py.self_scalar": scalar_first(
        aten.special_xlog1py.self_scalar, positive((3,)), 0.5
    ),
    "special_zeta.other_scalar": scalar_second(
        aten.special_zeta.other_scalar, lambda: [positive((3,))()[0] + 2], 1.5
    ),
    "special_zeta.self_scalar": scalar_first(
        aten.special_zeta.self_scalar, positive((3,)), 2.5
    ),
    "xlogy.Scalar_Other": scalar_second(aten.xlogy.Scalar_Other, normal((3,)), 0.5),
    "xlogy.Scalar_Self": scalar_first(aten.xlogy.Scalar_Self, positive((3,)), 0.5),
}

CTC = ([5, 5], [2, 3])


def ctc(logits: Tensor) -> Any:
    """Call the kernel of the CTC loss."""
    targets = torch.tensor([[1, 2, 1], [3, 3, 1]])
    return aten._ctc_loss.default(logits.log_softmax(-1), targets, *CTC)[0]


def ctc_tensor(logits: Tensor) -> Any:
    """Call it with lengths in tensors."""
    targets = torch.tensor([[1, 2, 1], [3, 3, 1]])
    lengths = [torch.tensor(own) for own in CTC]
    return aten._ctc_loss.Tensor(logits.log_softmax(-1), targets, *lengths)[0]


def running() -> list[Tensor]:
    """Draw input, weight, bias, running mean and running variance."""
    one = positive((3,))
    return [torch.randn(4, 3, dtype=DOUBLE), one()[0], one()[0], one()[0], one()[0]]


def attention_operands() -> list[Tensor]:
    """Draw an input, and the four parameters of a multi-head attention of 2 heads."""
    shapes = ((1, 3, 4), (12, 4), (12,), (4, 4), (4,))
    return [torch.randn(*shape, dtype=DOUBLE) for shape in shapes]


def multi_head(x: Tensor, *parameters: Tensor) -> Any:
    """Call the fast path of multi-head attention."""
    return aten._native_multi_head_attention.default(
        x, x, x, 4, 2, *parameters, None, False
    )[0]


def encoder_layer(x: Tensor, *parameters: Tensor) -> Any:
    """Call the fast path of a transformer's encoder layer."""
    norm = torch.linspace(0.5, 1.5, 4, dtype=DOUBLE)
    wide = torch.linspace(-1, 1, 24, dtype=DOUBLE)
    return aten._transformer_encoder_layer_fwd.default(
        x,
        4,
        2,
        *parameters,
        True,
        False,
        1e-5,
        *(norm, norm, norm, norm),
        *(wide.reshape(6, 4), wide[:6], wide.reshape(4, 6), wide[:4]),
    )


KERNELS: dict[str, Direct] = {
    "tanh_backward": (
        lambda g, x: aten.tanh_backward.default(g, torch.tanh(x)),
        normal((3,), (3,)),
    ),
    "_batch_norm_no_update": (
        lambda *t: aten._batch_norm_no_update.default(*t, 0.1, 1e-5)[0],
        running,
    ),
    "_batch_norm_with_update_functional": (
        lambda *t: aten._batch_norm_with_update_functional.default(*t, 0.1, 1e-5)[0],
        running,
    ),
    "_native_batch_norm_legit.no_stats": (
        lambda *t: aten._native_batch_norm_legit.no_stats(*t[:3], True, 0.1, 1e-5)[0],
        running,
    ),
    "_native_batch_norm_legit_functional": (
        lambda *t: aten._native_batch_norm_legit_functional.default(
            *t, True, 0.1, 1e-5
        )[0],
        running,
    ),
    "_native_batch_norm_legit_no_training": (
        lambda *t: aten._native_batch_norm_legit_no_training.default(*t, 0.1, 1e-5)[0],
        running,
    ),
    "_ctc_loss": (ctc, normal((5, 2, 4))),
    "_ctc_loss.Tensor": (ctc_tensor, normal((5, 2, 4))),
    "_fused_rms_norm": (
        lambda x, w: aten._fused_rms_norm.default(x, [3], w, 1e-5)[0],
        normal((2, 3), (3,)),
    ),
    "_linalg_eigvals": (
        lambda x: aten._linalg_eigvals.default(x @ x.mT).abs().sum(),
        normal((3, 3)),
    ),
    "_native_multi_head_attention": (multi_head, attention_operands),
    "_transformer_encoder_layer_fwd": (encoder_layer, attention_operands),
    "_neg_view": (aten._neg_view.default, normal((3,))),
    "_standard_gamma_grad": (aten._standard_gamma_grad.default, positive((3,), (3,))),
    "_unsafe_index.Tensor": (
        lambda x: aten._unsafe_index.Tensor(x, [torch.tensor([0, 2, 2])]),
        normal((3, 2)),
    ),
    "_unsafe_index_put": (
        lambda x, v: aten._unsafe_index_put.default(x, [torch.tensor([0, 2])], v),
        normal((3, 2), (2, 2)),
    ),
    "_upsample_bicubic2d_aa": (
        lambda x: aten._upsample_bicubic2d_aa.default(x, [2, 3], False),
        normal((1, 2, 4, 5)),
    ),
    "_upsample_lanczos2d_aa": (
        lambda x: aten._upsample_lanczos2d_aa.default(x, [2, 3], False),
        normal((1, 2, 4, 5)),
    ),
    "argsort": (lambda x: aten.argsort.default(x, -1, True), normal((4,))),
    "argsort.stable": (
        lambda x: aten.argsort.stable(x, stable=True, dim=0),
        normal((4, 2)),
    ),
    "conv_tbc": (
        lambda x, w, b: aten.conv_tbc.default(x, w, b, 1),
        normal((5, 2, 3), (3, 3, 2), (2,)),
    ),
    "fill.Tensor": (aten.fill.Tensor, normal((3,), ())),
    "lift": (aten.lift.default, normal((3,))),
    "lift_fresh_copy": (aten.lift_fresh_copy.default, normal((3,))),
    "linear": (aten.linear.default, normal((2, 3), (4, 3), (4,))),
    "zero": (aten.zero.default, normal((3,))),
    "_dirichlet_grad": (
        lambda x, a: aten._dirichlet_grad.default(x, a, a.sum(-1, True).expand(3)),
        positive((3,), (3,)),
    ),
    "_prelu_kernel_backward": (
        aten._prelu_kernel_backward.default,
        normal((3,), (3,), (3,)),
    ),
    "_scaled_dot_product_flash_attention_for_cpu": (
        lambda q, k, v: aten._scaled_dot_product_flash_attention_for_cpu.default(
            q, k, v
        )[0],
        normal((1, 2, 3, 2), (1, 2, 3, 2), (1, 2, 3, 2)),
    ),
    "all.dims": (lambda x: aten.all.dims(x > 0, [0, 1]), normal((2, 3))),
    "any.dims": (lambda x: aten.any.dims(x > 0, [0], True), normal((2, 3))),
    "count_nonzero.dim_IntList": (
        lambda x: aten.count_nonzero.dim_IntList(x, [0, 1]),
        integers((2, 3), high=2),
    ),
    "embedding_renorm": (
        lambda w: aten.embedding_renorm.default(w, torch.tensor([0, 2]), 1.0, 2.0),
        normal((3, 2)),
    ),
    "new_empty_strided": (
        lambda x: aten.new_empty_strided.default(x, [3], [1]).shape[0] + x,
        normal((3,)),
    ),
    "polygamma_": (lambda x: x.clone().polygamma_(1), positive((3,))),
    "reflection_pad3d": (
        lambda x: aten.reflection_pad3d.default(x, [1, 0, 1, 1, 0, 1]),
        normal((1, 2, 2, 3)),
    ),
    "replication_pad3d": (
        lambda x: aten.replication_pad3d.default(x, [1, 0, 2, 1, 0, 1]),
        normal((1, 2, 2, 3)),
    ),
    "rrelu_with_noise_backward": (
        lambda g, x: aten.rrelu_with_noise_backward.default(
            g, x, torch.full_like(x, 0.25), 0.1, 0.3, True, False
        ),
        normal((3,), (3,)),
    ),
    "rrelu_with_noise_functional": (
        lambda x: aten.rrelu_with_noise_functional.default(x, torch.ones_like(x))[0],
        normal((3,)),
    ),
}


def random_call(name: str) -> Direct:
    """Call a random overload that takes one tensor."""
    packet, _, own = name.partition(".")
    return getattr(getattr(aten, packet), own or "default"), positive((3,))


GENERATED: dict[str, Callable[[Tensor, torch.Generator], Any]] = {
    "rand.generator": lambda x, g: x + aten.rand.generator([3], generator=g),
    "randint.generator": lambda x, g: x + aten.randint.generator(9, [3], generator=g),
    "randint.low_generator": (
        lambda x, g: x + aten.randint.low_generator(2, 9, [3], generator=g)
    ),
    "randperm.generator": lambda x, g: x + aten.randperm.generator(3, generator=g),
    "rand_like.generator": lambda x, g: aten.rand_like.generator(x, generator=g),
    "randn_like.generator": lambda x, g: aten.randn_like.generator(x, generator=g),
    "randint_like.generator": (
        lambda x, g: aten.randint_like.generator(x, 9, generator=g)
    ),
    "randint_like.low_generator_dtype": (
        lambda x, g: aten.randint_like.low_generator_dtype(x, 2, 9, generator=g)
    ),
    "randint_like.Tensor_generator": (
        lambda x, g: aten.randint_like.Tensor_generator(x, torch.tensor(9), generator=g)
    ),
}
RANDOM: dict[str, Direct] = {
    **{
        name: random_call(name)
        for name in (
            "_standard_gamma",
            "_sample_dirichlet",
            "bernoulli.Tensor",
            "poisson",
            "rand_like",
            "random",
        )
    },
    "bernoulli.Tensor": (
        lambda x: aten.bernoulli.Tensor(torch.zeros_like(x), x),
        positive((3,)),
    ),
    "binomial": (
        lambda p: aten.binomial.default(torch.full_like(p, 9.0), p),
        positive((3,)),
    ),
    "native_dropout": (
        lambda x: aten.native_dropout.default(x, 0.5, True)[0],
        normal((6,)),
    ),
    "normal.float_Tensor": (
        lambda s: aten.normal.float_Tensor(1.0, s),
        positive((3,)),
    ),
    "random.from": (
        lambda x: getattr(aten.random, "from")(x, 2, 9),
        normal((3,)),
    ),
    "random.to": (lambda x: aten.random.to(x, 9), normal((3,))),
    "randint_like.Tensor": (
        lambda x: aten.randint_like.Tensor(x, torch.tensor(9)),
        normal((3,)),
    ),
    "normal.float_float": (
        lambda x: x + aten.normal.float_float(1.0, 2.0, [3], dtype=DOUBLE),
        normal((3,)),
    ),
    **{
        name: (
            lambda x, call=call: call(x, torch.Generator().manual_seed(3)),
            normal((3,)),
        )
        for name, call in GENERATED.items()
    },
    "randint": (lambda x: x + aten.randint.default(9, [3]), normal((3,))),
    "randint.low": (lambda x: x + aten.randint.low(2, 9, [3]), normal((3,))),
    "randint_like.low_dtype": (
        lambda x: aten.randint_like.low_dtype(x, 2, 9),
        normal((3,)),
    ),
    "randperm": (
        lambda x: x + aten.randperm.default(3, device="cpu"),
        normal((3,)),
    ),
}

SPARSE: dict[str, Direct] = {
    "_to_sparse.sparse_dim": (lambda x: x.to_sparse(1).to_dense(), normal((2, 3))),
    "_to_dense": (
        lambda x: x.to_sparse().to_dense(masked_grad=False),
        normal((2, 3)),
    ),
    "sparse_mask": (
        lambda x, mask: x.sparse_mask(mask.relu().to_sparse()).to_dense(),
        normal((2, 3), (2, 3)),
    ),
    "_sparse_addmm": (
        lambda x, a, b: torch.sparse.addmm(x, a.to_sparse(), b, beta=0.5, alpha=2),
        normal((2, 4), (2, 3), (3, 4)),
    ),
}

DIRECT: dict[str, Direct] = {
    **INTEGER,
    **POLYNOMIALS,
    **SCALARS,
    **KERNELS,
    **RANDOM,
    **SPARSE,
}
