# The batch worker.
# No digest can be a default that stays right: pin one with
#   --build-arg BASE_IMAGE=python:3.13-slim@sha256:…
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1 UV_LINK_MODE=copy
WORKDIR /build
COPY deploy/docker/locks/build.txt deploy/docker/locks/batch-worker.txt ./
RUN python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: -r build.txt \
    && python -m venv --without-pip /opt/trivium \
    && uv pip install --python /opt/trivium/bin/python --no-deps --require-hashes --only-binary :all: \
        --compile-bytecode -r batch-worker.txt
COPY pyproject.toml README.md LICENSE ./
COPY shared ./shared
COPY services ./services
RUN python -m hatchling build --target wheel --directory /build \
    && uv pip install --python /opt/trivium/bin/python --no-deps --offline --compile-bytecode /build/trivium-*.whl

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="trivium/batch-worker" \
    org.opencontainers.image.licenses="Apache-2.0"
# The base has an installer, which nothing here needs at run time.
RUN python -m pip uninstall --yes pip \
    && rm -rf /usr/local/lib/python3.*/ensurepip \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/trivium
COPY --from=build /opt/trivium /opt/trivium
WORKDIR /app
COPY features ./features
ENV PATH=/opt/trivium/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TRIVIUM_ENVIRONMENT=production \
    TRIVIUM_HOST=0.0.0.0 \
    TRIVIUM_STATE_DIR=/var/lib/trivium
USER 10001:10001
STOPSIGNAL SIGTERM
EXPOSE 8084
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ.get(\"TRIVIUM_WORKER_PORT\") or 8084}/health/live', timeout=4)"]
CMD ["python", "-m", "batch_worker"]
