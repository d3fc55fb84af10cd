#!/usr/bin/env bash
# Checks that the servers which the tests start are installed. As root, as in CI, it installs the
# missing ones; any other user gets the command for it, and the tests that need them are skipped.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v mariadbd >/dev/null || missing+=(mariadb-server)
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null \
    || command -v postgres >/dev/null || missing+=(postgresql)
command -v pgbouncer >/dev/null || missing+=(pgbouncer)
command -v wrk >/dev/null || missing+=(wrk)
# For the tests of the pages: a browser, what drives it, and npm, which brings axe.
command -v chromium >/dev/null || missing+=(chromium)
command -v chromedriver >/dev/null || missing+=(chromium-driver)
command -v npm >/dev/null || missing+=(npm)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Not installed here: ${missing[*]}. The tests that need them are skipped. To run them too:"
    echo "    sudo apt-get install ${missing[*]}"
    exit 0
fi

echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends "${missing[@]}"
