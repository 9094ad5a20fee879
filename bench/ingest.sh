#!/bin/bash
# ./bench/run ingest [--long | --searched [POINTS [RATE]]]
#
# Durable points a second (128 numbers and a small payload each; every answer counts only after its fdatasync), over HTTP JSON
# and by `kith import`, beside what the disk under the same folder does by itself in the same run. Folder: $KITH_BENCH_DIR, or
# $TMPDIR, or /tmp; give it a real disk. The load generator and the server share the machine.
#   --long      ten times the points
#   --searched  instead: POINTS (1,000,000) with an index, by each way in, while RATE (50) searches a second are asked; see README.md
set -euo pipefail
. "$(dirname "$0")/common.bash"

dim=128
points=100000 searched=0 rate=50
case ${1:-} in
    --long) points=1000000 ;;
    --searched) searched=${2:-1000000} rate=${3:-50} ;;
    '') ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
esac
row_bytes=$((dim * 4))

# The server's bytes to disk so far, once they have stopped growing: seal and merge go on behind the last answer.
written() {
    local before=-1 now i
    now=$(awk '/^write_bytes/ { print $2 }' "/proc/$pid/io")
    for ((i = 0; i < 40 && before != now; i++)); do
        before=$now
        sleep 0.5
        now=$(awk '/^write_bytes/ { print $2 }' "/proc/$pid/io")
    done
    echo "$now"
}

# wrote CAUSE: what the server says it wrote for it, for each byte of vectors; the rest of what `written` counts is manifests, deletes, and pages of the log written twice.
wrote() { ask GET /metrics | awk -v n="$(((early + rest) * row_bytes))" -v name="kith_shard_written_bytes{cause=\"$1\"}" '$1 == name { printf "%.2f", $2 / n }'; }
account() {
    local cause
    for cause in log seal merge index rest; do printf '%s"%s":%s' "$([ $cause = log ] || echo ,)" $cause "$(wrote $cause)"; done
}

row() { printf '%-26s %10s %9s %9s %8s %8s %8s %9s\n' "$@" >&2; }

# result NAME SECONDS CPU_US SYNC_RATIO: of `points` points; $pid is the server.
result() {
    local per_s bytes
    per_s=$(calc 0 "$points / $2")
    bytes=$(calc 2 "$(written) / ($points * $row_bytes)")
    printf '{"bench":"ingest","case":"%s","points":%s,"dim":%s,"per_s":%s,"data_mb_per_s":%s,"of_sequential_write":%s,"of_syncs":%s,"cpu_us_per_point":%s,"written_per_byte":%s}\n' \
        "$1" "$points" "$dim" "$per_s" "$(calc 1 "$per_s * $row_bytes / 1e6")" \
        "$(calc 3 "$per_s * $row_bytes / 1e6 / $(figure_of sequential mb_per_s)")" "$4" "$(calc 2 "$3 / $points")" "$bytes" | tell
    row "$1" "$per_s" "$(calc 1 "$per_s * $row_bytes / 1e6")" "$(calc 2 "$3 / $points")" \
        "$(calc 2 "$per_s * $row_bytes / 1e6 / $(figure_of sequential mb_per_s)")" "$4" "$bytes" "$(calc 1 "$2")"
}

figure_of() { figure "disk/$1" "$2"; }

# http BATCH CONNECTIONS [DIGITS]: answers a second against fdatasyncs a second of as many bytes, one writer.
http() {
    local batch=$1 connections=$2 name="json $1 x $2${3:+, $3 digits}" cpu
    start_up "http-$batch-$connections${3:-}"
    collection ingest "$dim"
    "$bench/bench_data" upsert --dim "$dim" --points "$points" --batch "$batch" ${3:+--digits "$3"} >"$work/bodies"
    "$bench/load" --method PUT --url "$url/collections/ingest/points?wait=true" --bodies "$work/bodies" --requests $((points / batch)) \
        --connections "$connections" --seconds 100 --name "$name" | tell
    cpu=$(cpu_us "$pid")
    points_are ingest "$points"
    result "$name" "$(figure "$name" seconds)" "$cpu" "$(calc 3 "$(figure "$name" per_s) / $(figure_of "sync$((batch * row_bytes))" syncs_per_s)")"
    stop "$pid"
    rm -r "$work/bodies" "$work/http-$batch-$connections${3:-}"
}

