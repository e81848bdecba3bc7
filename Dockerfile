# docker build -t rotograd . ; docs/install.md says how to run it. PyPI's torch brings CUDA: the machine needs NVIDIA's container toolkit.
FROM python:3.12-slim
# a C++ compiler for compile=true
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /source/
COPY rotograd_cli /source/rotograd_cli
COPY conf /source/conf
COPY datasets /source/datasets
RUN pip install --no-cache-dir '/source[plot,report,tensorboard]' && rm -r /source
ARG UID=1000
RUN useradd --create-home --uid "$UID" rotograd && install --directory --owner rotograd /work /data
USER rotograd
WORKDIR /work
ENV ROTOGRAD_DATA=/data
ENTRYPOINT ["rotograd"]
