# Stand-ins for the images of HAProxy and Prometheus where none can be pulled: Debian's packages, run the same way.

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS haproxy
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends haproxy wget
USER haproxy
STOPSIGNAL SIGUSR1
ENTRYPOINT ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]

FROM python:${PYTHON}-slim AS prometheus
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus && \
    mkdir -p /prometheus && chown nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
