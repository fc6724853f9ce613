#!/usr/bin/env bash
# Installs what building Headwater (`build`), testing it too (`test`), or comparing
# it with other servers (`bench`) needs besides Rust and Node, where it is missing. Quick when nothing is.
set -euo pipefail

purpose=${1:?usage: prerequisites.sh build|test|bench}
missing=()

need() { # PACKAGE COMMAND…: the package is missing when the command fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

has_libclang() { # bindgen loads it at run time, to read RocksDB's header
    compgen -G "${LIBCLANG_PATH:-/usr/lib/llvm-*/lib}/libclang*.so*" ||
        compgen -G "/usr/lib/*-linux-gnu/libclang*.so*" ||
        compgen -G "/usr/lib*/libclang*.so*"
}

has_program() { # also where only root looks
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1"
}

need build-essential sh -c 'command -v cc c++ make'
need clang command -v clang
need libclang-dev has_libclang
need cmake command -v cmake
need pkg-config command -v pkg-config
if [[ $purpose == test ]]; then
    need curl command -v curl
    need openssl command -v openssl
    need python3 command -v python3
    need python3-venv python3 -c 'import ensurepip, venv'
    need chromium command -v chromium
    need nginx has_program nginx
    need varnish has_program varnishd
    need valgrind command -v valgrind
    need iproute2 command -v ip
fi
if [[ $purpose == bench ]]; then
    need nginx has_program nginx
    need nghttp2-client command -v h2load
fi

if ((${#missing[@]} > 0)); then
    echo "Installing: ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "This is no Debian: install the equivalents of these packages by hand." >&2
        exit 1
    fi
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# Their users choose how to install these; only say what is wrong.
require() { # WHAT COMMAND…
    local what=$1
    shift
    if ! "$@" >/dev/null 2>&1; then
        echo "Missing: $what" >&2
        exit 1
    fi
}

require "Rust (rustup.rs), with cargo on the PATH" cargo --version
if [[ $purpose == test ]]; then
    require "rustfmt (rustup component add rustfmt)" cargo fmt --version
    require "clippy (rustup component add clippy)" cargo clippy --version
    require "Node.js 20 or later, with npm" \
        node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)'
    require "npm" npm --version
fi
