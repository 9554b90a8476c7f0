#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# docs/states.md tells what the code does: its tables of the exchange and of the circuit breaker have exactly the transitions of
# src/exchange/exchange.c and src/path/breaker.c, and its tables of states and phases name exactly the enumerators.
# usage: check_states.sh [ROOT]
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/../..}"
PAGE=docs/states.md

failures=0
# same WHAT CODE PAGE: two sorted lists, which must not be empty.
same() {
    if [[ -z $2 ]]; then
        echo "$1: nothing found in the code; has its form changed?" >&2
        failures=$((failures + 1))
    elif [[ $2 != "$3" ]]; then
        echo "$1: < code, > $PAGE" >&2
        diff <(printf '%s\n' "$2") <(printf '%s\n' "$3") >&2 || true
        failures=$((failures + 1))
    fi
}

# section TITLE: the lines of that section of the page.
section() { awk -v title="## $1" '/^## / { on = ($0 == title) } on' "$PAGE"; }

# rows COLUMNS PATTERN: table rows whose first COLUMNS cells are one code span each that fits PATTERN, as words.
rows() {
    local cell="\`($2)\` *\\|" line="^\\|" i
    for ((i = 0; i < $1; i++)); do line+=" *$cell"; done
    grep -oE "$line" | tr -d '|`' | awk '{ $1 = $1; print }' | sort || true
}

# transitions FILE PREFIX: the rows of transitions[]: each "[FROM] = 1u << TO | 1u << TO," is on as many lines as it likes.
transitions() {
    awk -v head="transitions[$2STATE_COUNT]" 'index($0, head) { on = 1; next } on && /^};/ { exit } on' "$1" |
        tr '\n' ' ' | grep -oE "\[$2[A-Z_]+\] *= *[^,]*" | while IFS='=' read -r from to; do
        from=$(tr -d '[] ' <<<"$from")
        { grep -oE "$2[A-Z_]+" <<<"$to" || true; } | sed "s/^/$from /"
    done | sed "s/$2//g" | tr '[:upper:]' '[:lower:]' | sort
}

# enumerators FILE ENUM PREFIX
enumerators() { sed -n "/^enum $2 {/,/};/p" "$1" | sed 's:/\*.*::' | grep -oE "$3[A-Z]+" | sort; }

# names FILE TABLE PREFIX: the names in the X-macro TABLE.
names() { sed -n "/^#define $2(X)/,/^enum/p" "$1" | sed -n "s/.*X($3[A-Z_]*, \"\([a-z_]*\)\").*/\1/p" | sort; }

# before and from CELL: the lines up to, or beginning with, the table whose head begins with CELL.
before() { awk -v head="| $1 " 'index($0, head) == 1 { exit } { print }'; }
from() { awk -v head="| $1 " 'index($0, head) == 1 { on = 1 } on'; }

same 'transitions of the exchange' "$(transitions src/exchange/exchange.c EXCHANGE_)" \
    "$(section 'The exchange' | rows 2 '[a-z]+')"
same 'states of the exchange' "$(names src/exchange/internal.h EXCHANGE_STATES EXCHANGE_)" \
    "$(section 'The exchange' | before from | rows 1 '[a-z]+')"
same 'transitions of the breaker' "$(transitions src/path/breaker.c PATH_BREAKER_)" \
    "$(section 'The circuit breaker' | rows 2 '[a-z_]+')"
same 'states of the breaker' "$(names include/syncgate/path.h PATH_BREAKER_STATES PATH_BREAKER_)" \
    "$(section 'The circuit breaker' | before from | rows 1 '[a-z_]+')"
same 'reasons of the breaker' "$(names include/syncgate/path.h PATH_BREAKER_REASONS PATH_BREAKER_)" \
    "$(section 'The circuit breaker' | from reason | rows 1 '[a-z_]+')"
same 'phases of a request' "$(enumerators src/http/internal.h http_phase HTTP_PHASE_)" \
    "$(section 'The HTTP request' | rows 1 'HTTP_PHASE_[A-Z]+')"
same 'phases of the process' "$(enumerators src/app.h app_phase APP_)" "$(section 'The process' | rows 1 'APP_[A-Z]+')"

[[ $failures -eq 0 ]]
