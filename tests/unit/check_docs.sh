#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The pages tell what is there: links and paths lead somewhere, and what an operator meets (settings, metrics, error codes,
# reasons, log fields) is described, and nothing that does not exist.
# usage: check_docs.sh [ROOT]
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/../..}"
PAGES=(README.md CHANGELOG.md docs/*.md examples/*/README.md)

failures=0
complain() {
    printf '%s\n' "$*" >&2
    failures=$((failures + 1))
}

# text PAGE: without fenced blocks.
text() { awk '/^```/ { fenced = !fenced; next } !fenced' "$1"; }

# anchors PAGE: of its headings, as GitHub makes them.
anchors() { text "$1" | sed -n 's/^#\{1,6\} //p' | tr '[:upper:]' '[:lower:]' | sed 's/[^a-z0-9 _-]//g; s/ /-/g'; }

check_link() {
    local page=$1 link=$2 file=$1
    case $link in http://* | https://* | mailto:*) return 0 ;; esac
    [[ -z ${link%%#*} ]] || file=$(dirname "$page")/${link%%#*}
    if [[ ! -e $file ]]; then
        complain "$page: the link $link leads nowhere"
    elif [[ $link == *'#'* ]] && ! grep -qxF -- "${link#*#}" <<<"$(anchors "$file")"; then
        complain "$page: $link: no such heading"
    fi
}

# A code span that looks like a path of the repository; <...> and * stand for any name.
check_path() {
    local page=$1 path=$2
    path=${path//<*([^>])>/*}
    # shellcheck disable=SC2206 # the pattern is to be expanded
    local found=($path)
    [[ -e ${found[0]:-} ]] || complain "$page: there is no ${2}"
}
shopt -s extglob

for page in "${PAGES[@]}"; do
    while read -r link; do check_link "$page" "$link"; done < <(text "$page" | grep -oE '\]\([^) ]+\)' | sed 's/^](//; s/)$//' || true)
    # shellcheck disable=SC2016 # the backticks are markdown's
    while read -r path; do check_path "$page" "$path"; done < <(text "$page" |
        grep -oE '`(src|include|docs|tests|routes|config|examples|bench|openapi)/[A-Za-z0-9_./<>*-]*`' | tr -d '`' | sort -u || true)
    ! grep -nE 'design\.md' "$page" >&2 || complain "$page: speaks of a page that is not here"
done

# described WHAT PAGE NAME...: each name is a code span of the page.
described() {
    local what=$1 page=$2 name
    shift 2
    [[ $# -gt 0 ]] || complain "$what: nothing found in the code; has its form changed?"
    for name in "$@"; do
        grep -qF "\`$name\`" "$page" || complain "$page: $what $name is not described"
    done
}

# names COMMAND...: the words of its output in NAMES.
names() { mapfile -t NAMES < <("$@" | sort -u); }
labels() { sed -n "/^#define $2(X)/,/[^\\\\]\$/p" "$1" | grep -oE '"[a-z_]+"' | tr -d '"'; }

names grep -ohE '"(SYNCGATE|KAFKA|LEGACY|FEATURE|AUTH|SHUTDOWN|TRUSTED)_[A-Z0-9_]+"' src/config/options.c
SETTINGS=("${NAMES[@]//\"/}")
described setting docs/configuration.md "${SETTINGS[@]}"
# A histogram is described by its name alone, not by its parts.
metrics() { grep -ohE '"syncgate_[a-z_]+"' src/ops/render.c | sed -E 's/(_bucket|_sum|_count)"$/"/'; }
names metrics
METRICS=("${NAMES[@]//\"/}")
described metric docs/operations.md "${METRICS[@]}"
names labels include/syncgate/path.h PATH_FALLBACKS
described 'fallback reason' docs/operations.md "${NAMES[@]}"
names labels include/syncgate/ops.h OPS_REPLIES
described 'result of a reply' docs/operations.md "${NAMES[@]}"
mapfile -t NAMES < <(labels include/syncgate/await.h AWAIT_WINNERS | grep -vx pending)
described winner docs/operations.md "${NAMES[@]}"
described winner docs/states.md "${NAMES[@]}"
mapfile -t NAMES < <(sed -n 's/^ *log_[a-z0-9]*(&line, "\([A-Za-z]*\)".*/\1/p' src/exchange/report.c | sort -u)
described 'log field' docs/operations.md "${NAMES[@]}"

# Codes that a client sees with 5xx, when something in the code makes them.
while read -r code wire; do
    if grep -rqw "$code" src; then described 'error code' docs/operations.md "$wire"; fi
done < <(sed -n 's/^ *X(\(ERR_[A-Z_]*\), "\([A-Z_]*\)", 50[1-4],.*/\1 \2/p' include/syncgate/err.h)

# The other way round: what the pages name exists. KAFKA_* may be any property of librdkafka.
for page in "${PAGES[@]}"; do
    while read -r name; do
        case $name in
        FEATURE_KAFKA_EVENTS_* | *_FILE | SYNCGATE_ | AUTH_ | LEGACY_ | SHUTDOWN_) continue ;;
        esac
        [[ " ${SETTINGS[*]} " == *" $name "* ]] || complain "$page: there is no setting $name"
    done < <(grep -ohE '\b(SYNCGATE|LEGACY|AUTH|SHUTDOWN|TRUSTED)_[A-Z0-9_]+' "$page" |
        grep -vxE 'LEGACY_(UNREACHABLE|BROKEN|TIMEOUT)|TRUSTED_PROX' | sort -u || true)
    while read -r name; do
        [[ " ${METRICS[*]} " == *" $name "* || $name == syncgate_kafka_ ]] || complain "$page: there is no metric $name"
    done < <(grep -ohE '\bsyncgate_[a-z_]+' "$page" | sort -u || true)
done

[[ $failures -eq 0 ]]
