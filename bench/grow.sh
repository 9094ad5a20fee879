#!/bin/bash
# ./bench/run grow [--rows N,N...] [--hnswlib N] [--dim D | --data SET] [--rounds R]
#
# What a query and a point cost as a collection grows: the CPU time of a query at recall 0.95 through search_run (bench_ann, so a real store), and
# the bytes of a point on disk, needed by 2,000 queries, and lockable, for N rows of a made-up set (bench_clusters; a smaller N is the
# beginning of the same file, with the same queries). Ends with the exponent of N that fits the times best, and the same of hnswlib for as far as
# it is built.
#   --rows N,N...  10000,100000,1000000,4000000
#   --data SET     instead of the made-up one, as of bench/run ann
#   --hnswlib N    beside graphs of hnswlib up to N rows (100000; 0: none): 1,000,000 rows take a quarter of an hour on two cores
set -euo pipefail
here=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf '%s\n' "$*" >&2; }
rows=10000,100000,1000000,4000000 hnswlib=100000 dim=128 data='' rounds=5
while [ $# -gt 0 ]; do
    case $1 in
        --rows | --hnswlib | --dim | --data | --rounds) [ $# -ge 2 ] || { say "$1: of what?"; exit 2; } ;;
        *) say "unknown option $1"; exit 2 ;;
    esac
    printf -v "${1#--}" '%s' "$2"
    shift 2
done
IFS=, read -ra sizes <<<"$rows"
largest=$(printf '%s\n' "${sizes[@]}" | sort -n | tail -n 1)
folder=$("$here/data/get" "${data:-clustered:$largest:$dim}")
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT

for n in "${sizes[@]}"; do
    engines=(--engine kith=pq4)
    [ "$n" -gt "$hnswlib" ] || engines+=(--engine "hnswlib=M16 efC200")
    "$KITH_BUILD/bench/bench_ann" "$folder" --rows "$n" --queries 2000 --tune 500 --rounds "$rounds" "${engines[@]}" | tee -a "$lines"
done

# fit ENGINE: its table; the line of least squares through the logarithms. Without an index (fewer than 20,000 rows) a search is exact: told, and left
# out of the fit.
fit() {
    awk -v engine="$1" '
        function field(key,   at, rest) {
            at = index($0, "\"" key "\":")
            if (at == 0) return ""
            rest = substr($0, at + length(key) + 3)
            sub(/^"/, "", rest)
            sub(/["},].*$/, "", rest)
            return rest
        }
        field("case") == "between" && field("engine") == engine && field("recall") == 0.95 {
            n = field("rows"); us[n] = field("value"); read[n] = field("rows_read")
        }
        field("case") == "at-recall" && field("engine") == engine && field("recall") == 0.95 {
            n = field("rows"); order[++count] = n; best[n] = 1e6 / field("value")
        }
        field("case") == "build" && field("engine") == engine { build[field("rows")] = field("value"); cpu[field("rows")] = field("cpu_s"); bytes[field("rows")] = field("bytes_per_point") }
        field("case") == "memory" && engine == "kith" {
            n = field("rows"); disk[n] = field("file_per_point"); resident[n] = field("value"); lock[n] = field("lockable_per_point")
            lists[n] = field("lists"); segments[n] = field("segments")
        }
        END {
            for (i = 1; i <= count; i++) {
                n = order[i]
                if (!(n in us)) us[n] = best[n]
                exact = engine == "kith" && lists[n] == 0
                printf "%-8s %10d %9.1f %9d %8s %5s %8s %9s %8s %8.1f %8.1f\n", engine, n, us[n], read[n], lists[n], segments[n], disk[n],
                    engine == "kith" ? resident[n] : bytes[n], lock[n], build[n], cpu[n] > "/dev/stderr"
                if (exact) continue
                x = log(n); y = log(us[n]); sx += x; sy += y; sxx += x * x; sxy += x * y; used++
            }
            if (used > 1) {
                exponent = (used * sxy - sx * sy) / (used * sxx - sx * sx)
                printf "%s: time of a query ~ rows ^ %.2f\n", engine, exponent > "/dev/stderr"
                printf "{\"bench\":\"grow\",\"case\":\"exponent\",\"engine\":\"%s\",\"value\":%.3f,\"factor_us\":%.6f,\"points\":%d}\n",
                    engine, exponent, exp((sy - exponent * sx) / used), used
            }
        }' "$lines"
}
printf '\n%-8s %10s %9s %9s %8s %5s %8s %9s %8s %8s %8s\n' engine rows us/query read lists segs disk/pt mem/pt lock/pt build_s cpu_s >&2
fit kith
fit hnswlib
