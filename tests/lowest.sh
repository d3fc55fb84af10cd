#!/usr/bin/env bash
# The tests of the core on the oldest versions that pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/.."

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${1:-python3}" -m venv "$directory/venv"
python=$directory/venv/bin/python
"$python" -m pip install --quiet --upgrade 'pip>=25.1'

# "flask>=3.0" is installed as "flask==3.0".
"$python" - >"$directory/oldest.txt" <<'PYTHON'
import re
from pathlib import Path

project = Path("pyproject.toml").read_text().partition("[dependency-groups]")[0]
for name, version in re.findall(r'"([a-z-]+)(?:\[\w+\])?>=([\d.]+)"', project):
    if name not in {"hatchling", "uwsgi"}:
        print(f"{name}=={version}")
PYTHON
cat "$directory/oldest.txt"
"$python" -m pip install --quiet --constraint "$directory/oldest.txt" --editable \
    '.[admin,encryption,gevent,migrations,mysql,postgresql]' --group core-test
# `WaffleConf(db=...)` needs Flask-SQLAlchemy 3.1, which needs a later SQLAlchemy.
"$python" -m pytest --numprocesses 4 --dist loadfile -p no:cacheprovider \
    --ignore tests/sql/test_application.py \
    tests/values tests/host tests/sql tests/bus tests/process tests/listen tests/cli tests/ops \
    tests/test_config.py
