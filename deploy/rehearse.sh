#!/usr/bin/env bash
# Rehearses rollouts on this machine, on loopback addresses only: see `deploy/rehearse.sh --help` and deploy/README.md.
# Needs haproxy, openssl and an environment with Saccade: PYTHON, else .venv, else python3.
set -euo pipefail
cd "$(dirname "$0")/.."
for program in haproxy openssl; do
  PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || { echo "$program is not installed" >&2; exit 2; }
done
export GRPC_VERBOSITY=${GRPC_VERBOSITY:-NONE} # or gRPC tells of each connection that a replica closes
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
exec "$python" deploy/rehearsal/rehearse.py "$@"
