#!/bin/bash
# ./bench/run cold [--set NAME | --points N --dim D] [--rounds N]
#
# From the start of `kith up` on a folder with an indexed collection to its first right answer, and to /readyz: with the files in the page
# cache, and with all of them evicted (`dd iflag=nocache`, posix_fadvise DONTNEED). Right: the ids of the answer that the same query got before
# the process was stopped. Without options: 1,000,000 made-up points of 128 numbers, then `glove`. Beside it, in the same rounds, what no
# program could avoid: reading as many bytes as the process had in memory of its files when it answered (from the page cache), or as many
# as it had read from the disk by then (evicted).
set -euo pipefail
. "$(dirname "$0")/common.bash"

sets=() rounds=5 points=1000000 dim_made=128
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || { say "usage: bench/run cold [--set NAME | --points N --dim D] [--rounds N]"; exit 2; }
    case $1 in
        --set) sets+=("$2") ;;
        --points) points=$2 sets=(made-up) ;;
        --dim) dim_made=$2 sets=(made-up) ;;
        --rounds) rounds=$2 ;;
        *) say "unknown option $1"; exit 2 ;;
    esac
    shift 2
done
[ ${#sets[@]} -gt 0 ] || sets=(made-up glove)

now_ms() { local t=$EPOCHREALTIME; echo $((${t/./} / 1000)); }

# http METHOD PATH [FILE]: status and body, in one connection of this shell: a process more would take as long as the answer.
http() {
    local body='' line
    [ -z "${3:-}" ] || body=$(<"$3")
    { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 1
    printf '%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
        "$1" "$2" "${#body}" "$body" >&3
    IFS= read -r line <&3 || line=
    status=${line:9:3}
    answer=$(cat <&3)
    exec 3>&-
}
ids() { grep -oE '"id":[0-9]+' <<<"$1" | tr '\n' ' '; }

row() { printf '%-9s %10s %8s %12s %9s %9s %11s %11s\n' "$@" >&2; }

# run STATE: one start; a JSON line.
run() {
    local from first ready i read mapped limit
    from=$(now_ms)
    "$kith" up --data "$work/$set" --listen "127.0.0.1:$port" >"$work/$set.log" 2>&1 &
    pid=$!
    pids+=("$pid")
    for ((i = 0; i < 100000; i++)); do
        ! http POST /collections/c/points/query "$work/query" || [ "$status" != 200 ] || break
        kill -0 "$pid" || { tail -n 5 "$work/$set.log" >&2; exit 1; }
        read -rt 0.002 <> <(:) || :
    done
    first=$(($(now_ms) - from))
    [ "$(ids "$answer")" = "$expected" ] || { say "the first answer is another than before: $(ids "$answer") not $expected"; exit 1; }
    read=$(awk '/^read_bytes/ { print $2 }' "/proc/$pid/io")
    mapped=$(awk '/^RssFile/ { print $2 * 1024 }' "/proc/$pid/status")
    for ((i = 0; i < 100000; i++)); do
        ! http GET /readyz || [ "$status" != 200 ] || break
        read -rt 0.002 <> <(:) || :
    done
    ready=$(($(now_ms) - from))
    stop "$pid"
    bytes=$mapped
    if [ "$1" = evicted ]; then bytes=$read && evict; fi
    limit=$(read_ms "$bytes")
    printf '{"bench":"cold","name":"%s/%s","set":"%s","points":%s,"dim":%s,"state":"%s","first_ms":%s,"ready_ms":%s,"read_mib":%s,"resident_mib":%s,"limit_ms":%s}\n' \
        "$set" "$1" "$set" "$rows" "$dim" "$1" "$first" "$ready" "$(calc 1 "$read / 1048576")" "$(calc 1 "$mapped / 1048576")" "$limit" | tell
}

segments() { find "$work/$set" -name 'seg-*'; }
evict() {
    local file
    sync
    find "$work/$set" -type f | while IFS= read -r file; do dd if="$file" iflag=nocache count=0 status=none; done
}
# read_ms BYTES: of the segment files, one after the other, to nowhere.
read_ms() {
    local from left=$1 file
    from=$(now_ms)
    while IFS= read -r file && [ "$left" -gt 0 ]; do
        dd if="$file" of=/dev/null bs=1M iflag=count_bytes count="$left" status=none
        left=$((left - $(stat -c %s "$file")))
    done < <(segments)
    echo $(($(now_ms) - from))
}

# measure SET
measure() {
    local round state
    use_set "$1" "$points" "$dim_made"
    port=$(free_port)
    start "$set" 'http://' "$kith" up --data "$work/$set" --listen "127.0.0.1:$port"
    url=http://127.0.0.1:$port
    collection c "$dim"
    import_set c "$rows"
    points_are c "$rows"
    settle c
    "$bench/bench_data" query "${data[@]}" --points 1 >"$work/query"
    http POST /collections/c/points/query "$work/query"
    expected=$(ids "$answer")
    [ -n "$expected" ] || { say "no answer: $answer"; exit 1; }
    stop "$pid"
    for ((round = 0; round < rounds; round++)); do
        segments | xargs cat >/dev/null
        run cached
        evict
        run evicted
    done
    for state in cached evicted; do
        row "$set" "$rows" "$state" "$(figure "$set/$state" first_ms)" "$(figure "$set/$state" ready_ms)" "$(figure "$set/$state" read_mib)" \
            "$(figure "$set/$state" resident_mib)" "$(figure "$set/$state" limit_ms)"
    done
    rm -r "${work:?}/$set"
}

row set points files first_ms ready_ms read_MiB resident_MiB limit_ms
for one in "${sets[@]}"; do measure "$one"; done
