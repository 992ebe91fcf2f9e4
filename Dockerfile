# syntax=docker/dockerfile:1
# The `redrive` tool, whose `forward` and `exec` are workers, and the worker of examples/orders, in an image without a shell:
#
#   docker build --tag redrive .
#   docker run --rm redrive --help
#
# Both bases are named by tag. To have every build the same, name them by digest:
#   docker build --build-arg RUST=rust@sha256:… --build-arg BASE=gcr.io/distroless/static-debian12@sha256:… .
ARG RUST=rust:1.95.0-slim-bookworm
ARG BASE=gcr.io/distroless/static-debian12:nonroot

FROM ${RUST} AS build
WORKDIR /src
# Linked with all it needs, its C library too: it runs on a base that has nothing but certificates and time zones. Names are
# resolved by that library's own resolver, from /etc/hosts and DNS.
ENV RUSTFLAGS="-C target-feature=+crt-static"

# The dependencies, as a layer that stays until one of them changes: built with sources that say nothing.
COPY Cargo.toml Cargo.lock ./
COPY benches/Cargo.toml benches/
COPY benches/stand_in/Cargo.toml benches/stand_in/
RUN mkdir -p src/bin/redrive examples/orders examples/quickstart tests benches/stand_in/src
RUN for lib in src/lib.rs benches/stand_in/src/lib.rs; do echo '//! Nothing yet.' >"$lib"; done
RUN for main in src/bin/redrive/main.rs examples/orders/main.rs benches/stand_in/src/main.rs \
      $(sed -n '/^\[\[test\]\]/,/^name/s|^name = "\(.*\)"|tests/\1.rs|p' Cargo.toml); do \
      printf '//! Nothing yet.\nfn main() {}\n' >"$main"; done
RUN cargo build --locked --profile image --target "$(rustc --print host-tuple)" --features cli,otel --bin redrive --example orders

COPY examples examples
COPY src src
# Newer than what was built of the sources that say nothing.
RUN touch src/lib.rs src/bin/redrive/main.rs examples/orders/main.rs
RUN cargo build --locked --profile image --target "$(rustc --print host-tuple)" --features cli,otel --bin redrive --example orders
RUN mkdir -p out
RUN cp target/*/image/redrive target/*/image/examples/orders out/

FROM ${BASE}
COPY --from=build /src/out/redrive /src/out/orders /usr/local/bin/
COPY examples/data/orders.jsonl /usr/local/share/orders.jsonl
USER 65532:65532
# Asked by the health check, in the container alone.
ENV REDRIVE_HEALTH=127.0.0.1:8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/redrive", "health"]
# Without a shell in between, which would keep SIGTERM to itself.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/redrive"]
CMD ["--help"]
