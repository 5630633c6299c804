"""What the core must know of an overload besides its record: read off its schema."""

import enum
from typing import Any

import torch
from torch._ops import OpOverload

from jaxtorch.rules.record import Record
from jaxtorch.rules.table import record_of


class Kind(enum.IntEnum):
    """How dispatch treats a call; zero is the plain functional case."""

    FUNCTIONAL = 0
    VIEW = 1
    MUTATION = 2
    RANDOM = 3
    OUT = 4


class Primitive:
    """An overload, its record, its kind, and the functional twin of an in-place op."""

    __slots__ = (
        "overload",
        "record",
        "kind",
        "plain",
        "simple",
        "batch",
        "linearize",
        "functional",
        "defaults",
        "select",
        "by_strides",
    )

    def __init__(self, overload: OpOverload, record: Record | None) -> None:
        self.overload = overload
        self.record = record
        self.batch = record.batch if record else None
        self.linearize = record.linearize if record else None
        self.kind = kind_of(overload)
        self.plain = self.kind is Kind.FUNCTIONAL
        self.by_strides = record.decompose if record and record.by_strides else None
        self.simple = self.plain and self.by_strides is None
        self.functional = (
            functional_twin(overload) if self.kind is Kind.MUTATION else None
        )
        self.defaults = missing_defaults(overload, self.functional)
        self.select: Any = None

    def read_by(self, select: Any) -> None:
        """Let ``select(*args)`` put off a read by a mask; None where it does not."""
        self.select = select
        self.simple = False


def kind_of(overload: OpOverload) -> Kind:
    """Read the kind off the schema and the tags."""
    schema = overload._schema
    writes = [a for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    if writes:
        return Kind.OUT if any(a.is_out for a in writes) else Kind.MUTATION
    if torch.Tag.nondeterministic_seeded in overload.tags:
        # A composite draws in the operators that it is made of.
        return Kind.FUNCTIONAL if overload._can_decompose() else Kind.RANDOM
    first = schema.arguments[0] if schema.arguments else None
    aliased = any(r.alias_info is not None for r in schema.returns)
    if aliased and first is not None and first.alias_info is not None:
        return Kind.VIEW
    return Kind.FUNCTIONAL


def functional_twin(overload: OpOverload) -> OpOverload | None:
    """Return the out-of-place overload of an in-place one: ``add_`` -> ``add``."""
    twin = FUNCTIONAL_TWINS.get(overload)
    if twin is not None:
        return twin
    namespace, _, name = overload._schema.name.partition("::")
    own = overload._schema.overload_name or "default"
    ops = getattr(torch.ops, namespace)
    for packet_name in (name.removesuffix("_"), f"{name}functional"):
        packet = getattr(ops, packet_name, None)
        if packet is not None and own in packet.overloads():
            twin = getattr(packet, own)
            fits = kind_of(twin) is not Kind.MUTATION and same_types(overload, twin)
            return twin if fits else None
    return None


def same_types(overload: OpOverload, twin: OpOverload) -> bool:
    """Tell whether a twin takes what the overload takes: ``pow.Scalar`` does not."""
    own = [str(a.type) for a in overload._schema.arguments]
    return own == [str(a.type) for a in twin._schema.arguments]


def missing_defaults(
    overload: OpOverload, twin: OpOverload | None
) -> tuple[Any, ...] | None:
    """Return the defaults of ``overload`` where its twin lacks one, else None."""
    if twin is None:
        return None
    own = [a for a in overload._schema.arguments if not a.kwarg_only]
    other = [a for a in twin._schema.arguments if not a.kwarg_only]
    if len(own) != len(other) or all(
        a.has_default_value() == b.has_default_value()
        for a, b in zip(own, other, strict=True)
    ):
        return None
    return tuple(a.default_value if a.has_default_value() else None for a in own)


aten = torch.ops.aten

# In-place overloads whose out-of-place form has another name.
FUNCTIONAL_TWINS: dict[OpOverload, OpOverload] = {
    aten.__ilshift__.Scalar: aten.__lshift__.Scalar,
    aten.__ilshift__.Tensor: aten.__lshift__.Tensor,
    aten.__irshift__.Scalar: aten.__rshift__.Scalar,
    aten.__irshift__.Tensor: aten.__rshift__.Tensor,
    aten.bernoulli_.float: aten.bernoulli.p,
    aten.float_power_.Scalar: aten.float_power.Tensor_Scalar,
    aten.float_power_.Tensor: aten.float_power.Tensor_Tensor,
    aten.floor_divide_.Tensor: aten.floor_divide.default,
    aten.ldexp_.default: aten.ldexp.Tensor,
    aten.normal_.default: aten.normal_functional.default,
    aten.pow_.Scalar: aten.pow.Tensor_Scalar,
    aten.pow_.Tensor: aten.pow.Tensor_Tensor,
    aten.transpose_.default: aten.transpose.int,
    torch.ops.prims.copy_to.default: aten.copy.default,
}

PRIMITIVES: dict[OpOverload, Primitive] = {}


def primitive_of(overload: OpOverload) -> Primitive:
    """Return the primitive of ``overload``, made at its first use."""
    primitive = PRIMITIVES.get(overload)
    if primitive is None:
        primitive = Primitive(overload, record_of(overload))
        PRIMITIVES[overload] = primitive
    return primitive


def resizes(primitive: Primitive) -> bool:
    """Tell whether an in-place op shows other elements than a view would: resize_."""
    twin = primitive.functional
    if twin is None or torch.Tag.inplace_view not in primitive.overload.tags:
        return False
    return primitive_of(twin).kind is not Kind.VIEW
