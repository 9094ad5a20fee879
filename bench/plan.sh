#!/bin/bash
# ./bench/run plan [--data SET] [--rows N] [--samples N,N...]
#
# What `kith plan` says beforehand of the time of a query, beside what bench_ann measures afterwards: of a collection with N rows of a set
# (all of them), by the index at the default recall and exactly, predicted from samples of all its rows, a half and a quarter (or as told), and
# from made-up vectors. In turn, five rounds of each, the median of each side. A sample of fewer than 20,000 rows has no index to tell of.
set -euo pipefail
here=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf '%s\n' "$*" >&2; }
data=glove rows=0 samples='' rounds=5
while [ $# -gt 0 ]; do
    case $1 in
        --data | --rows | --samples | --rounds) [ $# -ge 2 ] || { say "$1: of what?"; exit 2; } ;;
        *) say "usage: bench/run plan [--data SET] [--rows N] [--samples N,N...] [--rounds N]"; exit 2 ;;
    esac
    printf -v "${1#--}" '%s' "$2"
    shift 2
done
folder=$("$here/data/get" "$data")
field() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$folder/set.json"; }
dim=$(field dim)
if [ "$rows" -eq 0 ] || [ "$rows" -gt "$(field base)" ]; then rows=$(field base); fi
[ -n "$samples" ] || samples=$rows,$((rows / 2)),$((rows / 4))
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# npy N: a file of N rows of the set. Its header is padded to a multiple of 64 bytes.
npy() {
    local header="{'descr': '<f4', 'fortran_order': False, 'shape': ($1, $dim), }" file=$scratch/$1.npy
    printf -v header '%-117s\n' "$header"
    { printf '\x93NUMPY\x01\x00\x76\x00%s' "$header"; head -c $((4 * dim * $1)) "$folder/base.f32"; } > "$file"
    printf '%s' "$file"
}
number() { sed -n "s/.*\"$1\":\([0-9.e+]*\).*/\1/p"; }
median() { sort -g | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

names=() files=()
for n in ${samples//,/ }; do names+=("$n") files+=("$(npy "$n")"); done
names+=(made-up) files+=('')
for ((round = 1; round <= rounds; round++)); do
    say "round $round of $rounds"
    "$KITH_BUILD/bench/bench_ann" "$folder" --rows "$rows" --queries 1000 --tune 250 --rounds 1 --engine kith=pq4 2>/dev/null > "$scratch/ann"
    sed -n 's/.*"setting":"recall 0.95",.*"value":\([0-9.]*\).*/\1/p' "$scratch/ann" | awk '{ print 1e6 / $1 }' >> "$scratch/index"
    sed -n 's/.*"setting":"exact",.*"value":\([0-9.]*\).*/\1/p' "$scratch/ann" | awk '{ print 1e6 / $1 }' >> "$scratch/exact"
    for i in "${!names[@]}"; do
        if [ -n "${files[i]}" ]; then options=(--sample "${files[i]}"); else options=(--dim "$dim"); fi
        "$KITH_BUILD/kith" plan "${options[@]}" --rows "$rows" --json 2>/dev/null > "$scratch/plan"
        number index_us < "$scratch/plan" >> "$scratch/$i.index"
        number exact_us < "$scratch/plan" >> "$scratch/$i.exact"
    done
done

say "$data, $rows x $dim: microseconds of CPU a query, medians of $rounds"
say "$(printf '%-10s %-6s %10s %10s %8s' sample way predicted measured ratio)"
for i in "${!names[@]}"; do
    for way in index exact; do
        predicted=$(median < "$scratch/$i.$way") measured=$(median < "$scratch/$way")
        [ -n "$predicted" ] || continue # the sample is too small for an index
        ratio=$(awk "BEGIN { printf \"%.2f\", $predicted / $measured }")
        printf '{"bench":"plan","case":"%s","data":"%s","rows":%d,"dim":%d,"sample":"%s","value":%s,"unit":"us of CPU","measured":%s,"ratio":%s}\n' \
            "$way" "$data" "$rows" "$dim" "${names[i]}" "$predicted" "$measured" "$ratio"
        say "$(printf '%-10s %-6s %10.0f %10.0f %8s' "${names[i]}" "$way" "$predicted" "$measured" "$ratio")"
    done
done
