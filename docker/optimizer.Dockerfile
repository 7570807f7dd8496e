# A checkout with both of its environments, for `bantam optimize`, `bantam demo` and the rest of the command line.
# 4 GB and more, and with a compiler: for making models, not for serving them. `make image KIND=optimizer` builds it.
#
# Linted; not run by us as a whole. The secrets are those of docker/cpu.Dockerfile, and one more: on the usual index,
# PyTorch for Linux is the CUDA build; `torch` is a file with the address of the index of CPU builds.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS system
# hadolint ignore=DL3008,DL3009,SC2086
RUN --mount=type=secret,id=apt --mount=type=secret,id=ca,mode=0444 \
    set -eu; options=""; \
    if [ -f /run/secrets/apt ]; then options="-o Dir::Etc::sourcelist=/run/secrets/apt -o Dir::Etc::sourceparts=/dev/null"; fi; \
    if [ -f /run/secrets/ca ]; then options="$options -o Acquire::https::CAInfo=/run/secrets/ca"; fi; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get $options -qq update; \
    apt-get $options -qq upgrade -y > /tmp/apt.log || { cat /tmp/apt.log; exit 1; }; \
    apt-get $options -qq install --no-install-recommends -y \
      python3 python3-venv libpython3.11 libgomp1 make gcc libc6-dev ca-certificates > /tmp/apt.log || { cat /tmp/apt.log; exit 1; }; \
    rm -rf /var/lib/apt/lists/*

FROM system
ARG TARGET=cpu
WORKDIR /opt/bantam
COPY Makefile pyproject.toml constraints.txt constraints-gpu.txt constraints-serving.txt README.md LICENSE ./
COPY bantam bantam
COPY optimizer optimizer
COPY serving serving
RUN --mount=type=secret,id=pip,mode=0444 --mount=type=secret,id=ca,mode=0444 --mount=type=secret,id=torch,mode=0444 \
    --mount=type=cache,target=/root/.cache/pip \
    set -eu; \
    if [ -f /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    if [ -f /run/secrets/torch ]; then TORCH_INDEX="$(cat /run/secrets/torch)"; export TORCH_INDEX; fi; \
    make setup "TARGET=$TARGET"; \
    chmod -R a+rX /opt/bantam
ENV PATH=/opt/bantam/.venv/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    BANTAM_CACHE=/work/.cache \
    HF_HOME=/work/.cache/huggingface \
    MPLCONFIGDIR=/tmp
# What a run reads and writes is below /work: mount a folder there, and run as its owner (--user).
WORKDIR /work
USER 10001:10001
ENTRYPOINT ["bantam"]
CMD ["--help"]
