#!/usr/bin/env bash
# Makes a Debian 12 to build the images from where no registry is within reach: docker/base.sh NAME. As root, with
# debootstrap and a running engine; takes a minute. MIRROR=... for another mirror than Debian's own: the security fixes' sources
# are then to be given to the build, `bantam image --apt-sources`.
set -euo pipefail
name=${1:?expected the name of an image, such as bantam-base}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase bookworm "$folder/root" ${MIRROR:+"$MIRROR"} >"$folder/log" 2>&1 || { tail -n 20 "$folder/log" >&2; exit 1; }
if [ -z "${MIRROR:-}" ]; then
  # Debian's own mirror has the security fixes beside it; of another one, nobody knows where they are.
  read -r _ mirror _ <"$folder/root/etc/apt/sources.list"
  printf 'deb %s main\n' "$mirror bookworm" "$mirror bookworm-updates" "$mirror-security bookworm-security" >"$folder/root/etc/apt/sources.list"
fi
rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/*
tar -C "$folder/root" -c . | "${DOCKER:-docker}" import - "$name" >/dev/null
