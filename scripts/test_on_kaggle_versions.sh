#!/usr/bin/env bash
# The fast tests on the versions of Kaggle's image (scripts/kaggle_versions.txt), in an environment of their own: .venv/kaggle.
#
#   scripts/test_on_kaggle_versions.sh [arguments of pytest]        by default -m "not slow", which is what `make test` runs
#   PYTHON=python3.12 scripts/test_on_kaggle_versions.sh tests/kaggle
#
# Kaggle's Python is 3.12; that is taken where it is there. The first time some GB are downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv/kaggle
python="${PYTHON:-python3.12}"
if ! "$python" -V > /dev/null 2>&1; then
  if [ -n "${PYTHON:-}" ]; then echo "PYTHON: there is no $PYTHON; name a Python 3.11 or 3.12" >&2; exit 2; fi
  python=python3
fi
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'; then
  echo "$python is $("$python" -V), which the versions of Kaggle's image do not run on; name a Python 3.11 or 3.12: PYTHON=... $0" >&2; exit 2
fi
wanted="$(cat scripts/kaggle_versions.txt pyproject.toml | cksum) $("$python" -V)"
if [ "$(cat "$venv/wanted" 2> /dev/null)" != "$wanted" ]; then
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/pip" install --quiet --constraint scripts/kaggle_versions.txt --editable ".[dev]"
  echo "$wanted" > "$venv/wanted"
fi
"$venv/bin/python" - << 'END'
import importlib.metadata

pins = [line.strip().split("==") for line in open("scripts/kaggle_versions.txt") if "==" in line]
found = {name: importlib.metadata.version(name) for name, _ in pins}
assert all(found[name].partition("+")[0] == version for name, version in pins), found
print("on", ", ".join(f"{name} {version}" for name, version in found.items()))
END
if [ $# -eq 0 ]; then set -- -m "not slow"; fi
"$venv/bin/python" -m pytest "$@"
