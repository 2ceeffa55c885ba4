"""The identity of the engine itself: namespace, node and service account."""

from __future__ import annotations

import base64
import json

import pytest
from engine.model.own_identity import OwnIdentity


def mounted(folder, claims, namespace="tiercel\n"):
    """Write the folder that the kubelet mounts for a service account: a token with these claims, a namespace."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    (folder / "token").write_text(f"e30.{body}.c2ln")
    if namespace is not None:
        (folder / "namespace").write_text(namespace)
    return folder


def test_own_identity_comes_from_the_downward_api_or_the_mounted_token(tmp_path):
    folder = mounted(tmp_path, {"sub": "system:serviceaccount:tiercel:hawk"})
    own = OwnIdentity.from_environment({}, folder)
    assert (own.namespace, own.user) == ("tiercel", "system:serviceaccount:tiercel:hawk")
    told = {"TIERCEL_POD_NAMESPACE": "a", "TIERCEL_SERVICE_ACCOUNT": "b"}
    assert OwnIdentity.from_environment(told, folder).user == "system:serviceaccount:a:b"
    assert (
        OwnIdentity.from_environment({}).user is None
    )  # the result of a preview does not depend on where it runs


@pytest.mark.parametrize("claims", [{}, {"sub": 7}, {"sub": "ada"}, [], "x", {"sub": None}])
def test_token_without_a_service_account_gives_no_identity(tmp_path, claims):
    assert OwnIdentity.from_environment({}, mounted(tmp_path, claims)).user is None


@pytest.mark.parametrize("token", ["", "opaque", "a.b.c", "a.%%%.c", "a.4pyT.c"])
def test_invalid_token_gives_no_identity(tmp_path, token):
    mounted(tmp_path, {})
    (tmp_path / "token").write_text(token)
    assert OwnIdentity.from_environment({}, tmp_path).user is None
    assert OwnIdentity.from_environment({}, tmp_path / "absent") == OwnIdentity()
