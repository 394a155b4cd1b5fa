# The service with its shipped model.
#
#   docker build --tag vae-service .                                           the torch build that the index offers
#   docker build --build-arg TORCH_INDEX=URL ...                               the CPU wheels of that index
#   docker build --build-arg EXTRAS="otel diffusers datasets" ...              with the extras for vae encode, decode, reconstruct
#   docker build --build-context wheels=FOLDER ...                             wheels from a folder, for builds offline

ARG PYTHON=3.11

# Where no folder of wheels is handed in, an empty one stands in for it.
FROM scratch AS wheels

# What changes seldom and is large: a layer of its own. Tests, headers and tools that wheels bring along stay behind.
FROM python:${PYTHON}-slim AS dependencies
ARG TORCH_INDEX=""
ARG EXTRAS="otel diffusers"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN --mount=type=bind,from=wheels,target=/wheels \
    python -m venv --copies --without-pip /service && \
    python -c "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        extras = p['optional-dependencies']; \
        print(*p['dependencies'], *(line for extra in sys.argv[1:] for line in extras[extra]), sep='\n')" \
        ${EXTRAS} > requirements.txt && \
    pip --python /service/bin/python install --constraint constraints.txt --find-links /wheels \
        ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} --requirement requirements.txt && \
    cd /service/lib/python*/site-packages && \
    find . -type d \( -name test -o -name tests \) -prune -exec rm -r {} + && \
    rm -rf torch/include torch/bin/*test* torch/bin/protoc*

# What changes often and is small.
FROM dependencies AS project
COPY README.md LICENSE ./
COPY app app
COPY model model
RUN --mount=type=bind,from=wheels,target=/wheels \
    pip install --constraint constraints.txt --find-links /wheels hatchling && \
    pip wheel --no-deps --no-build-isolation --wheel-dir dist . && \
    pip --python /service/bin/python install --no-deps --prefix /project dist/*.whl

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="vae-service" \
      org.opencontainers.image.description="Serves a trained Variational Autoencoder over HTTP." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 vae && useradd --uid 10001 --gid vae --no-create-home --shell /usr/sbin/nologin vae
COPY --from=dependencies /service /service
COPY --from=project /project /service
ENV PATH=/service/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1 VAE_HOST=0.0.0.0 VAE_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"VAE_PORT\"]}/readyz', timeout=4)"]
ENTRYPOINT ["vae", "serve"]
