#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The arrows between the rooms are law (docs/architecture.md): a file includes its own room and rooms of a lower rank,
# never a sibling. Foreign libraries have one room each, and every public header compiles alone.
# usage: check_includes.sh [ROOT]
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/../..}"

# Within the pure rooms, route and path stand on schema and mapping.
declare -A RANK=([base]=0 [config]=1 [loop]=1 [schema]=2 [mapping]=2 [route]=3 [path]=3 [await]=4
    [http]=5 [kafka]=5 [legacy]=5 [auth]=5 [ops]=5 [exchange]=6 [app]=7)
declare -A ONLY_IN=([microhttpd.h]=http [rdkafka.h]=kafka [rdkafka_mock.h]=kafka [curl.h]=legacy [multi.h]=legacy
    [easy.h]=legacy [jwt.h]=auth)

failures=0
complain() {
    printf '%s\n' "$*" >&2
    failures=$((failures + 1))
}

# room_of_header NAME: the room of include/syncgate/NAME.h: the one of that name, or the one with NAME.c.
room_of_header() {
    local source
    if [[ -n ${RANK[$1]:-} ]]; then
        echo "$1"
        return
    fi
    for source in src/*/"$1".c; do
        [[ -f $source ]] && basename "$(dirname "$source")" && return
    done
    # A header without a source file of its own is base's: a table or a few inline functions.
    echo base
}

room_of_file() {
    case $1 in
    include/syncgate/*) room_of_header "$(basename "$1" .h)" ;;
    src/*/*) basename "$(dirname "$1")" ;;
    *) echo app ;; # src/main.c, src/app.c
    esac
}

declare -A ROOM_OF_HEADER
for header in include/syncgate/*.h; do
    name=$(basename "$header" .h)
    ROOM_OF_HEADER[$name]=$(room_of_header "$name")
done

declare -A ROOM_OF_FILE
while IFS=: read -r file line text; do
    room=${ROOM_OF_FILE[$file]:=$(room_of_file "$file")}
    if [[ -z ${RANK[$room]:-} ]]; then
        complain "$file: src/$room/ is not a room that this script knows"
        continue
    fi
    if [[ $text =~ \"syncgate/([a-z0-9_]+)\.h\" ]]; then
        target=${ROOM_OF_HEADER[${BASH_REMATCH[1]}]:-}
        if [[ -z $target ]]; then
            complain "$file:$line: no such header: $text"
        elif [[ $target != "$room" && ${RANK[$target]} -ge ${RANK[$room]} ]]; then
            complain "$file:$line: $room may not include $target"
        fi
    elif [[ $text =~ \"([^\"]+)\" ]]; then
        # A private header stays beside its .c; a generated one is found by its name only.
        if [[ ${BASH_REMATCH[1]} == */* ]]; then
            complain "$file:$line: a private header is included from its own folder only: $text"
        fi
    elif [[ $text =~ \<(.*/)?([^/\>]+)\> ]]; then
        owner=${ONLY_IN[${BASH_REMATCH[2]}]:-}
        case ${BASH_REMATCH[0]} in
        *curl/* | *microhttpd.h* | *rdkafka* | *jwt.h*)
            [[ -z $owner || $room == "$owner" ]] || complain "$file:$line: only $owner includes ${BASH_REMATCH[0]}"
            ;;
        esac
    fi
done < <(find src include -name '*.[ch]' -exec grep -nE '^[[:space:]]*#[[:space:]]*include' {} +)

# One compiler run per header; only include/ is on the path, so a header that leans on another one fails.
compile_alone() {
    printf '#include "%s"\n' "${1#include/}" |
        "${CC:-cc}" -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c - >&2 || echo "$1"
}
export -f compile_alone
mapfile -t broken < <(printf '%s\n' include/syncgate/*.h | xargs -P 2 -I{} bash -c "compile_alone {}")
for header in ${broken[@]+"${broken[@]}"}; do
    complain "$header does not compile alone"
done
for header in include/syncgate/*.h; do
    grep -q '^#pragma once' "$header" || complain "$header lacks #pragma once"
done

[[ $failures -eq 0 ]]
