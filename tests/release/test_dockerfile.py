"""The Dockerfile: BuildKit's own rules, the base image, the user, and the files that can get into a layer."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.cluster import build
from tests.cluster.fixtures import require

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def check(dockerfile):
    """Return BuildKit's warnings for a Dockerfile as (rule, line), and the error that stops a build."""
    require("dockerfile-check")
    command = [str(build.find("dockerfile-check"))]
    result = subprocess.run(
        command, input=dockerfile, capture_output=True, text=True, check=True, timeout=60
    )
    said = json.loads(result.stdout)
    warnings = [
        (warning["ruleName"], warning["location"]["ranges"][0]["start"]["line"])
        for warning in said["warnings"] or []
    ]
    return warnings, said.get("buildError", {}).get("message")


def instructions():
    """Return the instructions of the Dockerfile as (name, text), with continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def test_buildkit_has_no_warning():
    assert check(DOCKERFILE) == ([], None)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("CMD tiercel serve", "JSONArgsRecommended"),
        ("ENV TIERCEL_TOKEN=secret", "SecretsUsedInArgOrEnv"),
        ("COPY --from=build /opt/$UNKNOWN /opt/", "UndefinedVar"),
        ("WORKDIR opt", "WorkdirRelativePath"),
        ("MAINTAINER someone", "MaintainerDeprecated"),
    ],
)
def test_buildkit_reports_a_fault_with_its_line(fault, rule):
    last = DOCKERFILE.count("\n") + 1
    assert check(f"{DOCKERFILE}{fault}\n") == (
        [(rule, last)],
        f"lint violation found for rules: {rule}",  # a warning stops the build: check=error=true
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("CPY engine engine", "unknown instruction: CPY"),
        ("RUN --mount=type=unknown true", 'unsupported mount type "unknown"'),
    ],
)
def test_buildkit_refuses_a_dockerfile_that_cannot_be_built(fault, message):
    assert message in check(f"{DOCKERFILE}{fault}\n")[1]


def test_the_base_image_is_pinned_by_its_digest_once():
    sources = [text.split()[0] for name, text in instructions() if name == "FROM"]
    stages = {text.split()[2] for name, text in instructions() if name == "FROM" and " AS " in text}
    images = [source for source in sources if source not in stages]
    assert len(images) == 1
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", images[0])


def test_the_image_runs_as_the_user_of_the_statefulset():
    [user] = [text for name, text in instructions() if name == "USER"]
    manifest = yaml.safe_load((ROOT / "kustomize/base/statefulset.yaml").read_text())
    context = manifest["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_the_build_context_has_the_copied_files_only():
    ignore = [line for line in (ROOT / ".dockerignore").read_text().split("\n") if line[:1] != "#"]
    let_in = [line[1:] for line in ignore if line.startswith("!")]
    copies = [text.split() for name, text in instructions() if name == "COPY"]
    copied = [source for copy in copies if "--from=build" not in copy for source in copy[:-1]]
    assert ignore[0] == "*"
    assert sorted(let_in) == sorted(copied)
    assert all((ROOT / source).exists() for source in copied)


def test_the_last_stage_takes_the_environment_only():
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert re.findall(r"^(?:COPY|ADD|RUN) .*", last, re.MULTILINE) == [
        "COPY --from=build /opt/tiercel /opt/tiercel"
    ]
