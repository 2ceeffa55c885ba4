# The digest is that of the multi-platform index, from docker-library/repo-info.
FROM python:3.11-slim-bookworm@sha256:fe556eaffd0d96abd8685b83bb8a69addd0dc730fa193669a7df0d49ddcfac02

WORKDIR /src
# Named files only, so that .git and .venv do not get into a layer. CHANGELOG.md contains the version.
COPY pyproject.toml requirements-run.txt README.md CHANGELOG.md LICENSE ./
RUN python -I -m pip install --no-cache-dir --require-hashes -r requirements-run.txt
COPY engine engine
RUN python -I -m pip install --no-cache-dir --no-deps --no-build-isolation .

WORKDIR /
# A number, because runAsNonRoot cannot check a name. kustomize/base uses the same number.
USER 65532:65532
ENTRYPOINT ["tiercel"]
