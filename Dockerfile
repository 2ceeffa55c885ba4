# The digest is that of the multi-platform index, from docker-library/repo-info.
FROM python:3.11-slim-bookworm@sha256:fe556eaffd0d96abd8685b83bb8a69addd0dc730fa193669a7df0d49ddcfac02

WORKDIR /src
# By name, so that neither .git nor a .venv gets into a layer; CHANGELOG.md is where the version stands.
COPY pyproject.toml requirements-run.txt README.md CHANGELOG.md LICENSE ./
RUN python -I -m pip install --no-cache-dir --require-hashes -r requirements-run.txt
COPY engine engine
RUN python -I -m pip install --no-cache-dir --no-deps --no-build-isolation .

WORKDIR /
# By number, for runAsNonRoot cannot tell of a name that it is not root; the same as in kustomize/base.
USER 65532:65532
ENTRYPOINT ["tiercel"]
