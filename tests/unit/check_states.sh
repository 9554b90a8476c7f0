#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# docs/states.md tells what the code does: its table of the exchange has exactly the transitions of src/exchange/exchange.c,
# and its tables of states and phases name exactly the enumerators.
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

# The rows of transitions[]: each "[FROM] = 1u << TO | 1u << TO," is on as many lines as it likes.
transitions() {
    awk '/transitions\[EXCHANGE_STATE_COUNT\]/ { on = 1; next } on && /^};/ { exit } on' src/exchange/exchange.c |
        tr '\n' ' ' | grep -oE '\[EXCHANGE_[A-Z]+\] *= *[^,]*' | while IFS='=' read -r from to; do
        from=$(tr -d '[] ' <<<"$from")
        { grep -oE 'EXCHANGE_[A-Z]+' <<<"$to" || true; } | sed "s/^/$from /"
    done | sed 's/EXCHANGE_//g' | tr '[:upper:]' '[:lower:]' | sort
}

# enumerators FILE ENUM PREFIX
enumerators() { sed -n "/^enum $2 {/,/};/p" "$1" | sed 's:/\*.*::' | grep -oE "$3[A-Z]+" | sort; }

exchange_states() {
    sed -n '/^#define EXCHANGE_STATES/,/^enum/p' src/exchange/internal.h | sed -n 's/.*X(EXCHANGE_[A-Z]*, "\([a-z]*\)").*/\1/p' | sort
}

same 'transitions of the exchange' "$(transitions)" "$(section 'The exchange' | rows 2 '[a-z]+')"
same 'states of the exchange' "$(exchange_states)" \
    "$(section 'The exchange' | awk '/^\| from / { exit } { print }' | rows 1 '[a-z]+')"
same 'phases of a request' "$(enumerators src/http/internal.h http_phase HTTP_PHASE_)" \
    "$(section 'The HTTP request' | rows 1 'HTTP_PHASE_[A-Z]+')"
same 'phases of the process' "$(enumerators src/app.h app_phase APP_)" "$(section 'The process' | rows 1 'APP_[A-Z]+')"

[[ $failures -eq 0 ]]
