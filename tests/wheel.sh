#!/usr/bin/env bash
# Builds the package, installs it where the source tree is out of reach, and tests it there.
set -euo pipefail
cd "$(dirname "$0")/.."

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
# The wheel is built from the source distribution, so that one is complete, too.
"${1:-python3}" -m build --outdir "$directory/dist" . >"$directory/build.log" \
    || { cat "$directory/build.log"; exit 1; }

mkdir "$directory/source"
tar --extract --gzip --file "$directory"/dist/*.tar.gz --directory "$directory/source" \
    --strip-components 1
for named in Makefile docker-compose.yml CONTRIBUTING.md SECURITY.md docs tests uwsgi_configs .ci; do
    test -e "$directory/source/$named" || { echo "not in the source distribution: $named"; exit 1; }
done
wheel=$(echo "$directory"/dist/*.whl)
diff <(cd "$directory/source" && find uwsgi_waffle -type f | sort) \
    <("${1:-python3}" -m zipfile --list "$wheel" | grep --only-matching '^uwsgi_waffle/[^ ]*' | sort) \
    || { echo "< not in the wheel, > only there"; exit 1; }
rm -r "$directory/source/uwsgi_waffle"

"${1:-python3}" -m venv "$directory/venv"
python=$directory/venv/bin/python
"$python" -m pip install --quiet --upgrade 'pip>=25.1'
cd "$directory/source"
"$python" -m pip install --quiet "$wheel[admin,encryption,gevent,mysql,postgresql]" --group core-test
"$python" -c 'import uwsgi_waffle; assert "site-packages" in uwsgi_waffle.__file__'
# What a package that is installed finds in other places: its data, its commands, its plugin.
"$python" -m pytest --numprocesses 4 --dist loadfile -p no:cacheprovider \
    tests/values/test_settings.py tests/cli/test_program.py tests/test_plugin.py
