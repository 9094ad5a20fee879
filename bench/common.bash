# Sourced by serve.sh and ingest.sh: a temporary folder, processes that end with the script, figures out of JSON lines.
kith=$KITH_BUILD/kith
bench=$KITH_BUILD/bench
[ -x "$kith" ] || { echo "no $kith" >&2; exit 1; }

work=$(mktemp -d "${KITH_BENCH_DIR:-${TMPDIR:-/tmp}}/kith-bench-XXXXXX")
lines=$work/lines # every JSON line so far
: >"$lines"
pids=()
finish() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || :
    wait || :
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '%s\n' "$*" >&2; }
tell() { tee -a "$lines"; } # JSON lines go on to stdout and are kept

# start NAME PATTERN COMMAND...: runs it in the background until its log matches; $pid is its id.
start() {
    local name=$1 pattern=$2 log=$work/$1.log i
    shift 2
    : >"$log"
    "$@" >"$log" 2>&1 &
    pid=$!
    pids+=("$pid")
    for ((i = 0; i < 300; i++)); do
        grep -qE "$pattern" "$log" && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    say "$name did not start:"
    tail -n 5 "$log" >&2
    exit 1
}

# stop PID: and wait for its end.
stop() {
    local left=() other
    kill "$1"
    wait "$1" || :
    for other in "${pids[@]}"; do [ "$other" = "$1" ] || left+=("$other"); done
    pids=("${left[@]}")
}

# A process with HTTP on a port of its own choice; sets $pid and $url.
start_up() {
    start "$1" 'http://' "$kith" up --data "$work/$1" --listen 127.0.0.1:0
    url=$(grep -oE -m1 'http://127\.0\.0\.1:[0-9]+' "$work/$1.log")
}

free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)) && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

# ask METHOD PATH [BODY]
ask() {
    curl -sS --fail-with-body -X "$1" "$url$2" -H 'Content-Type: application/json' ${3:+-d "$3"} || { say " <- $1 $2"; exit 1; }
}

collection() { ask PUT "/collections/$1" "{\"vectors\":{\"size\":$2,\"distance\":\"Cosine\"}${3:+,$3}}" >/dev/null; }

# points_are COLLECTION N: they are all there, or the figures mean nothing.
points_are() {
    local n
    n=$(ask POST "/collections/$1/points/count" '{"exact":true}' | sed 's/.*"count":\([0-9]*\).*/\1/')
    [ "$n" = "$2" ] || { say "collection $1 has $n points, not $2"; exit 1; }
}

# CPU time of these processes with all their threads so far, in microseconds.
cpu_us() { local id; for id in "$@"; do cat "/proc/$id/task"/*/schedstat; done | awk '{ ns += $1 } END { printf "%.0f", ns / 1000 }'; }

# figure NAME FIELD: the median over the lines of that name.
figure() {
    { grep -F "\"name\":\"$1\"" "$lines" || :; } | sed -n "s/.*\"$2\":\"\{0,1\}\([^,\"}]*\).*/\1/p" | sort -g |
        awk '{ v[NR] = $1 } END { print NR ? v[int((NR + 1) / 2)] : 0 }'
}
calc() { awk "BEGIN { printf \"%.$1f\", $2 }"; } # calc DECIMALS EXPRESSION
