#!/bin/sh
# Writes fresh secrets for compose.yaml into FILE, for its owner alone; those that stand there stay:
# infra/secrets.sh FILE
set -eu
umask 077
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
add() { grep -qs "^$1=" "$2" || printf '%s=%s\n' "$1" "$3"; }
{
  if [ -e "$1" ]; then awk 1 "$1"; fi
  for name in POSTGRES_PASSWORD RAY_AUTH_TOKEN AWS_SECRET_ACCESS_KEY GRAFANA_PASSWORD; do
    add "$name" "$1" "$(secret)"
  done
  add AWS_ACCESS_KEY_ID "$1" scalr
} >"$1.new"
mv "$1.new" "$1"
