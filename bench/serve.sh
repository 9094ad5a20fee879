#!/bin/bash
# ./bench/run serve [--long]
#
# What a user of a running Kith gets, and what HTTP, plan, wire and merge add to the engine alone: searches of 10 hits in
# made-up sets, exact. The engine (bench_engine: the same store and the same search call, in one process, no network) and
# the server take turns; each figure is the median of the rounds. The load generator shares the machine with the server.
#   --long   more rounds, 100,000 points of 768 numbers too
set -euo pipefail
. "$(dirname "$0")/common.bash"

sets=("100 1000" "100 10000" "100 100000" "768 1000" "768 10000")
rounds=3
seconds=0.6
if [ "${1:-}" = --long ]; then
    sets+=("768 100000")
    rounds=5
    seconds=3
fi

# fill COLLECTION DIM POINTS
fill() {
    local bodies=$work/upserts
    "$bench/bench_data" upsert --dim "$2" --points "$3" >"$bodies"
    "$bench/load" --method PUT --url "$url/collections/$1/points?wait=true" --bodies "$bodies" --connections 2 --seconds 120 \
        --requests "$((($3 + 999) / 1000))" --name "fill $2x$3" | tell
    rm "$bodies"
    points_are "$1" "$3"
}

queries() { # DIM
    local file=$work/queries-$1
    [ -e "$file" ] || "$bench/bench_data" query --dim "$1" --points 1000 >"$file"
    echo "$file"
}

row() { printf '%-12s %-10s %6s %11s %9s %9s %9s %9s\n' "$@" >&2; }
row_of() { # SET MODE CONNECTIONS NAME
    row "$1" "$2" "$3" "$(calc 0 "$(figure "$4" per_s)")" "$(calc 0 "$(figure "$4" p50_us)")" \
        "$(calc 0 "$(figure "$4" p99_us)")" "$(calc 0 "$(figure "$4" p999_us)")" "$(calc 0 "$(figure "$4" cpu_us)")"
}

floor() {
    local connections
    for connections in 1 8; do
        load "floor/root/$connections" / --connections "$connections"
        echo '{"exact":true}' >"$work/count"
        load "floor/count/$connections" "/collections/$1/points/count" --bodies "$work/count" --connections "$connections"
    done
    for connections in 1 8; do
        row_of - 'GET /' "$connections" "floor/root/$connections"
        row_of - count "$connections" "floor/count/$connections"
    done
}

# one_set DIM POINTS
one_set() {
    local dim=$1 points=$2 name=$1x$2 round connections max share
    local path=/collections/c$name/points/query file
    file=$(queries "$dim")
    collection "c$name" "$dim"
    fill "c$name" "$dim" "$points"
    mkdir "$work/engine"
    for ((round = 0; round < rounds; round++)); do
        "$bench/bench_engine" "$work/engine" --dim "$dim" --points "$points" --seconds "$seconds" | tell
        for connections in 1 8 32; do
            load "$name/closed/$connections" "$path" --bodies "$file" --connections "$connections"
        done
    done
    max=$(printf '%s\n' "$(figure "$name/closed/8" per_s)" "$(figure "$name/closed/32" per_s)" | sort -g | tail -n 1)
    for share in 50 80; do
        load "$name/open/$share" "$path" --bodies "$file" --connections 64 --rate "$(calc 1 "$max * $share / 100")"
    done
    for connections in 1 8 32; do row_of "$name" closed "$connections" "$name/closed/$connections"; done
    for share in 50 80; do row_of "$name" "open $share%" 64 "$name/open/$share"; done
    rm -r "$work/engine"
    ask DELETE "/collections/c$name" >/dev/null
}

# summary DIM POINTS: the engine alone against one connection (latency) and against the most the server gives (throughput).
summary() {
    local name=$1x$2 engine_us http_us engine_s http_s engine_cpu http_cpu
    engine_us=$(figure "$name/pooled" p50_us)
    http_us=$(figure "$name/closed/1" p50_us)
    engine_s=$(figure "$name/parallel" per_s)
    http_s=$(figure "$name/closed/8" per_s)
    engine_cpu=$(figure "$name/parallel" cpu_us)
    http_cpu=$(figure "$name/closed/8" cpu_us)
    printf '{"bench":"serve","case":"%s","engine_us":%s,"http_us":%s,"added_us":%s,"engine_per_s":%s,"http_per_s":%s,"ratio":%s,"engine_cpu_us":%s,"http_cpu_us":%s,"added_cpu_us":%s}\n' \
        "$name" "$engine_us" "$http_us" "$(calc 1 "$http_us - $engine_us")" "$engine_s" "$http_s" "$(calc 3 "$http_s / $engine_s")" \
        "$engine_cpu" "$http_cpu" "$(calc 1 "$http_cpu - $engine_cpu")" | tell
    printf '%-12s %10.0f %10.0f %10.0f %12.0f %10.0f %7.2f %10.0f %10.0f\n' "$name" "$engine_us" "$http_us" \
        "$(calc 1 "$http_us - $engine_us")" "$engine_s" "$http_s" "$(calc 3 "$http_s / $engine_s")" "$engine_cpu" "$http_cpu" >&2
}

# Two shards and a coordinator on loopback, one real etcd: what a network hop and a second node cost.
cluster() {
    local name=100x10000 connections round
    start_cluster || return 0
    collection "c$name" 100
    fill "c$name" 100 10000
    for ((round = 0; round < rounds; round++)); do
        for connections in 1 8; do
            load "cluster/$name/closed/$connections" "/collections/c$name/points/query" --bodies "$(queries 100)" --connections "$connections"
        done
    done
    for connections in 1 8; do row_of "$name" "2 shards" "$connections" "cluster/$name/closed/$connections"; done
    printf '{"bench":"serve","case":"cluster %s","one_process_us":%s,"cluster_us":%s,"added_us":%s,"one_process_per_s":%s,"cluster_per_s":%s,"one_process_cpu_us":%s,"cluster_cpu_us":%s}\n' \
        "$name" "$(figure "$name/closed/1" p50_us)" "$(figure "cluster/$name/closed/1" p50_us)" \
        "$(calc 1 "$(figure "cluster/$name/closed/1" p50_us) - $(figure "$name/closed/1" p50_us)")" \
        "$(figure "$name/closed/8" per_s)" "$(figure "cluster/$name/closed/8" per_s)" \
        "$(figure "$name/closed/8" cpu_us)" "$(figure "cluster/$name/closed/8" cpu_us)" | tell
    stop_cluster
}

row set mode conns answers/s p50_us p99_us p999_us cpu_us
start_up up
servers=("$pid")
collection floor 100
floor floor
for set in "${sets[@]}"; do one_set $set; done
stop "$pid"
cluster
printf '\n%-12s %10s %10s %10s %12s %10s %7s %10s %10s\n' set engine_us http_us added_us engine/s http/s ratio eng_cpu http_cpu >&2
for set in "${sets[@]}"; do summary $set; done
