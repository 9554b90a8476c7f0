#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Does what a newcomer does: ./dev up, wait for `ready`, paste what it printed, twice, then Ctrl-C.
# usage: check_up.sh [--legacy]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

work=$(mktemp -d)
up_pid=''
finish() {
    [[ -z $up_pid ]] || kill -TERM "$up_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
fail() {
    printf 'check_up: %s\n' "$*" >&2
    cat "$work/err" >&2
    exit 1
}

free_port() {
    local port=$((10000 + RANDOM % 10000))
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

listen=127.0.0.1:$(free_port)
SYNCGATE_LISTEN=$listen SYNCGATE_ADMIN_LISTEN=127.0.0.1:0 DEVICE_SERVICE_LISTEN=127.0.0.1:0 \
    ./dev up "$@" >"$work/out" 2>"$work/err" &
up_pid=$!
for ((i = 0; i < 1200; i++)); do
    ! grep -qx ready "$work/out" || break
    kill -0 "$up_pid" 2>/dev/null || fail 'it ended by itself'
    sleep 0.1
done
grep -qx ready "$work/out" || fail 'no ready line'

# A second one is told which port is taken.
if SYNCGATE_LISTEN=$listen ./dev up "$@" >/dev/null 2>"$work/busy"; then fail 'a second ./dev up on a busy port'; fi
grep -q "port ${listen##*:} is in use" "$work/busy" || fail "no clear message: $(cat "$work/busy")"

grep -vx ready "$work/out" >"$work/paste"
sed -n 's/^# expect \([0-9]*\): .*/\1/p' "$work/paste" >"$work/expected"
[[ $(sort -u "$work/expected" | tr '\n' ' ') == '200 201 400 401 404 409 ' ]] || fail 'not every kind of answer is shown'
for round in 1 2; do
    bash "$work/paste" >"$work/pasted" 2>&1 || fail "pasting failed: $(cat "$work/pasted")"
    grep -xE '[0-9]{3}' "$work/pasted" >"$work/got" || true
    diff "$work/expected" "$work/got" >&2 || fail "round $round: $(cat "$work/pasted")"
done

kill -TERM "$up_pid"
status=0
wait "$up_pid" || status=$?
up_pid=''
[[ $status -eq 0 ]] || fail "it ended with $status"
if (exec 3<>"/dev/tcp/${listen%:*}/${listen##*:}") 2>/dev/null; then fail 'the gateway is still there'; fi
