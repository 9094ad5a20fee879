#!/bin/bash
# ./bench/run served [--set NAME] [--points N] [--params JSON]... [--nodes 1|2|all] [--import] [--long] [--chroma]
#
# What users get of a real set of vectors: answers per second, p50, p99 and recall@10 over HTTP with 1, 8 and 32 clients, without
# and with filters that leave 50, 10, 1 and 0.1 %, on one process and on a cluster of two shards; and where the time of a query
# goes. The load generator shares the machine with the server.
#   --set NAME      of the benchmarks' cache (glove): base.f32, query.f32 and set.json; made-up points when it is not there
#   --points N      its first N rows only
#   --params JSON   `params` of the queries, one mode each ({}): what the search is asked to give or to spend
#   --nodes         one process, a cluster of two shards, or both (all)
#   --import        load with `kith import` instead of by HTTP
#   --chroma        Chroma beside the one process, with the same points and queries, in turn (bench/setup --chroma fetches it)
set -euo pipefail
. "$(dirname "$0")/common.bash"
. "$(dirname "$0")/chroma.bash"

set=glove points=0 nodes=all loader=http rounds=3 seconds=1 truth_queries=300 with_chroma=no
modes=()
while [ $# -gt 0 ]; do
    case $1 in
        --set) set=$2; shift ;;
        --points) points=$2; shift ;;
        --params) modes+=("$2"); shift ;;
        --nodes) nodes=$2; shift ;;
        --import) loader=import ;;
        --chroma) with_chroma=yes ;;
        --long) rounds=5 seconds=5 truth_queries=1000 ;;
        *) say "unknown option $1"; exit 2 ;;
    esac
    shift
