#!/bin/sh
# A base image from Debian packages alone, for sites that reach a Debian mirror but no image registry.
# It holds Debian, Python and public certificates, and nothing of this host's configuration.
set -eu

tag=moodbench-base:bookworm
suite=bookworm
mirror=https://deb.debian.org/debian

usage() {
    echo "usage: $0 [--tag IMAGE] [--suite SUITE] [--mirror URL]"
    echo "Builds IMAGE (default $tag) with debootstrap; needs root, debootstrap and a Docker engine."
}

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit 3
}

while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --tag | --suite | --mirror)
            [ $# -ge 2 ] || { usage >&2; exit 2; }
            case "$1" in --tag) tag=$2 ;; --suite) suite=$2 ;; --mirror) mirror=$2 ;; esac
            shift 2 ;;
        *) usage >&2; exit 2 ;;
    esac
done

[ "$(id -u)" = 0 ] || fail "debootstrap needs root" "run: sudo $0"
command -v debootstrap > /dev/null || fail "debootstrap is not installed" "run: apt-get install debootstrap"
command -v docker > /dev/null || fail "the docker command is not installed" "run: apt-get install docker.io"
docker version > /dev/null 2>&1 || fail "no Docker engine answers" "start Docker, for example: systemctl start docker"

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
root=$work/root

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$root" "$mirror" >&2 ||
    fail "debootstrap could not install $suite from $mirror" "name a mirror that this host reaches: --mirror URL"

rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/var/cache/debconf/*-old \
    "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/info/* "$root"/usr/share/locale/* \
    "$root"/tmp/* "$root"/var/tmp/*
# debootstrap copies these two from the host; Docker makes its own for each container.
rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
echo "deb https://deb.debian.org/debian $suite main" > "$root/etc/apt/sources.list"  # not the mirror, which may be private
ln -sf python3 "$root/usr/bin/python"

tar --one-file-system --numeric-owner -C "$root" -c . |
    docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' --message "debootstrap $suite" - "$tag"
