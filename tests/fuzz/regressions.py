"""Cases that failed once, as the fuzzer printed them."""

from tests.fuzz.program import Input, Op, Program
from tests.fuzz.stack import Case, Layer

CASES: dict[str, Case] = {
    "pow_ took the out-of-place form of another signature": Case(
        Program((Input(()),), (Op("clone", (0,)), Op("square_", (1,))), (2,)),
        (Layer("hessian", (0,)),),
    ),
    "a constant took the name of a captured tensor": Case(
        Program(
            (Input((2, 2)), Input((2,)), Input((2, 3))),
            (Op("add", (1, 1)),),
            (3, 3),
        ),
        (Layer("vjp", (0, 1, 2)), Layer("grad_and_value", (0, 1, 2))),
        jit=True,
    ),
    "outer results with several outputs could not be written": Case(
        Program(
            (Input((4,), seed=160), Input((4,), seed=355)),
            (
                Op("layer_norm_affine", (0, 0, 0), (("n", 4),)),
                Op("add_", (2, 1)),
            ),
            (3,),
        ),
        (Layer("jacfwd", (1,)),),
        jit=True,
    ),
    "an empty bmm had no shape": Case(
        Program(
            (Input((2, 0)),),
            (Op("diag_embed", (0,)), Op("matmul", (1, 1))),
            (2,),
        ),
        (Layer("vmap", in_dims=(0,), out_dims=(0,), size=2),),
    ),
    "squeeze_ on a view was a write into its base": Case(
        Program(
            (Input((2, 2)),),
            (
                Op("sin", (0,)),
                Op("basic_index", (1,), (("index", ":, 1:"),)),
                Op("squeeze_", (2,)),
            ),
            (3,),
        ),
        (Layer("grad", (0,)),),
    ),
    "an index that vmap shares was read as a number": Case(
        Program(
            (Input((2,)), Input((), "int64", 16)),
            (Op("by_tensor", (0, 1), (("n", 2),)),),
            (2,),
        ),
        (Layer("vmap", in_dims=(0, None), out_dims=(0,), size=2),),
        jit=True,
    ),
    "a tangent lost its derivative in a write under no_grad": Case(
        Program(
            (Input((2, 2)),),
            (Op("cosine_similarity", (0, 0), (("dim", 0),)),),
            (1,),
        ),
        (Layer("jacfwd", (0,)), Layer("grad", (0,))),
    ),
    "a strided view of a batch was read as if in order": Case(
        Program(
            (Input((3, 3)),),
            (Op("clone", (0,)), Op("fill_diagonal_", (1,), (("c", -0.7),))),
            (1,),
        ),
        (
            Layer("vmap", in_dims=(2,), out_dims=(0,), size=3),
            Layer("vjp", (0,)),
        ),
    ),
    "a write left a constant whose strides were no longer its value's": Case(
        Program(
            (Input((2, 2)),),
            (
                Op("scale", (0,), (("c", 0.5),)),
                Op("zero_", (1,)),
                Op("fill_diagonal_", (2,), (("c", 0.5),)),
            ),
            (3,),
        ),
        (
            Layer("grad", (0,)),
            Layer("vmap", in_dims=(-1,), out_dims=(0,), size=2),
        ),
    ),
    "a handle of a part began where its whole did": Case(
        Program(
            (Input((2, 3)),),
            (
                Op("clone", (0,)),
                Op("split", (1,), (("n", 1), ("dim", 0), ("i", -1))),
                Op("fill_diagonal_", (2,), (("c", 2.0),)),
            ),
            (1, 3),
        ),
        (Layer("vjp", (0,)),),
    ),
    "a sum over the last dim of a tensor without dims": Case(
        Program(
            (Input(()),),
            (Op("cosine_similarity", (0, 0), (("dim", -1),)),),
            (1,),
        ),
        (Layer("grad", (0,)),),
        jit=True,
    ),
    "a mask of a tensor without dims was an index too many": Case(
        Program(
            (Input((), seed=0),),
            (
                Op("sin", (0,)),
                Op("gt", (1, 0)),
                Op("clone", (0,)),
                Op("setitem_mask", (3, 2), (("c", 0.5),)),
            ),
            (4,),
        ),
        (Layer("jacrev", (0,)),),
        jit=True,
    ),
}
