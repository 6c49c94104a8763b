"""A script for people with a shell: a download that goes on where it was cut off, and is checked in the end."""

from __future__ import annotations

import shlex
from urllib.parse import quote

__all__ = ["fetch_script"]

SCRIPT = """\
set -u
CURL_OPTIONS=${CURL_OPTIONS:-}
tries=${TRIES:-1000}
etag_file="$tar.etag" heads="$tar.head" answer="$tar.answer"
trap 'rm -f "$heads" "$answer"' EXIT

ask() {
    rm -f "$heads"
    if [ -n "${DATAHUB_TOKEN:-}" ]; then
        # By its input, so that no list of processes shows the token.
        printf 'header = "Authorization: Bearer %s"\\n' "$DATAHUB_TOKEN" | curl -sS -K - $CURL_OPTIONS "$@"
    else
        curl -sS $CURL_OPTIONS "$@"
    fi
}

# The status of an answer, which goes to a file together with its headers.
look() {
    rm -f "$answer"
    ask -D "$heads" -o "$answer" -w '%{http_code}' "$@" || :
}

header() {
    tr -d '\\r' < "$heads" 2>/dev/null | grep -i "^$1:" | tail -n 1 | sed 's/^[^:]*: *//'
}

have() {
    if [ -f "$tar" ]; then wc -c < "$tar" | tr -d ' '; else echo 0; fi
}

stop() {
    echo "$1" >&2
    exit 1
}

# Waits as long as the hub says; stops with its words if asking again won't help.
again() {
    told=$(head -c 1000 "$answer" 2>/dev/null | tr -d '\\000')
    case $1 in
        2??) told= ;;
        408|416|425|429) ;;
        4??) stop "$url: $1 $told" ;;
    esac
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || stop "given up: $url: $1 $told"
    seconds=$(header Retry-After)
    sleep "${seconds:-${PAUSE:-1}}"
}

if [ -e "$tar" ] && [ ! -e "$etag_file" ]; then
    [ ! -e "$tar.old" ] || stop "$tar and $tar.old are there, and not of this script: move them away"
    mv "$tar" "$tar.old" || exit 1
    echo "there was another $tar: it is $tar.old now" >&2
fi
while :; do
    status=$(look -r 0-0 "$url?wait=5m")
    etag=$(header ETag)
    if [ "$status" = 206 ] && [ -n "$etag" ]; then
        size=$(header Content-Range | sed 's/.*\\///')
        # What there is of another content can't be gone on with.
        [ "$(cat "$etag_file" 2>/dev/null)" = "$etag" ] || rm -f "$tar"
        printf '%s' "$etag" > "$etag_file"
        [ "$(have)" != "$size" ] || break
        ask -f -H "If-Range: $etag" -C - -o "$tar" "$url"
        case $? in
            0) break ;;
            33) rm -f "$tar" ;;
        esac
        # Why it ended: the hub tells that of what would come next.
        status=$(look -r "$(have)-$(have)" "$url")
    fi
    again "$status"
done

tar -xf "$tar" || exit 1
url=$manifest
while status=$(look "$url"); [ "$status" != 200 ]; do
    again "$status"
done
sha256sum -c --quiet "$answer" || exit 1
# The tag stays beside the tar: run again, this looks at what is there and fetches nothing.
echo "whole, and every file as it should be: $tar"
"""

START = """\
#!/bin/sh
# Downloads a cart of datahub, unpacks it here and checks every file of it.
# Run it again, if it was stopped: it goes on where it was.
# DATAHUB_TOKEN=... sh get.sh   if the hub wants a token
# CURL_OPTIONS='-K FILE' sh get.sh   more options of curl, in a file of that name (see curl -K); -k or so without one
url={url}
manifest={manifest}
tar={tar}
"""


def fetch_script(origin: str, uid: str, top: str) -> str:
    """The script that downloads the tar with all files in the folder ``top`` from the hub at ``origin``."""
    here = f"{origin}/carts/{quote(uid, safe='')}"
    name = quote(top, safe="")
    start = START.format(
        url=shlex.quote(f"{here}/{name}.tar"),
        manifest=shlex.quote(f"{here}/manifest?top={name}"),
        tar=shlex.quote(f"./{top}.tar"),
    )
    return start + SCRIPT
