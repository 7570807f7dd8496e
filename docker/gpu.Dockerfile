# The server for NVIDIA GPUs: NVIDIA's Triton image with what `bantam serve` needs, and ONNX Runtime with CUDA.
#
# Models that were made for a GPU (recipe gpu) run on the first one that the container sees (docker run --gpus all); the others on
# the CPU. docs/gpu.md. TensorRT's engines are kept in the volume /var/cache/bantam: name it, and the next container finds them.
#
# Not run by us: the image it starts from cannot be pulled where Bantam is made. It is linted, and the stage `environment`
# is built by a test. Built like docker/cpu.Dockerfile, with the same secrets. TRITON names NVIDIA's image on another registry.

# Both have Python 3.12 (Ubuntu 24.04). 26.07 has Triton 2.71.
ARG TRITON=nvcr.io/nvidia/tritonserver:26.07-py3
ARG BASE=ubuntu:24.04

FROM ${BASE} AS environment
# hadolint ignore=DL3008,DL3009,SC2086
RUN --mount=type=secret,id=apt --mount=type=secret,id=ca,mode=0444 \
    set -eu; options=""; \
    if [ -f /run/secrets/apt ]; then options="-o Dir::Etc::sourcelist=/run/secrets/apt -o Dir::Etc::sourceparts=/dev/null"; fi; \
    if [ -f /run/secrets/ca ]; then options="$options -o Acquire::https::CAInfo=/run/secrets/ca"; fi; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get $options -qq update; \
    apt-get $options -qq install --no-install-recommends -y python3 python3-venv > /tmp/apt.log || { cat /tmp/apt.log; exit 1; }
RUN python3 -m venv /build/pip && "$(readlink -f /usr/bin/python3)" -m venv --without-pip /opt/bantam
COPY docker/requirements*.txt /build/
RUN --mount=type=secret,id=pip,mode=0444 --mount=type=secret,id=ca,mode=0444 --mount=type=cache,target=/root/.cache/pip \
    set -eu; \
    if [ -f /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    /build/pip/bin/pip --python /opt/bantam/bin/python install -q --disable-pip-version-check --no-input \
      --no-deps --only-binary=:all: --require-hashes \
      -r /build/requirements.txt -r /build/requirements-s3.txt -r /build/requirements-onnxruntime-gpu.txt
COPY bantam /build/source/bantam
COPY serving /build/source/serving
RUN chmod -R a+rX /build/source && cp -r /build/source/bantam /build/source/serving /opt/bantam/lib/python3*/site-packages/

FROM ${TRITON}
COPY --from=environment /opt/bantam /opt/bantam
# The first python3 on the path is the one whose packages Triton's Python backend takes; tritonserver is on it already.
ENV PATH=/opt/bantam/bin:/opt/tritonserver/bin:/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    BANTAM_CACHE=/var/cache/bantam
# As /tmp: whoever the container runs as makes a folder of its own in it, and takes engines from no other.
RUN install -d -m 1777 -o 10001 -g 10001 /var/cache/bantam
VOLUME /var/cache/bantam
USER 10001:10001
WORKDIR /tmp
EXPOSE 8001 8003
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=900s --retries=3 \
    CMD ["/opt/bantam/bin/python", "-I", "-m", "serving.image.healthcheck"]
ENTRYPOINT ["/opt/bantam/bin/python", "-I", "-m", "bantam", "serve", "--repository", "/models", "--target", "gpu", \
            "--host", "0.0.0.0", "--watch-host", "0.0.0.0", "--log-format", "json"]
