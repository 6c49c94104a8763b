"""A script for people with a shell: a download that goes on where it was cut off, and is checked in the end."""

from __future__ import annotations

import shlex
from urllib.parse import quote

__all__ = ["fetch_script"]

SCRIPT = """\
#!/bin/sh
# Downloads a cart of datahub, unpacks it here and checks every file of it.
# Run it again, if it was stopped: it goes on where it was. More options for curl: CURL_OPTIONS='-H ...' sh get.sh
set -u
CURL_OPTIONS=${{CURL_OPTIONS:-}}
url={url}
manifest={manifest}
tar={tar}
tries=${{TRIES:-1000}}

etag_file="$tar.etag"
while :; do
    etag=$(curl -sfI $CURL_OPTIONS "$url?wait=5m" | tr -d '\\r' | sed -n 's/^[Ee][Tt][Aa][Gg]: //p') || etag=
    if [ -n "$etag" ]; then
        # What there is of another content can't be gone on with.
        [ "$(cat "$etag_file" 2>/dev/null)" = "$etag" ] || rm -f "$tar"
        printf '%s' "$etag" > "$etag_file"
        curl -fsS $CURL_OPTIONS -H "If-Range: $etag" -C - -o "$tar" "$url"
        case $? in
            0) break ;;
            33) rm -f "$tar" ;;
            22) size=$(curl -sfI $CURL_OPTIONS "$url" | tr -d '\\r' | sed -n 's/^[Cc]ontent-[Ll]ength: //p')
                [ "$(wc -c < "$tar" 2>/dev/null | tr -d ' ')" = "$size" ] && break ;;
        esac
    fi
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || {{ echo "given up: $url" >&2; exit 1; }}
    sleep "${{PAUSE:-1}}"
done

tar -xf "$tar" || exit 1
until curl -fsS $CURL_OPTIONS -o "$tar.sha256" "$manifest"; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || {{ echo "no digests: $manifest" >&2; exit 1; }}
    sleep "${{PAUSE:-1}}"
done
sha256sum -c --quiet "$tar.sha256" || exit 1
rm -f "$etag_file" "$tar.sha256"
echo "whole, and every file as it should be: $tar"
"""


def fetch_script(origin: str, uid: str, top: str) -> str:
    """The script that downloads the tar with all files in the folder ``top`` from the hub at ``origin``."""
    here = f"{origin}/carts/{quote(uid, safe='')}"
    name = quote(top, safe="")
    return SCRIPT.format(
        url=shlex.quote(f"{here}/{name}.tar"),
        manifest=shlex.quote(f"{here}/manifest?top={name}"),
        tar=shlex.quote(f"./{top}.tar"),
    )
