"""What holds for every operator with a kernel: laws, tracing, counting, dispatch."""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import jaxtorch
from benchmarks.kernels import FAMILIES
from benchmarks.kernels.__main__ import PAGE, render
from benchmarks.kernels.cases import Case
from jaxtorch.kernels import FAMILIES as KERNEL_FAMILIES
from jaxtorch.kernels import OPERATORS, linalg
from jaxtorch.kernels.operator import first_of, tensors_of
from jaxtorch.rules.table import TABLE
from tests.coverage import finished
from tests.kernels.harness import DEVICE, check
from tests.law_cases import NotApplicableError, differentiable
from tests.laws import LAWS

CASES = [case for family in FAMILIES.values() for case in family.CASES]
FIRST = {case.operator: case for case in reversed(CASES)}
LABELS = [case.name for case in CASES]


def law_case(case: Case):
    """Make a case of the laws of the tiny call, in float64."""
    examples = []
    for seed in range(2):
        torch.manual_seed(seed)
        tensors = tensors_of(case.arguments("cpu", tiny=True))
        examples.append(
            tuple(t.double() if t.is_floating_point() else t for t in tensors)
        )

    def func(*tensors):
        if case.inside is not None:
            tensors = [case.inside(t) for t in tensors]
        out = case.kernel.overload(*case.call(tensors))
        return list(out) if isinstance(out, (list, tuple)) else [out]

    return finished(case.operator, func, examples)


def shapes(out):
    """Return the shapes of the results."""
    return [t.shape for t in tensors_of((out,))]


def test_every_family_has_sizes():
    assert list(FAMILIES) == list(KERNEL_FAMILIES)
    assert set(FIRST) == set(OPERATORS)
    assert len(set(LABELS)) == len(LABELS)


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render(), "python -m benchmarks.kernels"


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_a_record(name):
    record = TABLE[OPERATORS[name].overload]
    assert record.batch is not None
    assert record.linearize is not None or record.decompose is not None


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", OPERATORS)
def test_law(name, law):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            LAWS[law](law_case(FIRST[name]))
    except NotApplicableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("case", CASES, ids=LABELS)
def test_tiny(case):
    args = case.arguments(DEVICE, tiny=True)
    out = first_of((check(case.operator, *args),))
    for peer in case.peers.values():
        atol = 3e-2 * float(out.abs().max())
        torch.testing.assert_close(
            peer(*args), out, rtol=3e-2, atol=atol, check_dtype=False
        )


@pytest.mark.parametrize("name", OPERATORS)
def test_flops_are_counted(name):
    case = FIRST[name]
    with FlopCounterMode(display=False) as counter:
        case.kernel.overload(*case.arguments("meta"))
    assert counter.get_total_flops() == case.flops()


@pytest.mark.parametrize("name", OPERATORS)
def test_fake_tensors(name):
    case = FIRST[name]
    args = case.arguments("cpu", tiny=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = case.kernel.overload(*args)
    made = case.kernel.overload(*args)
    assert shapes(fake) == shapes(made)


@pytest.mark.parametrize("name", OPERATORS)
def test_jit_names_the_kernel(name):
    case = FIRST[name]
    args = case.arguments("cpu", tiny=True)
    with jaxtorch.kernels_mode("force"):
        lowered = jaxtorch.jit(case.kernel.overload, backend="python").lower(*args)
    targets = [str(node.target) for node in lowered.graph.nodes]
    assert f"jaxtorch.{name}.default" in targets
    torch.testing.assert_close(
        jaxtorch.jit(case.kernel.overload)(*args), case.kernel.overload(*args)
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_other_dtypes_run_the_reference(name):
    case = law_case(FIRST[name])
    operator = OPERATORS[name]
    args = case.examples[0]
    dtype = torch.float64
    if hasattr(linalg, name):
        dtype = torch.complex128
        args = tuple(t.to(dtype) if t.is_floating_point() else t for t in args)
    assert not operator.supports(*FIRST[name].call(args))
    with jaxtorch.kernels_mode("force"):
        outs = case.func(*args)
    assert {out.dtype for out in outs if differentiable(out)} == {dtype}
