# shellcheck shell=bash disable=SC2034 # some of these are used only by the scripts that source this
# Shared by up, down and env: where things are, which ports are meant, and what is running.
# Sourced, never run. Written for bash 3.2, so that it also works where Docker is the usual choice.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
# Everything that is installed or written lives here; git ignores it.
run_dir="$here/.run"
state_dir="$run_dir/state"
log_dir="$run_dir/logs"
venv="$run_dir/venv"
dynamodb_dir="$run_dir/dynamodb"

say() { printf 'localstack: %s\n' "$*"; }

# Says what is wrong and what to do, and ends the script.
die() {
  printf 'localstack: error: %s\n' "$1" >&2
  shift
  local line
  for line in "$@"; do printf 'localstack:   %s\n' "$line" >&2; done
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# One value that an earlier `up` recorded, or nothing.
recorded() { if [ -f "$state_dir/$1" ]; then cat "$state_dir/$1"; fi; }

record() { mkdir -p "$state_dir" && printf '%s\n' "$2" >"$state_dir/$1"; }

# The ports: the variable, else what a running pair of servers was started on, else the default.
choose_ports() {
  sqs_port="${REDRIVE_SQS_PORT:-$(recorded sqs.port)}"
  sqs_port="${sqs_port:-4566}"
  dynamodb_port="${REDRIVE_DYNAMODB_PORT:-$(recorded dynamodb.port)}"
  dynamodb_port="${dynamodb_port:-8000}"
  check_port REDRIVE_SQS_PORT "$sqs_port"
  check_port REDRIVE_DYNAMODB_PORT "$dynamodb_port"
  if [ "$sqs_port" = "$dynamodb_port" ]; then
    die "REDRIVE_SQS_PORT and REDRIVE_DYNAMODB_PORT are both $sqs_port; each server needs its own port"
  fi
}

check_port() {
  case "$2" in
    '' | *[!0-9]*) die "$1 is '$2', which is not a port number; set it to a number from 1 to 65535" ;;
  esac
  if [ "${#2}" -gt 5 ] || [ "$2" -lt 1 ] || [ "$2" -gt 65535 ]; then
    die "$1 is $2, which is out of range; set it to a number from 1 to 65535"
  fi
}

sqs_url() { printf 'http://127.0.0.1:%s' "$sqs_port"; }
dynamodb_url() { printf 'http://127.0.0.1:%s' "$dynamodb_port"; }

# Serialises up and down of one clone. The servers are started with descriptor 9 closed, so that they do not keep it.
lock() {
  mkdir -p "$run_dir"
  exec 9>"$run_dir/lock"
  if ! have flock; then
    say "flock is not installed, so do not run two of these scripts at once"
    return 0
  fi
  if ! flock -n 9; then
    say "waiting for another localstack/up or localstack/down of this clone"
    flock -w 600 9 || die "another localstack/up or localstack/down has held $run_dir/lock for 10 minutes" \
      "see who with: fuser -v $run_dir/lock"
  fi
}

# The process id of our own server ($1: sqs or dynamodb) if it is alive. A recycled id does not count: the command line
# must name this clone's folder.
own_pid() {
  local pid
  pid="$(recorded "$1.pid")"
  [ -n "$pid" ] || return 1
  case "$(ps -o args= -p "$pid" 2>/dev/null)" in
    *"$run_dir/"*) printf '%s' "$pid" ;;
    *) return 1 ;;
  esac
}

# Docker Compose, with a project name of this clone's own.
compose() {
  REDRIVE_SQS_PORT="$sqs_port" REDRIVE_DYNAMODB_PORT="$dynamodb_port" docker compose \
    --project-name "redrive-$(printf '%s' "$here" | cksum | cut -d ' ' -f 1)" --file "$here/compose.yaml" "$@" 9>&-
}

stop_server() {
  local pid waited=0
  pid="$(own_pid "$1")" || { rm -f "$state_dir/$1.pid"; return 0; }
  kill "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do
    if [ "$waited" -ge 50 ]; then
      kill -9 "$pid" 2>/dev/null || true
      break
    fi
    sleep 0.1
    waited=$((waited + 1))
  done
  rm -f "$state_dir/$1.pid"
  say "stopped $1 (process $pid)"
}

# Stops what this clone started, and nothing else.
stop_all() {
  if [ "$(recorded mode)" = docker ]; then
    compose down --volumes --timeout 5 >>"$log_dir/docker.log" 2>&1 || say "docker compose down failed; see $log_dir/docker.log"
  fi
  stop_server sqs
  stop_server dynamodb
  rm -rf "$state_dir"
}
