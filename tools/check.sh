#!/usr/bin/env bash
# Format, lint, types, tests: exactly what CI runs. `tools/check.sh static` leaves the tests out;
# other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi

"$python" -m ruff format --check .
"$python" -m ruff check .
"$python" -m mypy
if [ "${1:-}" != static ]; then "$python" -m pytest "$@"; fi
