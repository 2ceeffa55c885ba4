# check=error=true
# It contains the extra `postgres`, for replicas.
# Arguments: VERSION and REVISION become labels, SOURCE_DATE_EPOCH is the time of all files.
# The digest is that of the multi-platform index, from docker-library/repo-info.
FROM python:3.11-slim-bookworm@sha256:fe556eaffd0d96abd8685b83bb8a69addd0dc730fa193669a7df0d49ddcfac02 AS base

FROM base AS build
# 1980-01-01, the earliest time that a wheel can have.
ARG SOURCE_DATE_EPOCH=315532800
WORKDIR /src
RUN python -I -m venv --without-pip /opt/tiercel
# The dependencies come before the engine, so that a change of the engine reuses their layer.
COPY requirements-run.txt ./
# The asynchronous Kubernetes client is a quarter of all files' size, and nothing imports it.
RUN python -I -m pip --python /opt/tiercel/bin/python install --no-cache-dir --no-compile --require-hashes \
    -r requirements-run.txt \
    && rm -r /opt/tiercel/lib/python3*/site-packages/kubernetes/aio
# Named files only. CHANGELOG.md contains the version.
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY engine engine
COPY tiercel tiercel
RUN python -I -m pip --python /opt/tiercel/bin/python install --no-cache-dir --no-compile --no-deps --no-build-isolation .
# The root file system is read-only at run time, so the bytecode has to be here, or each start compiles everything.
# Usual bytecode contains the modification time of its source. Bytecode with an unchecked hash does not, and is not compared with
# its source when it is loaded. The fixed seed and the single process make its content the same in each build. -f replaces what pip
# compiled when it ran the build backend.
RUN PYTHONHASHSEED=0 /opt/tiercel/bin/python -m compileall -q -f -j 1 --invalidation-mode unchecked-hash \
    /opt/tiercel/lib \
    && find /opt/tiercel -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

FROM base
COPY --from=build /opt/tiercel /opt/tiercel
ENV PATH=/opt/tiercel/bin:${PATH}
# A number, because runAsNonRoot cannot check a name. kustomize/base uses the same number.
USER 65532:65532
ENTRYPOINT ["tiercel"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tiercel" \
      org.opencontainers.image.description="A declarative GitOps rule-to-action engine for Kubernetes" \
      org.opencontainers.image.source="https://github.com/tiercel/tiercel" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
