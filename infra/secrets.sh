#!/bin/sh
# Writes fresh secrets for compose.yaml into FILE, for its owner alone, unless it is there:
# infra/secrets.sh FILE
set -eu
if [ -e "$1" ]; then exit 0; fi
umask 077
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
{
  for name in POSTGRES_PASSWORD RAY_AUTH_TOKEN AWS_SECRET_ACCESS_KEY GRAFANA_PASSWORD; do
    printf '%s=%s\n' "$name" "$(secret)"
  done
  printf 'AWS_ACCESS_KEY_ID=scalr\n'
} >"$1.new"
mv "$1.new" "$1"
