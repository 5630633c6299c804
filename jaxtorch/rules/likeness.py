"""Which family's file an overload without a record most likely belongs to."""

import difflib
from functools import cache
from math import log

import torch
from torch._ops import OpOverload

from jaxtorch.rules.table import FAMILIES

# Below it two names have hardly more than letters in common.
ALIKE = 0.45


def words_of(overload: OpOverload) -> tuple[str, ...]:
    """Return the words that the name of an overload is made of."""
    name = str(overload._schema.name).partition("::")[2]
    return tuple(word for word in name.split("_") if word)


@cache
def known_words() -> tuple[dict[tuple[str, ...], str], dict[str, float]]:
    """Return the family of every name that has a record, and how telling a word is."""
    homes = {
        words_of(record.overload): family
        for family, records in FAMILIES.items()
        for record in records
    }
    counts: dict[str, int] = {}
    for name in homes:
        for word in set(name):
            counts[word] = counts.get(word, 0) + 1
    return homes, {word: 1 / log(1 + count) for word, count in counts.items()}


def likeness(name: tuple[str, ...], other: tuple[str, ...]) -> float:
    """Say how much two names have in common: rare words above all, then letters."""
    weights = known_words()[1]
    rare = 1 / log(2)
    common = sum(weights.get(w, rare) for w in {*name} & {*other})
    total = sum(weights.get(w, rare) for w in {*name} | {*other})
    letters = difflib.SequenceMatcher(None, "".join(name), "".join(other)).ratio()
    return common / total + letters / 2


@cache
def likely_file(overload: OpOverload) -> str:
    """Return the path of the file that a record of ``overload`` most likely goes to."""
    family = likely_family(overload)
    if family is None:
        return "a new file of jaxtorch/rules/ (no family is like it)"
    path = f"jaxtorch/rules/{family}.py"
    return path if family in FAMILIES else f"{path} (a new file)"


def likely_family(overload: OpOverload) -> str | None:
    """Return the family of the nearest name; a library of its own is its own family."""
    homes = known_words()[0]
    name = words_of(overload)
    namespace = str(overload._schema.name.partition("::")[0])
    if namespace not in ("aten", "prims"):
        return homes.get(name, namespace)
    nearest = max(homes, key=lambda other: likeness(name, other))
    if likeness(name, nearest) >= ALIKE:
        return homes[nearest]
    if torch.Tag.pointwise not in overload.tags:
        return None
    operands = [a for a in overload._schema.arguments if "Tensor" in str(a.type)]
    return "elementary" if len(operands) == 1 else "arithmetic"
