# CPU:   docker build -t sogclr .
# CUDA:  docker build -t sogclr:cuda --build-arg TORCH=cu126 .    (a folder of download.pytorch.org/whl)
# Then:  docker run --rm -v "$PWD:/work" -u "$(id -u)" sogclr pretrain photos/ --out runs/a
#        With CUDA, add --gpus all --ipc host.
FROM python:3.12-slim
ARG TORCH=cpu
# Triton's kernels need a C compiler at run time; a CPU uses none.
RUN if [ "$TORCH" != cpu ]; then \
      apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
      && rm -rf /var/lib/apt/lists/*; \
    fi
RUN pip install --no-cache-dir --index-url "https://download.pytorch.org/whl/$TORCH" torch torchvision
COPY . /source
RUN pip install --no-cache-dir '/source[pairs,serve]'
# Any user may run it: caches are below /work/.cache, which stays when the container ends.
WORKDIR /work
ENV HOME=/work
ENTRYPOINT ["sogclr"]
CMD ["--help"]
