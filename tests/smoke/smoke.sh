#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Smoke test with plain curl against any gateway (or the legacy backend itself: the answers are the same).
#   BASE_URL  default http://127.0.0.1:8080
#   TOKEN     a bearer token with a uuid as `sub`; without one the calls that need it are left out
# It registers one device with a new name through the API, binds it and gives it back.
# Every check prints a line; the last line is `N passed, N failed`.
set -euo pipefail

BASE_URL=${BASE_URL:-http://127.0.0.1:8080}
TOKEN=${TOKEN:-}
DEVICE=SMOKE-$(date +%s%N)-$$
PASSED=0
FAILED=0
ANSWER=$(mktemp)
HEAD=$(mktemp)
trap 'rm -f "$ANSWER" "$HEAD"' EXIT

# expect STATUS WORDS WHAT METHOD PATH [CURL ARG]...: one call; WORDS must be in the body.
expect() {
    local status=$1 words=$2 what=$3 method=$4 path=$5 got
    shift 5
    got=$(curl -sS --max-time 40 -o "$ANSWER" -D "$HEAD" -w '%{http_code}' -X "$method" "$BASE_URL$path" "$@") || got=000
    if [[ $got == "$status" ]] && grep -qF -- "$words" "$ANSWER"; then
        PASSED=$((PASSED + 1))
        printf 'ok      %s %s\n' "$got" "$what"
    else
        FAILED=$((FAILED + 1))
        printf 'not ok  %s, expected %s with %s: %s\n' "$got" "$status" "$words" "$what"
        head -c 600 "$ANSWER"
        echo
    fi
}

# expect_header NAME WHAT: about the last call.
expect_header() {
    if grep -qi "^$1:" "$HEAD"; then
        PASSED=$((PASSED + 1))
        printf 'ok      %s\n' "$2"
    else
        FAILED=$((FAILED + 1))
        printf 'not ok  no header %s: %s\n' "$1" "$2"
    fi
}

JSON=(-H 'Content-Type: application/json')
AUTH=("${JSON[@]}" -H "Authorization: Bearer $TOKEN")
BIND=/api/devices/bind-qr
UNBIND=/api/devices/unbind

expect 401 'Ошибка аутентификации' 'bind without a token' POST $BIND "${JSON[@]}" -d '{}'
expect_header X-Correlation-Id 'every answer has a correlation id'
expect 401 'Ошибка аутентификации' 'bind with a bad token' POST $BIND "${JSON[@]}" -H 'Authorization: Bearer x.y.z' -d '{}'
expect 400 '"statusCode":400' 'malformed JSON' POST $BIND "${JSON[@]}" -d '{'
expect 413 'request entity too large' '100 KiB and one byte' POST $BIND "${JSON[@]}" \
    --data-binary "{\"a\":\"$(head -c 102400 /dev/zero | tr '\0' a)\"}"
expect 401 'Unauthorized' 'an unknown path without a token' GET /api/nowhere

if [[ -n $TOKEN ]]; then
    expect 201 "$DEVICE" 'a path that only legacy knows: register a device' POST /api/manufacturing/generate-device-qr \
        "${JSON[@]}" -d "{\"deviceId\":\"$DEVICE\",\"model\":\"GrowBox-2\",\"firmwareVersion\":\"2.4.1\",\"publicKeyPem\":\"smoke\"}"
    expect 400 'at least 16 character(s)' 'a token that is too short' POST $BIND "${AUTH[@]}" \
        -d "{\"qrData\":{\"deviceId\":\"$DEVICE\",\"bindingToken\":\"abc\"}}"
    expect 400 'Unrecognized key(s) in object' 'a user in the body' POST $BIND "${AUTH[@]}" \
        -d "{\"qrData\":{\"deviceId\":\"$DEVICE\",\"fingerprint\":\"a\"},\"userId\":\"x\"}"
    expect 404 'Устройство не найдено' 'bind of an unknown device' POST $BIND "${AUTH[@]}" \
        -d "{\"qrData\":{\"deviceId\":\"$DEVICE-unknown\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\"}}"
    expect 200 'Устройство успешно привязано' 'bind' POST $BIND "${AUTH[@]}" \
        -d "{\"qrData\":{\"deviceId\":\"$DEVICE\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\"}}"
    expect 409 'ALREADY_BOUND' 'bind again' POST $BIND "${AUTH[@]}" \
        -d "{\"qrData\":{\"deviceId\":\"$DEVICE\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\"}}"
    expect 409 'ALREADY_BOUND' 'a minimal QR code, which always takes legacy' POST $BIND "${AUTH[@]}" \
        -d "{\"qrData\":{\"deviceId\":\"$DEVICE\",\"fingerprint\":\"5A:0C:91\"}}"
    expect 200 "$DEVICE" 'my devices' GET '/api/devices/my?page=1&limit=10' "${AUTH[@]}"
    expect 200 'Устройство успешно отвязано' 'unbind' POST $UNBIND "${AUTH[@]}" -d "{\"deviceId\":\"$DEVICE\"}"
    expect 400 'already unbound' 'unbind again' POST $UNBIND "${AUTH[@]}" -d "{\"deviceId\":\"$DEVICE\"}"
    expect 404 'Cannot GET' 'an unknown path' GET /api/nowhere "${AUTH[@]}"
fi

printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
[[ $FAILED -eq 0 ]]
