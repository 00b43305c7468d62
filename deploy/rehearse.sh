#!/usr/bin/env bash
# Rehearses rollouts on this machine, on loopback addresses only: see `deploy/rehearse.sh --help` and deploy/README.md.
# Needs haproxy, openssl and an environment with Saccade: PYTHON, else .venv, else python3.
set -euo pipefail
cd "$(dirname "$0")/.."
for program in haproxy openssl; do
  PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || { echo "$program is not installed" >&2; exit 2; }
done
export GRPC_VERBOSITY=${GRPC_VERBOSITY:-NONE} # or gRPC tells of each connection that a replica closes
[ -x .venv/bin/python ] && usual=.venv/bin/python || usual=python3
exec "${PYTHON:-$usual}" deploy/rehearsal/rehearse.py "$@"
