FROM python:3.11-slim

WORKDIR /src
# By name, so that neither .git nor a .venv gets into a layer; CHANGELOG.md is where the version stands.
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY engine engine
RUN pip install --no-cache-dir .

WORKDIR /
# By number, for runAsNonRoot cannot tell of a name that it is not root; the same as in kustomize/base.
USER 65532:65532
ENTRYPOINT ["tiercel"]
