# The image: the binary, the four libraries it needs, TLS roots; no shell, no package manager, not root.
#
#   docker build -t holdfast .
#   docker buildx build --platform linux/amd64,linux/arm64 -t holdfast .
#
# Rust compiles for the target on the machine that builds, and of the target's own system only files are
# copied: no emulation is needed.

FROM --platform=$TARGETPLATFORM debian:bookworm-slim AS libraries

FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG TARGETARCH
ARG BUILDARCH
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates cmake clang binutils \
    && if [ "${TARGETARCH:-$BUILDARCH}" != "$BUILDARCH" ]; then \
         case "$TARGETARCH" in \
           amd64) apt-get install -y --no-install-recommends gcc-x86-64-linux-gnu g++-x86-64-linux-gnu libc6-dev-amd64-cross ;; \
           arm64) apt-get install -y --no-install-recommends gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross ;; \
           *) echo "no image is made for $TARGETARCH" >&2; exit 1 ;; \
         esac; \
       fi \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=holdfast-target-${TARGETARCH} \
    case "${TARGETARCH:-$BUILDARCH}" in \
      amd64) triple=x86_64-unknown-linux-gnu ;; \
      arm64) triple=aarch64-unknown-linux-gnu ;; \
      *) echo "no image is made for ${TARGETARCH:-$BUILDARCH}" >&2; exit 1 ;; \
    esac \
    && rustup target add "$triple" \
    && cargo build --locked --release --workspace --bin holdfast --target "$triple" \
    && install -D "target/$triple/release/holdfast" /out/holdfast
COPY --from=libraries / /target-system
RUN e2e/cluster/rootfs --binary /out/holdfast --sysroot /target-system --out /rootfs

FROM scratch
COPY --from=build /rootfs/ /
ENV PATH=/usr/local/bin \
    HOME=/tmp \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 9180
ENTRYPOINT ["/usr/local/bin/holdfast"]
CMD ["operator"]
