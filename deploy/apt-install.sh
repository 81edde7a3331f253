#!/bin/sh
# Installs Debian packages that are missing, without starting their services; says in one sentence what to do when it may not.
# usage: deploy/apt-install.sh COMMAND=PACKAGE ...   (a package is missing when its command is not found)
set -eu
PATH="$PATH:/usr/sbin:/usr/lib/chromium"
missing=""
for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null 2>&1 || missing="$missing ${pair#*=}"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "please install:$missing (this system has no apt-get)" >&2; exit 1
fi
if [ "$(id -u)" -eq 0 ]; then as=""; elif sudo -n true 2>/dev/null; then as="sudo"; else
    echo "please run: sudo apt-get install$missing" >&2; exit 1
fi
# The package's own service would take the ports of the one that medai starts.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' | $as tee /usr/sbin/policy-rc.d >/dev/null
    $as chmod 755 /usr/sbin/policy-rc.d
    trap '$as rm -f /usr/sbin/policy-rc.d' EXIT
fi
echo "installing$missing" >&2
$as apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $as apt-get install -y -qq --no-install-recommends $missing >/dev/null
