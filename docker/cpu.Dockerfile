# The server for CPUs: Triton, an engine or both, and `bantam serve` as its first process. `make image` builds it.
#
# Nothing of where packages came from is left in it. For a mirror or a certificate of your own, give these as secrets:
#   pip  a pip.conf (index-url, ...)      apt  a sources.list      ca  certificates (PEM) that both trust
# Proxies are Docker's own build arguments: HTTPS_PROXY and the like.

# Debian 12, whose Python is 3.11. By its digest where a registry names one: BASE=debian:bookworm-slim@sha256:...
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS system
# Which versions, the base's own sources say, and the bill of materials: a pin would be gone with the next security fix.
# hadolint ignore=DL3008,DL3009,SC2086
RUN --mount=type=secret,id=apt --mount=type=secret,id=ca,mode=0444 \
    set -eu; options=""; \
    if [ -f /run/secrets/apt ]; then options="-o Dir::Etc::sourcelist=/run/secrets/apt -o Dir::Etc::sourceparts=/dev/null"; fi; \
    if [ -f /run/secrets/ca ]; then options="$options -o Acquire::https::CAInfo=/run/secrets/ca"; fi; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get $options -qq update; \
    apt-get $options -qq upgrade -y > /tmp/apt.log || { cat /tmp/apt.log; exit 1; }; \
    apt-get $options -qq install --no-install-recommends -y \
      python3 python3-venv libpython3.11 libstdc++6 zlib1g gcc libc6-dev ca-certificates > /tmp/apt.log || { cat /tmp/apt.log; exit 1; }

FROM system AS environment
ARG ENGINES="onnxruntime openvino"
RUN python3 -m venv /build/pip && python3.11 -m venv --without-pip /opt/bantam
COPY docker/requirements*.txt /build/
# hadolint ignore=SC2086
RUN --mount=type=secret,id=pip,mode=0444 --mount=type=secret,id=ca,mode=0444 --mount=type=cache,target=/root/.cache/pip \
    set -eu; \
    if [ -f /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    files="-r /build/requirements.txt -r /build/requirements-s3.txt -r /build/requirements-triton.txt"; \
    for engine in $ENGINES; do files="$files -r /build/requirements-$engine.txt"; done; \
    /build/pip/bin/pip --python /opt/bantam/bin/python install -q --disable-pip-version-check --no-input --no-compile \
      --no-deps --only-binary=:all: --require-hashes $files
COPY serving/__init__.py /build/source/serving/
COPY serving/image/__init__.py serving/image/slim.py /build/source/serving/image/
COPY serving/inline /build/source/serving/inline
ENV PYTHONPATH=/build/source PYTHONDONTWRITEBYTECODE=1
RUN python3 -m serving.image.slim /opt/bantam && \
    python3 -m serving.inline.build /opt/bantam && \
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/bantam/lib

# What of Debian is needed: Python and what it depends on. No shell, no package manager, nothing with a setuid bit.
FROM system AS root-file-system
COPY serving/image/rootfs.py /build/
RUN python3 /build/rootfs.py /root-file-system python3.11 libpython3.11 libpython3.11-stdlib libstdc++6 zlib1g \
      base-files ca-certificates tzdata

# Our own code, and what the whole consists of. Last, because it changes most.
FROM environment AS code
COPY bantam /code/bantam
COPY serving /code/serving
COPY --from=root-file-system /root-file-system/var/lib/dpkg /installed/var/lib/dpkg
COPY --from=root-file-system /root-file-system/usr/share/doc /installed/usr/share/doc
ENV PYTHONPATH=/code
RUN python3 -m serving.image.sbom /installed /opt/bantam /documents "$(python3 -c 'import bantam; print(bantam.__version__)')" && \
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      -s /code -p /opt/bantam/lib/python3.11/site-packages /code && \
    chmod -R a+rX /code /documents

FROM scratch
COPY --from=root-file-system /root-file-system /
COPY --from=environment /opt/bantam /opt/bantam
COPY --from=code /code /opt/bantam/lib/python3.11/site-packages
COPY --from=code /documents /usr/share/doc/bantam
ENV PATH=/opt/bantam/bin:/usr/bin \
    LANG=C.UTF-8 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    BANTAM_CACHE=/tmp/bantam \
    BANTAM_SERVING_PYTHON=/opt/bantam/bin/python
LABEL org.opencontainers.image.title="Bantam, CPU" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
# gRPC, and the watch with /live, /ready and /metrics. Triton's HTTP and metrics are for this container only, unless told
# otherwise. What reaches them from outside is a matter of how ports are published.
EXPOSE 8001 8003
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/bantam/bin/python", "-I", "-m", "serving.image.healthcheck"]
# Options of `bantam serve` may follow, and replace these.
ENTRYPOINT ["/opt/bantam/bin/python", "-I", "-m", "bantam", "serve", "--repository", "/models", \
            "--host", "0.0.0.0", "--watch-host", "0.0.0.0", "--log-format", "json"]
