# Approximate search against peers. See README.md for the options and data/README.md for the data sets.
set -euo pipefail
here=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf '%s\n' "$*" >&2; }
usage() {
    say "usage: bench/run ann [--data glove|use[:ROWS]|text768[:ROWS]|clustered:ROWS:DIM] [--peers LIST|all|none] [--rounds N] [--rows N]"
    say "                     [--queries N] [--quick] [--index pq4|int8|rows|none|faiss:STRING] [--effort] [--bytes] [--segments N,N...]; LIST has hnswlib, faiss, usearch, zvec, with commas"
    exit 2
}

data=glove peers=hnswlib,faiss rounds=7 rows=0 queries=0 quick=no effort=no bytes=no index=pq4 segments=''
while [ $# -gt 0 ]; do
    case $1 in
    --effort) effort=yes && shift && continue ;;
    --bytes) bytes=yes && shift && continue ;;
    --quick) quick=yes && shift && continue ;;
    --data | --index | --segments | --peers | --rounds | --rows | --queries) [ $# -ge 2 ] || usage ;;
    *) usage ;;
    esac
    printf -v "${1#--}" '%s' "$2"
    shift 2
done
case $peers in all) peers=hnswlib,faiss,usearch,zvec ;; none) peers='' ;; esac
wants() { [[ ",$peers," == *",$1,"* ]]; }

folder=$("$here/data/get" "$data")
field() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$folder/set.json"; }
[ $quick = no ] || { rows=20000 queries=1000 rounds=3; }
if [ "$rows" -eq 0 ] || [ "$rows" -gt "$(field base)" ]; then rows=$(field base); fi
dim=$(field dim)
# Exact answers to all queries over millions of rows take longer than the benchmark.
if [ "$queries" -eq 0 ] && [ "$rows" -gt 1000000 ]; then queries=2000; fi
if [ "$queries" -eq 0 ] || [ "$queries" -gt "$(field queries)" ]; then queries=$(field queries); fi
tune=$((queries / 4 < 1000 ? queries / 4 : 1000))

engines=(--engine "kith=$index")
# The same rows in so many segments each.
for n in ${segments//,/ }; do engines+=(--engine "kith=$index segments $n"); done
[ $effort = no ] || engines+=(--engine "kith=$index effort")
[ $bytes = no ] || engines+=(--engine "kith=$index bytes")
if wants hnswlib; then engines+=(--engine "hnswlib=M16 efC200"); fi
if wants faiss; then
    # Around 2 sqrt(rows) lists, and 2 or 4 dimensions to a code: whichever is best at a recall counts.
    lists=$(awk "BEGIN { l = 2 ^ int(log(2 * sqrt($rows)) / log(2) + 0.5); print l < 64 ? 64 : l }")
    for n in $lists $((lists / 2)) $((lists * 2)); do
        for d in 2 4; do
            [ $((dim % d)) -eq 0 ] || continue
            engines+=(--engine "faiss=ip IVF$n,PQ$((dim / d))x4fs,RFlat")
            # Each of them holds all rows.
            [ $((rows * dim)) -gt 250000000 ] && break 2
        done
        [ $quick = no ] || break
    done
    if [ $((rows * dim)) -le 250000000 ]; then engines+=(--engine "faiss=ip HNSW16"); fi
fi
# Threads that spin at barriers take the cores from each other when other programs run, too.
export OMP_WAIT_POLICY=passive
"$KITH_BUILD/bench/bench_ann" "$folder" --rows "$rows" --queries "$queries" --tune "$tune" --rounds "$rounds" "${engines[@]}"

others=()
for name in usearch zvec; do if wants $name; then others+=("$name"); fi; done
[ ${#others[@]} -eq 0 ] || node "$here/peer_npm.mjs" "$folder" "$rows" "$queries" "$tune" "${others[@]}"
