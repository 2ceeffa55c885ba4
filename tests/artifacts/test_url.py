"""URLs of artifacts, and the stores of --artifact-stores."""

from __future__ import annotations

import pytest
from engine.artifacts.url import check_store, parse_artifact_url, store_list
from engine.model.errors import RefusedError, SettingsError


@pytest.mark.parametrize(
    "url",
    ["file:///srv/a/b.txt", "s3://forensics/a", "gs://a.b-c/x/y", "az://container/a%2Fb"],
)
def test_a_valid_url_stays_as_it_is(url):
    assert str(parse_artifact_url(url)) == url


@pytest.mark.parametrize(
    "url",
    [
        "file:///srv/../etc/passwd", "file:///srv//a", "file:///srv/.", "file:///", "file://host/a",
        "s3://forensics", "s3://forensics/", "s3://UPPER/a", "s3://user@bucket/a", "s3://a/b",
        "s3://forensics/a\x00b", "s3://forensics/a\nb", "file:///a\\b", "http://forensics/a",
        "s3://forensics/" + "x" * 256, "s3://forensics/" + "x/" * 600 + "x", "", "/srv/a",
    ],
)  # fmt: skip
def test_a_url_of_another_form_is_refused(url):
    with pytest.raises(RefusedError) as error:
        parse_artifact_url(url)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("url", "stores", "allowed"),
    [
        ("file:///srv/a/b", "file:///srv/a", True),
        ("file:///srv/ab", "file:///srv/a", False),
        ("file:///srv/a", "file:///srv/a", False),
        ("s3://bucket/x", "s3://bucket", True),
        ("s3://bucket/x", "s3://bucket/", True),
        ("s3://bucket/x", "gs://bucket", False),
        ("s3://bucket/p/x", "s3://other, s3://bucket/p", True),
        ("s3://bucket/q/x", "s3://bucket/p", False),
        ("s3://bucket/x", "", False),
    ],
)
def test_a_store_contains_what_is_below_it(url, stores, allowed):
    parsed = parse_artifact_url(url)
    if allowed:
        assert parsed.is_below(check_store(parsed, store_list(stores)))
    else:
        with pytest.raises(RefusedError, match="artifact-stores"):
            check_store(parsed, store_list(stores))


@pytest.mark.parametrize("entry", ["file:///", "/srv", "s3://", "https://a", "file:///a/../b"])
def test_an_invalid_store_is_a_settings_error(entry):
    with pytest.raises(SettingsError, match="--artifact-stores"):
        store_list(entry)
