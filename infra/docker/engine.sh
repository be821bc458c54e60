# A Docker engine of one's own, for a shell script to source: start_engine FOLDER, end_engine.
# It needs root, and `dockerd` from Debian's docker.io or from Docker. Everything of it lies in
# FOLDER, on no port and with no service of the system; only the bridge `docker0` stays.
# shellcheck shell=bash

engine_answers() {
  command -v docker >/dev/null && timeout 10 docker info >/dev/null 2>&1
}

# Starts a daemon and names it in DOCKER_HOST, or leaves none and says why in one line.
start_engine() {
  local folder=$1
  if [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
    echo "dockerd is not installed, or this is not root"
    return 1
  fi
  mkdir -p "$folder"
  # Not a session of its own: what ends this script's group ends the daemon too.
  dockerd --host "unix://$folder/socket" --pidfile "$folder/pid" \
    --data-root "$folder/data" --exec-root "$folder/exec" --ip 127.0.0.1 \
    </dev/null >"$folder/log" 2>&1 &
  engine_pid=$!
  engine_folder=$folder
  export DOCKER_HOST="unix://$folder/socket"
  # Containers are reached where their ports are published, even if this is a container itself.
  export TESTCONTAINERS_CONNECTION_MODE=docker_host TESTCONTAINERS_HOST_OVERRIDE=127.0.0.1
  local waited
  for ((waited = 0; waited < 60; waited++)); do
    if engine_answers; then return 0; fi
    if ! kill -0 "$engine_pid" 2>/dev/null; then break; fi
    sleep 1
  done
  echo "dockerd did not start: $(tail -n 1 "$folder/log")"
  end_engine
  return 1
}

# Ends the daemon of start_engine, if any, with its containers; waits until it is gone.
end_engine() {
  if [ -z "${engine_pid:-}" ]; then return 0; fi
  local waited
  kill -TERM "$engine_pid" 2>/dev/null || true # it stops its containers, and containerd
  for ((waited = 0; waited < 40; waited++)); do
    if ! kill -0 "$engine_pid" 2>/dev/null; then break; fi
    sleep 1
  done
  kill -KILL "$engine_pid" 2>/dev/null || true
  wait "$engine_pid" 2>/dev/null || true
  rm -rf --one-file-system "$engine_folder"
  unset engine_pid engine_folder DOCKER_HOST
  unset TESTCONTAINERS_CONNECTION_MODE TESTCONTAINERS_HOST_OVERRIDE
}
