#!/bin/bash
# Succeeds when the server of this container answers /readyz with 200; it needs no more than bash.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/${GLEANER_LISTEN##*:}"
printf 'GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
read -r -t 4 _ status _ <&3
[ "$status" = 200 ]
