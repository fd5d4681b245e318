# The bridge, the router and the doctor in a container, computing on the CPU. See docs/INSTALL.md.
#
#   docker build -t mlx-ollama .
#   docker run --rm -p 127.0.0.1:11434:11434 -v mlx-ollama:/home/mlx/.mlx-ollama mlx-ollama

FROM debian:12 AS build
WORKDIR /src
# What a build needs is written once, for every machine.
COPY scripts/lib.sh scripts/
RUN bash -c '. scripts/lib.sh && lm_need "$LM_NEEDS_BUILD" && lm_install_apt file'
COPY . .
RUN cmake -G Ninja -B /build -DCMAKE_BUILD_TYPE=Release -DLM_TESTS=OFF -DLM_MLX=OFF && cmake --build /build
RUN cd /build && cpack -G DEB && mv mlx-ollama_*.deb /mlx-ollama.deb

# A system as small as Debian's is; the package names the libraries that it needs.
FROM debian:12-slim
COPY --from=build /mlx-ollama.deb /tmp/
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates /tmp/mlx-ollama.deb \
    && rm -rf /tmp/mlx-ollama.deb /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 mlx \
    && mkdir -p /home/mlx/.mlx-ollama /home/mlx/.config/mlx-ollama \
    && chown -R mlx:mlx /home/mlx
USER mlx
WORKDIR /home/mlx
# A container has a loopback of its own: whoever is outside reaches only what listens on every address of it. Who that is
# says the port's publication, 127.0.0.1:11434:11434 for this machine alone.
ENV OLLAMA_HOST=0.0.0.0:11434
VOLUME /home/mlx/.mlx-ollama
EXPOSE 11434
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s --retries=3 CMD ["ollama-to-mlx-router", "ps"]
CMD ["mlx-ollama-bridge"]
