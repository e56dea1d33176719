# Training, export and benches on x86-64 processors. Build it in the root of a clone:
#   docker build -f docker/cpu.Dockerfile -t edgekit:cpu .
#   docker run --rm -v "$PWD:/work" edgekit:cpu train recipe.yaml
FROM python:3.12-slim-bookworm

COPY . /src
RUN pip install --no-cache-dir "/src[train,export,ort,openvino,litert,report]" && rm -rf /src \
    && useradd --create-home --uid 1000 user
USER 1000
WORKDIR /work
ENTRYPOINT ["edgekit"]
