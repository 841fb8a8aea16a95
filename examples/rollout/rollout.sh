#!/bin/sh
# Replaces one instance of a service by a new one; the service never has fewer backends than before.
#
#   rollout.sh SERVICE CONSUMER COUNT OLD_PID COMMAND...
#
# COUNT is the number of backends that the service has. OLD_PID is the process of the old instance, which withdraws its
# record when it gets SIGTERM, as `discovery register SERVICE HOST:PORT -- PROGRAM` does. COMMAND starts the new
# instance, which registers itself, and stays in the foreground. CONSUMER is the consumer of the daemon on this machine
# that carries the traffic. The process of the new instance is printed. TIMEOUT is how long each wait may take.
#
# The exit code is 0, or 1 if the new instance was not served in time: it is stopped, and the old one stays; 2 if COUNT is
# no number, before anything is started.
set -eu

service=$1 consumer=$2 count=$3 old=$4
shift 4
case $count in
'' | *[!0-9]*)
    echo "rollout: '$count' is not the number of backends; nothing was started" >&2
    exit 2
    ;;
esac

"$@" >&2 &
new=$!

if ! discovery wait "$service" --backends $((count + 1)) --applied-by "$consumer" --timeout "${TIMEOUT:-60s}" >&2; then
    echo "rollout: the new instance is not served, and is stopped; the old one stays" >&2
    kill "$new" 2>/dev/null || true
    wait "$new" || true
    exit 1
fi

kill "$old"
discovery wait "$service" --at-most "$count" --applied-by "$consumer" --timeout "${TIMEOUT:-60s}" >&2
echo "$new"
