# The service with its shipped model.
#
#   docker build --tag vae-service .                                           the torch build that the index offers
#   docker build --build-arg TORCH_INDEX=URL ...                               the CPU wheels of that index
#   docker build --build-context wheels=FOLDER ...                             wheels from a folder, for builds offline

ARG PYTHON=3.11

# Where no folder of wheels is handed in, an empty one stands in for it.
FROM scratch AS wheels

FROM python:${PYTHON}-slim AS environment
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY model model
RUN --mount=type=bind,from=wheels,target=/wheels \
    python -m venv --copies /service && \
    set -- --constraint constraints.txt --find-links /wheels ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} && \
    /service/bin/pip install "$@" hatchling && \
    /service/bin/pip install "$@" --no-build-isolation ".[otel]" && \
    /service/bin/pip uninstall --yes hatchling pip

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="vae-service" \
      org.opencontainers.image.description="Serves a trained Variational Autoencoder over HTTP." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 vae && useradd --uid 10001 --gid vae --no-create-home --shell /usr/sbin/nologin vae
COPY --from=environment /service /service
ENV PATH=/service/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 VAE_HOST=0.0.0.0 VAE_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"VAE_PORT\"]}/readyz', timeout=4)"]
ENTRYPOINT ["vae", "serve"]