# import FORM
import() {
    local from seconds cpu file=$work/points.$1
    start_up "import-$1"
    collection ingest "$dim"
    "$bench/bench_data" "$1" --dim "$dim" --points "$points" >"$file"
    from=$(date +%s%N)
    "$kith" import ingest "$file" --url "$url" >"$work/import.log" 2>&1 || { tail -n 5 "$work/import.log" >&2; exit 1; }
    seconds=$(calc 3 "($(date +%s%N) - $from) / 1e9")
    cpu=$(cpu_us "$pid")
    points_are ingest "$points"
    result "import $1" "$seconds" "$cpu" 0
    stop "$pid"
    rm -r "$file" "$work/import-$1"
}

# ---- while it is searched: a fifth of the points is there and indexed before the rest comes ----

piece=50000 # points in a file of bodies: the load generator holds them in memory

# search_for SECONDS NAME: searches due at fixed moments.
search_for() { exec "$bench/load" --name "$2" --url "$url/collections/c/points/query" --bodies "$work/queries" --connections 32 --rate "$rate" --warmup 0 --seconds "$1"; }
window() { (search_for 5 "$1") | tell; }
# Five times a second how many points there are, and how many of them are in no index. One process: starting some for each look took a
# twentieth of the CPUs from the searches that are measured.
watch_bare() { exec curl -sS --rate 5/s "$url/collections/c#[1-9999]" >"$work/looks"; }
mean_and_most_bare() {
    grep -o '"points_count":[0-9]*\|"indexed_vectors_count":[0-9]*' "$work/looks" |
        awk -F: '/^"points/ { points = $2 } /^"indexed/ { bare = points - $2; n++; sum += bare; if (bare > most) most = bare } END { printf "%.0f,%.0f", sum / n, most }'
}

# put_http FIRST N: sets $put_s, the seconds in which it was durable; reading the files does not count.
put_http() {
    local first
    put_s=0
    for ((first = $1; first < $1 + $2; first += piece)); do
        "$bench/load" --method PUT --url "$url/collections/c/points?wait=true" --bodies "$work/upserts-$first" --connections 2 --seconds 300 \
            --requests $((piece / 1000)) --name put >"$work/put"
        grep -q '"refused":0,"failed":0' "$work/put" || { say "refused: $(cat "$work/put")"; exit 1; }
        put_s=$(calc 3 "$put_s + $(sed 's/.*"seconds":\([0-9.]*\).*/\1/' "$work/put")")
    done
}

put_import() {
    local from
    from=$(date +%s%N)
    "$kith" import c "$work/points-$1.jsonl" --url "$url" >"$work/import.log" 2>&1 || { tail -n 5 "$work/import.log" >&2; exit 1; }
    put_s=$(calc 3 "($(date +%s%N) - $from) / 1e9")
}

# made WAY FIRST N: what put_WAY reads.
made() {
    local first
    if [ "$1" = import ]; then
        "$bench/bench_data" jsonl --dim $dim --first "$2" --points "$3" >"$work/points-$2.jsonl"
        return
    fi
    for ((first = $2; first < $2 + $3; first += piece)); do
        "$bench/bench_data" upsert --dim $dim --first "$first" --points $piece >"$work/upserts-$first"
    done
}

# CPU time of the server, in microseconds; threads that have ended count, too.
spent() { awk -v hz="$(getconf CLK_TCK)" '{ printf "%.0f", ($14 + $15) * 1e6 / hz }' "/proc/$pid/stat"; }

# Until nothing is being made of what was written, nor of a head at rest.
settle_all() {
    settle c
    sleep 4
    settle c
}

