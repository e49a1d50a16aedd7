# One image for GPUs, TPUs and CPUs; JAX's CUDA and TPU libraries are Python packages of EXTRAS.
#   docker build -t REGISTRY/omfa_jax:cuda --build-arg EXTRAS=cuda .
#   docker build -t REGISTRY/omfa_jax:tpu --build-arg EXTRAS=tpu .
#   docker build -t REGISTRY/omfa_jax:cpu --build-arg EXTRAS=body,heif .
# BASE may be any Debian or Ubuntu that has PYTHON or a package of it, such as
#   --build-arg BASE=nvidia/cuda:12.9.1-base-ubuntu24.04 --build-arg PYTHON=3.12
ARG BASE=python:3.13-slim-trixie
FROM ${BASE}

ARG PYTHON=3.13
# more Debian packages, a list: "libegl1 libgl1" for pyrender
ARG APT=""
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
    && if ! command -v "python${PYTHON}" >/dev/null; then \
         python_packages="python${PYTHON} python${PYTHON}-venv"; \
       fi \
    && apt-get install --yes --no-install-recommends ca-certificates ${python_packages:-} ${APT} \
    && rm -rf /var/lib/apt/lists/*

RUN "python${PYTHON}" -m venv /opt/venv
# GKE mounts the GPU driver at /usr/local/nvidia, the NVIDIA runtime where these variables ask for it
ENV PATH=/opt/venv/bin:/usr/local/nvidia/bin:${PATH} \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1

# a torch and torchvision that fit, installed first: "torch==2.13.0 torchvision==0.28.0"
ARG TORCH=""
ARG PIP_EXTRA_INDEX_URL=""
# hadolint ignore=DL3013,SC2086
RUN if [ -n "${TORCH}" ]; then pip install --no-cache-dir ${TORCH}; fi

# the dependencies alone, with an empty package, so that changed sources do not install them again;
# without rm, setuptools would take that package out of build/ below
ARG EXTRAS=cuda
WORKDIR /opt/omfa
COPY pyproject.toml ./
# hadolint ignore=DL3013
RUN mkdir omfa_jax \
    && echo '__version__ = "0"' > omfa_jax/__init__.py \
    && touch README.md LICENSE NOTICE \
    && pip install --no-cache-dir ".[${EXTRAS}]" \
    && pip uninstall --yes omfa_jax \
    && rm -rf omfa_jax build ./*.egg-info

COPY README.md LICENSE NOTICE convert_weights.py setup.py ./
COPY omfa_jax omfa_jax
# the commit, which the context does not hold: --build-arg OMFA_REVISION="$(git rev-parse HEAD)"
ARG OMFA_REVISION=""
# fails if a library is missing, or torchvision was built for another torch
RUN pip install --no-cache-dir --no-deps . \
    && rm -rf omfa_jax build ./*.egg-info \
    && omfa --version \
    && python -c 'import importlib.util as util; \
         from omfa_jax.evals.metric_weights import require_torchvision; \
         util.find_spec("torchvision") and require_torchvision()'
COPY configs configs
COPY launch launch

# /shared, /data and whatever else is mounted must be writable for this user, or run with --user
ARG USER_ID=10001
RUN useradd --create-home --uid "${USER_ID}" omfa
USER ${USER_ID}
ENTRYPOINT ["omfa"]
CMD ["--help"]
