"""Combinations of the components in kustomize/: up to three of them alone, and all except up to three."""

from __future__ import annotations

import itertools

import pytest
from tests.kustomize.rendering import validate
from tests.kustomize.test_kustomize import COMPONENTS, identities, with_components


@pytest.mark.cluster
def test_combinations_of_components_are_valid(admin, tmp_path, size):
    few = [set(some) for many in range(4) for some in itertools.combinations(COMPONENTS, many)]
    every = [*few, *(COMPONENTS.keys() - some for some in few)]
    chosen = every[:: size.of(len(every) // 2 - 1, 1)]
    for n, wanted in enumerate(chosen):
        names = [name for name in COMPONENTS if name in wanted]  # in the documented order
        manifests = with_components(tmp_path / str(n), *names)
        assert len(manifests) == len(set(identities(manifests)))
        validate(manifests, admin)
    size.tell(combinations=len(chosen))
