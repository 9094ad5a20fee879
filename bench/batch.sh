# Queries of one request against the same one by one. See README.md for the options.
set -euo pipefail
here=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=glove
if [ "${1:-}" = --data ] && [ $# -ge 2 ]; then
    data=$2
    shift 2
fi
"$KITH_BUILD/bench/bench_batch" "$("$here/data/get" "$data")" "$@"
