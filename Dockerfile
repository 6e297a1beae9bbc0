# medxai-run on Debian 12 and its libtorch (CPU), in two stages: one builds the package, one holds what it needs.
#   docker build -t medxai-run .
#   docker run --rm -v "$PWD:/work" medxai-run /usr/share/medxai/experiments/quickstart.lua    # leaves runs/ here
FROM debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ cmake ninja-build pkg-config dpkg-dev file \
      liblua5.4-dev libedit-dev libcairo2-dev libjpeg62-turbo-dev libstb-dev libdnnl-dev libdcmtk-dev libtorch-dev
COPY . /source
RUN cmake -S /source -B /build -G Ninja && cmake --build /build --target package

FROM debian:12-slim
COPY --from=build /build/*.deb /tmp/
RUN apt-get update && apt-get install -y --no-install-recommends /tmp/*.deb \
      && rm -rf /tmp/*.deb /var/lib/apt/lists/*
WORKDIR /work
ENTRYPOINT ["medxai-run"]
