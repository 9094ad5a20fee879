# Product quantizers against RaBitQ. See README.md for the options and data/README.md for the data sets.
set -euo pipefail
here=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
options=() set=use
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || { echo "usage: bench/run quantizers [--set use|text768|glove] [--queries N] [--rounds N] [--kernels avx2|avx512] [--only NAME]" >&2; exit 2; }
    if [ "$1" = --set ]; then set=$2; else options+=("$1" "$2"); fi
    shift 2
done
"$KITH_BUILD/bench/bench_quantizers" "$("$here/data/get" "$set")" "${options[@]}"
