# Search with filters. See README.md for the options and data/README.md for the data sets.
set -euo pipefail
here=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf '%s\n' "$*" >&2; }
usage() {
    say "usage: bench/run filter [--data glove|use|text768] [--peer hnswlib|none] [--metric cosine|dot|euclid|manhattan] [--norms F] [--rounds N] [--rows N] [--queries N] [--recall T] [--quick]"
    exit 2
}

data=glove peer= metric=cosine norms=1 rounds=5 rows=0 queries=200 recall=0.95
while [ $# -gt 0 ]; do
    case $1 in
    --quick) rows=50000 queries=50 rounds=3 && shift && continue ;;
    --data | --peer | --metric | --norms | --rounds | --rows | --queries | --recall) [ $# -ge 2 ] || usage ;;
    *) usage ;;
    esac
    printf -v "${1#--}" '%s' "$2"
    shift 2
done
options=(--rows "$rows" --queries "$queries" --rounds "$rounds" --recall "$recall" --metric "$metric" --norms "$norms")
[ -n "$peer" ] || { [ "$metric" = cosine ] && peer=hnswlib || peer=none; }
case $peer in hnswlib) options+=(--peer "M16 efC200") ;; none) ;; *) usage ;; esac
"$KITH_BUILD/bench/bench_filter" "$("$here/data/get" "$data")" "${options[@]}"