done
[ ${#modes[@]} -gt 0 ] || modes=('{}')
[ $with_chroma = no ] || [ -d "$chroma_folder" ] || { say "no $chroma_folder: ./bench/setup --chroma makes it"; exit 1; }
[ $with_chroma = no ] || [ "$nodes" != 2 ] || { say "--chroma is compared with one process"; exit 2; }

use_set "$set" 100000 100
[ "$points" -gt 0 ] && [ "$points" -lt "$rows" ] || points=$rows
shares=(1000 500 100 10 1) # thousandths of the points that a filter leaves; 1000: no filter

# bodies MODE BELOW N: a file of query bodies.
bodies() {
    local file=$work/queries-$1-$2-$3 below=()
    [ "$2" = 1000 ] || below=(--below "$2")
    [ -e "$file" ] || "$bench/bench_data" query "${data[@]}" --points "$3" --params "${modes[$1]}" "${below[@]}" >"$file"
    echo "$file"
}

# By HTTP in pieces: the load generator holds its bodies in memory.
fill_http() {
    local first n piece=50000
    for ((first = 0; first < points; first += piece)); do
        n=$((points - first < piece ? points - first : piece))
        "$bench/bench_data" upsert "${data[@]}" --first "$first" --points "$n" >"$work/upserts"
        "$bench/load" --method PUT --url "$url/collections/c/points?wait=true" --bodies "$work/upserts" --connections 2 --seconds 300 \
            --requests "$(((n + 999) / 1000))" --name fill >"$work/filled"
        grep -q '"refused":0,"failed":0' "$work/filled" || { say "refused: $(cat "$work/filled")"; exit 1; }
    done
    rm "$work/upserts"
}

fill() {
    local from written
    collection c "$dim"
    from=$(date +%s%N)
    if [ "$loader" = http ]; then
        fill_http
    else
        import_set c "$points"
    fi
    points_are c "$points"
    written=$(date +%s%N)
    settle c
    printf '{"bench":"served","case":"fill %s","set":"%s","points":%s,"seconds":%s,"indexed_s":%s}\n' "$loader" "$set" "$points" \
        "$(calc 1 "($written - $from) / 1e9")" "$(calc 1 "($(date +%s%N) - $from) / 1e9")" | tell
}

# kth BELOW: the file of what is true with that filter.
kth() {
    local file=$work/kth-$1
    [ -e "$file" ] || "$bench/bench_truth" "${truth[@]}" --points "$points" --queries "$truth_queries" --below "$1" --kth "$file"
    echo "$file"
}

# recall MODE BELOW
recall() {
    "$bench/load" --url "$url/collections/c/points/query" --bodies "$(bodies "$1" "$2" "$truth_queries")" --connections 4 --seconds 300 \
        --answers "$work/answers" >/dev/null
    "$bench/bench_truth" "${truth[@]}" --points "$points" --queries "$truth_queries" --below "$2" --kth "$(kth "$2")" --answers "$work/answers"
}

# stage_sums: "stage sum_us count" of every stage of searches so far. A cluster's shards are not asked.
stage_sums() {
    curl -sf "$url/metrics" | sed -nE \
        -e 's/^kith_search_stage_seconds_(sum|count)\{stage="(.*)"\} (.*)/\2 \1 \3/p' \
        -e 's/^kith_rpc_(wait_)?seconds_(sum|count)\{message="search"\} (.*)/rpc_\1 \2 \3/p'
}

# stages NAME MODE CONNECTIONS: mean time of each stage over one run, in us.
stages() {
    local before after
    before=$(stage_sums)
    load "$1" /collections/c/points/query --bodies "$(bodies "$2" 1000 1000)" --connections "$3"
    after=$(stage_sums)
    { sed 's/^/- /' <<<"$before"; sed 's/^/+ /' <<<"$after"; } | awk -v name="$1" -v client="$(figure "$1" mean_us)" '
        $3 == "sum" { sum[$2] += $1 == "+" ? $4 * 1e6 : -$4 * 1e6 }
        $3 == "count" { n[$2] += $1 == "+" ? $4 : -$4 }
        function us(stage) { return n[stage] > 0 ? sum[stage] / n[stage] : 0 }
        END {
            shard = us("rpc_"); wait = us("rpc_wait_"); scatter = us("scatter")
            merge = us("merge") + us("fetch") + us("fetched"); texts = us("start") + us("encode") + us("lookup")
            inside = us("receive") + us("parse") + us("plan") + texts + scatter + merge + us("reply")
            printf "{\"bench\":\"served\",\"case\":\"stages\",\"name\":\"stages %s\",\"receive_us\":%.1f,\"parse_us\":%.1f,\"plan_us\":%.1f,\"texts_us\":%.1f,", \
                name, us("receive"), us("parse"), us("plan"), texts
            printf "\"hop_us\":%.1f,\"wait_us\":%.1f,\"search_us\":%.1f,\"merge_us\":%.1f,\"reply_us\":%.1f,\"http_us\":%.1f}\n", \
                scatter - shard, wait, shard - wait, merge, us("reply"), client - inside
        }' | tell
}

row() { printf '%-9s %-5s %-24s %6s %5s %9s %8s %8s %8s %7s %8s\n' "$@" >&2; }
row_of() { # NODES MODE BELOW CONNECTIONS NAME RECALL
    row "$set" "$1" "${modes[$2]}" "$(calc 1 "$3 / 10")" "$4" "$(calc 0 "$(figure "$5" per_s)")" "$(calc 0 "$(figure "$5" p50_us)")" \
        "$(calc 0 "$(figure "$5" p99_us)")" "$(calc 0 "$(figure "$5" cpu_us)")" "$6" ''
}

# measure NODES: every mode in turn, so that they share the machine's moods.
measure() {
    local mode below connections round name found
    declare -A found=()
    for mode in "${!modes[@]}"; do
        for below in "${shares[@]}"; do found[$mode/$below]=$(recall "$mode" "$below"); done
    done
    for ((round = 0; round < rounds; round++)); do
        for mode in "${!modes[@]}"; do
            for connections in 1 8 32; do
                load "$1/$mode/1000/$connections" /collections/c/points/query --bodies "$(bodies "$mode" 1000 1000)" --connections "$connections"
            done
            for below in "${shares[@]:1}"; do
                load "$1/$mode/$below/8" /collections/c/points/query --bodies "$(bodies "$mode" "$below" 1000)" --connections 8
            done
        done
        [ -z "$chroma_pid" ] || chroma_round
    done
    for mode in "${!modes[@]}"; do
        for below in "${shares[@]}"; do
            for connections in 1 8 32; do
                name=$1/$mode/$below/$connections
                [ "$below" = 1000 ] || [ "$connections" = 8 ] || continue
                row_of "$1" "$mode" "$below" "$connections" "$name" "${found[$mode/$below]}"
                printf '{"bench":"served","case":"%s","set":"%s","points":%s,"nodes":%s,"params":%s,"share":%s,"connections":%s,"per_s":%s,"p50_us":%s,"p99_us":%s,"cpu_us":%s,"recall":%s}\n' \
                    "$name" "$set" "$points" "$1" "${modes[$mode]}" "$(calc 3 "$below / 1000")" "$connections" "$(figure "$name" per_s)" \
                    "$(figure "$name" p50_us)" "$(figure "$name" p99_us)" "$(figure "$name" cpu_us)" "${found[$mode/$below]}" | tell
            done
        done
    done
    for mode in "${!modes[@]}"; do
        for connections in 1 8; do stages "$1/$mode/stages/$connections" "$mode" "$connections"; done
    done
}

row set nodes params left% conns answers/s p50_us p99_us cpu_us recall "$([ $with_chroma = no ] || echo 'Kith x')"
if [ "$nodes" != 2 ]; then
    start_up up
    servers=("$pid")
    fill
    if [ $with_chroma = yes ]; then
        start_chroma
        fill_chroma
        tune_chroma
    fi
    measure 1
    if [ $with_chroma = yes ]; then
        chroma_rows
        stop_chroma
    fi
    stop "${servers[0]}"
fi
if [ "$nodes" != 1 ] && start_cluster; then
    fill
    measure 2
    stop_cluster
fi
printf '\n%-20s' 'means, us' >&2
for stage in receive parse plan texts hop wait search merge reply http; do printf '%9s' "$stage" >&2; done
printf '\n' >&2
for name in $(sed -n 's/.*"name":"stages \([^"]*\)".*/\1/p' "$lines"); do
    printf '%-20s' "$name" >&2
    for stage in receive parse plan texts hop wait search merge reply http; do
        printf '%9s' "$(figure "stages $name" "${stage}_us")" >&2
    done
    printf '\n' >&2
done
