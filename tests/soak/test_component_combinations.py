"""Every combination of the components in kustomize/. In the suite, each pair appears in all ways."""

from __future__ import annotations

import itertools

import pytest
from tests.kustomize.rendering import validate
from tests.kustomize.test_kustomize import COMPONENTS, identities, with_components


@pytest.mark.cluster
def test_every_combination_of_components_is_valid(admin, tmp_path, size):
    every = list(itertools.product((False, True), repeat=len(COMPONENTS)))
    chosen = every[:: size.of(len(every) // 2 - 1, 1)]
    for n, wanted in enumerate(chosen):
        manifests = with_components(tmp_path / str(n), *itertools.compress(COMPONENTS, wanted))
        assert len(manifests) == len(set(identities(manifests)))
        validate(manifests, admin)
    size.tell(combinations=len(chosen))
