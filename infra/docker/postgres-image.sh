#!/usr/bin/env bash
# Builds a PostgreSQL image from Debian's packages, for a machine that reaches Debian's archive but
# no registry of images: infra/docker/postgres-image.sh NAME[:TAG]
# Needs root, debootstrap and a Docker engine; takes a minute or two, and half a gigabyte meanwhile.
# The environment may name another archive (DEBIAN_MIRROR) or release (DEBIAN_SUITE).
set -euo pipefail

if (($# != 1)); then
  echo "usage: $0 NAME[:TAG]" >&2
  exit 2
fi
image=$1
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
suite=${DEBIAN_SUITE:-bookworm}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

work=$(mktemp -d)
end() {
  # a second stage that was broken off leaves them mounted
  umount -q "$work/root/proc" "$work/root/sys" || true
  rm -rf --one-file-system "$work"
}
trap end EXIT
trap 'exit 1' INT TERM HUP

# In two stages, because Debian's package would otherwise make a cluster that nobody uses.
debootstrap --variant=minbase --foreign --include=postgresql "$suite" "$work/root" "$mirror"
mkdir -p "$work/root/etc/postgresql-common"
echo 'create_main_cluster = false' >"$work/root/etc/postgresql-common/createcluster.conf"
DEBIAN_FRONTEND=noninteractive chroot "$work/root" /debootstrap/debootstrap --second-stage

install -m 755 "$here/postgres-entrypoint" "$work/root/usr/local/bin/postgres-entrypoint"
tar -C "$work/root" --one-file-system --exclude=./var/cache/apt --exclude=./var/lib/apt/lists -c . |
  docker import \
    --change 'ENTRYPOINT ["/usr/local/bin/postgres-entrypoint"]' \
    --change 'VOLUME /var/lib/postgresql/data' \
    --change 'EXPOSE 5432' - "$image"