# while_searched WAY
while_searched() {
    local early=$((searched / 5 / piece * piece)) rest rested settled from others watcher bare cpu causes
    rest=$(((searched - early) / piece * piece))
    made "$1" 0 "$early"
    made "$1" "$early" "$rest"
    start_up "searched-$1"
    collection c "$dim"
    "put_$1" 0 "$early"
    settle_all
    window "idle before $1" >/dev/null
    search_for 600 "during $1" >"$work/during" &
    others=$!
    watch_bare &
    watcher=$!
    cpu=$(spent)
    "put_$1" "$early" "$rest"
    kill "$others" "$watcher" 2>/dev/null || : # one may have ended by itself
    wait "$others" "$watcher" || :
    tell <"$work/during"
    bare=$(mean_and_most_bare)
    from=$(date +%s%N)
    settle c
    settled=$(calc 1 "($(date +%s%N) - $from) / 1e9")
    cpu=$(calc 1 "($(spent) - $cpu) / $rest")
    points_are c $((early + rest))
    bytes=$(calc 2 "$(written) / (($early + $rest) * $row_bytes)")
    settle_all
    window "idle after $1" >/dev/null
    sleep 35 # until the slice is at rest: merge_policy.c
    settle c
    causes=$(account)
    rested=$(calc 2 "$(written) / (($early + $rest) * $row_bytes)")
    printf '{"bench":"ingest","case":"searched","way":"%s","points":%s,"dim":%s,"per_s":%s,"indexed_after_s":%s,"written_per_byte":%s,"written_at_rest_per_byte":%s,"unindexed_mean_max":[%s],"cpu_us_per_point":%s,"p50_us":[%s,%s,%s],"p99_us":[%s,%s,%s],"server_p99_us":[%s,%s,%s],"late_p99_us":[%s,%s,%s],"written":{%s},"load":"%s"}\n' \
        "$1" "$rest" "$dim" "$(calc 0 "$rest / $put_s")" "$settled" "$bytes" "$rested" "$bare" "$cpu" \
        "$(figure "idle before $1" p50_us)" "$(figure "during $1" p50_us)" "$(figure "idle after $1" p50_us)" \
        "$(figure "idle before $1" p99_us)" "$(figure "during $1" p99_us)" "$(figure "idle after $1" p99_us)" \
        "$(figure "idle before $1" server_p99_us)" "$(figure "during $1" server_p99_us)" "$(figure "idle after $1" server_p99_us)" \
        "$(figure "idle before $1" late_p99_us)" "$(figure "during $1" late_p99_us)" "$(figure "idle after $1" late_p99_us)" "$causes" "$(cut -d ' ' -f 1-3 /proc/loadavg)" | tell
    printf '%-8s %9s %10s %9s %9s %14s %9s %9s %9s %9s %9s %9s %9s\n' "$1" "$(calc 0 "$rest / $put_s")" "$settled" "$bytes" "$rested" "$bare" "$cpu" \
        "$(figure "idle before $1" p50_us)" "$(figure "during $1" p50_us)" "$(figure "idle after $1" p50_us)" \
        "$(figure "idle before $1" p99_us)" "$(figure "during $1" p99_us)" "$(figure "idle after $1" p99_us)" >&2
    say "         p99 by the server's own clock: $(figure "idle before $1" server_p99_us), $(figure "during $1" server_p99_us), $(figure "idle after $1" server_p99_us);" \
        "asked later than due: $(figure "idle before $1" late_p99_us), $(figure "during $1" late_p99_us), $(figure "idle after $1" late_p99_us)"
    say "         written/B at rest, by cause: ${causes//\"/}"
    stop "$pid"
    rm -r "$work/searched-$1" "$work"/upserts-* "$work"/points-* 2>/dev/null || :
}

if [ "$searched" -gt 0 ]; then
    "$bench/bench_data" query --dim $dim --points 1000 >"$work/queries"
    printf '%-8s %9s %10s %9s %9s %14s %9s %9s %9s %9s %9s %9s %9s\n' way points/s indexed_s written/B 'at rest' unindexed cpu_us/pt 'p50 idle' during after 'p99 idle' during after >&2
    for way in import http; do while_searched $way; done
    exit
fi

say "the disk under $work:"
"$bench/bench_disk" "$work" 4096 $((100 * row_bytes)) $((1000 * row_bytes)) | tell
for step in 4096 $((100 * row_bytes)) $((1000 * row_bytes)); do
    say "  write + fdatasync of $step bytes: $(figure_of "sync$step" syncs_per_s) a second, $(figure_of "sync$step" mb_per_s) MB/s"
done
say "  sequential write: $(figure_of sequential mb_per_s) MB/s"
row case points/s MB/s cpu_us/pt of_seq of_sync written/B seconds
for batch in 100 1000; do
    for connections in 1 4; do http $batch $connections; done
done
http 1000 4 17
for form in jsonl npy fvecs; do import $form; done
