# One binary: engine, api, generator, smoke. docker-compose.yml builds it.

FROM rust:1.95-bookworm AS build
# librdkafka and others are built from source; with OpenSSL, Kafka is spoken with TLS and SASL.
RUN apt-get update && apt-get install -y --no-install-recommends cmake libssl-dev pkg-config && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The dependencies alone, so that they are compiled again only when they change.
COPY Cargo.toml Cargo.lock rustfmt.toml ./
COPY engine/Cargo.toml engine/
COPY api/Cargo.toml api/
COPY benches/Cargo.toml benches/
RUN mkdir -p engine/src api/src benches/src/bin/native_stack && touch engine/src/lib.rs benches/src/lib.rs \
    && for main in api/src/main.rs benches/src/main.rs benches/src/bin/with_servers.rs benches/src/bin/native_stack/main.rs; do echo 'fn main() {}' > "$main"; done \
    && cargo build --locked --profile dist --workspace --bins --features tidegate-api/kafka-tls
COPY engine engine
COPY api api
COPY benches benches
RUN find engine/src api/src benches/src -name '*.rs' -exec touch {} + \
    && cargo build --locked --profile dist --workspace --bins --features tidegate-api/kafka-tls

FROM debian:bookworm-20250929-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin tidegate \
    && install -d -o tidegate -g tidegate /var/lib/tidegate /etc/tidegate
COPY --from=build /src/target/dist/tidegate /usr/local/bin/tidegate
COPY queries /etc/tidegate/queries
USER 10001:10001
WORKDIR /var/lib/tidegate
VOLUME /var/lib/tidegate
EXPOSE 8000 5433 9100
# docker-compose.yml asks each service for itself whether it is ready.
ENTRYPOINT ["tidegate"]
CMD ["run", "--queries", "/etc/tidegate/queries"]
