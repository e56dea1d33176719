# The device side on a Jetson (JetPack 6): TensorRT and ONNX Runtime, no PyTorch. Build it on the board, in the root of a clone:
#   docker build -f docker/jetson.Dockerfile -t edgekit:jetson .
#   docker run --rm --runtime nvidia -v "$PWD:/work" edgekit:jetson bench export
# The image of L4T brings TensorRT with its Python package; the environment sees it through the system's packages.
FROM nvcr.io/nvidia/l4t-tensorrt:r10.3.0-runtime

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python3 -m venv --system-site-packages /opt/edgekit \
    && /opt/edgekit/bin/pip install --no-cache-dir "/src[ort,report]" && rm -rf /src \
    && useradd --create-home --uid 1000 --groups video user
ENV PATH=/opt/edgekit/bin:$PATH
USER 1000
WORKDIR /work
ENTRYPOINT ["edgekit"]
