# CUDA:  docker build -t sogclr .
# CPU:   docker build -t sogclr --build-arg TORCH_INDEX=URL .    (URL as in pytorch.org's command for CPU)
# Then:  docker run --rm -v "$PWD:/work" -u "$(id -u)" sogclr pretrain photos/ --out runs/a
#        With CUDA, add --gpus all --ipc host.
FROM python:3.12-slim
ARG TORCH_INDEX=
# Triton's kernels need a C compiler at run time; a CPU uses none.
RUN if [ -z "$TORCH_INDEX" ]; then \
      apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
      && rm -rf /var/lib/apt/lists/*; \
    fi
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
COPY . /source
RUN pip install --no-cache-dir '/source[pairs,serve]'
# Any user may run it: caches are below /work/.cache, which stays when the container ends.
WORKDIR /work
ENV HOME=/work
ENTRYPOINT ["sogclr"]
CMD ["--help"]
