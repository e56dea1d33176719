# Training on NVIDIA GPUs, and export. Build it in the root of a clone:
#   docker build -f docker/gpu.Dockerfile -t edgekit:gpu .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" edgekit:gpu train recipe.yaml --devices 2
# PyTorch's wheels bring CUDA's libraries; the driver comes from the host.
FROM python:3.12-slim-bookworm

COPY . /src
RUN pip install --no-cache-dir "/src[train,export,ort,openvino,trt-rtx,report]" && rm -rf /src \
    && useradd --create-home --uid 1000 user
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /work
ENTRYPOINT ["edgekit"]
