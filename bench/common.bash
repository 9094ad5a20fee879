# Sourced by the scripts: a temporary folder, processes that end with the script, figures out of JSON lines.
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

# stop PID [SIGNAL]: and wait for its end.
stop() {
    local left=() other
    kill -s "${2:-TERM}" "$1"
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

servers=() # the processes whose CPU time load counts

# A coordinator and two shards on loopback with a real etcd; sets $url and $servers. Fails when there is no etcd.
start_cluster() {
    local client peer shard i
    command -v etcd >/dev/null || { say "no etcd: the cluster is left out"; return 1; }
    client=http://127.0.0.1:$(free_port)
    peer=http://127.0.0.1:$(free_port)
    start etcd 'serving .*client requests' etcd --name e --data-dir "$work/etcd" --listen-client-urls "$client" \
        --advertise-client-urls "$client" --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "e=$peer"
    etcd=$pid
    servers=()
    for shard in a b; do
        start "shard-$shard" ready "$kith" shard --etcd "$client" --cluster bench --data "$work/shard-$shard" --listen "127.0.0.1:$(free_port)"
        servers+=("$pid")
    done
    start coordinator 'http://' "$kith" coordinator --etcd "$client" --cluster bench --listen "127.0.0.1:$(free_port)"
    servers+=("$pid")
    url=$(grep -oE -m1 'http://127\.0\.0\.1:[0-9]+' "$work/coordinator.log")
    for ((i = 0; i < 100; i++)); do
        ! curl -sf "$url/readyz" >/dev/null || break
        sleep 0.1
    done
}

stop_cluster() {
    for pid in "${servers[@]}" "$etcd"; do stop "$pid"; done
    servers=()
}

# ask METHOD PATH [BODY]
ask() {
    curl -sS --fail-with-body -X "$1" "$url$2" -H 'Content-Type: application/json' ${3:+-d "$3"} || { say " <- $1 $2"; exit 1; }
}

collection() { ask PUT "/collections/$1" "{\"vectors\":{\"size\":$2,\"distance\":\"Cosine\"}${3:+,$3}}" >/dev/null; }

# use_set NAME ROWS DIM: sets $set, $dim, $rows, and the options $data and $truth of bench_data and bench_truth: a set of the benchmarks' cache
# (base.f32, query.f32, set.json), or ROWS made-up points of DIM numbers when it is not there.
use_set() {
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/kith/bench/$1
    set=$1
    if [ -s "$folder/base.f32" ] && [ -s "$folder/query.f32" ]; then
        dim=$(sed 's/.*"dim": *\([0-9]*\).*/\1/' "$folder/set.json")
        rows=$(($(stat -c %s "$folder/base.f32") / dim / 4))
        data=(--dim "$dim" --base "$folder/base.f32" --queries "$folder/query.f32")
        truth=(--dim "$dim" --base "$folder/base.f32" --query "$folder/query.f32")
        return
    fi
    [ "$1" = made-up ] || say "no set in $folder: made-up points instead"
    set=made-up rows=$2 dim=$3
    data=(--dim "$dim")
    truth=(--dim "$dim")
}

# import_set COLLECTION N: the first N points of the set, by `kith import`.
import_set() {
    "$bench/bench_data" jsonl "${data[@]}" --points "$2" >"$work/points.jsonl"
    "$kith" import "$1" "$work/points.jsonl" --url "$url" >"$work/import.log" 2>&1 || { tail -n 5 "$work/import.log" >&2; exit 1; }
    rm "$work/points.jsonl"
}

# settle COLLECTION: waits until it says that nothing is being made of what was written.
settle() {
    local i
    for ((i = 0; i < 1200; i++)); do
        ! ask GET "/collections/$1" | grep -q '"status":"green"' || return 0
        sleep 0.5
    done
    say "collection $1 does not become green"
    exit 1
}

# points_are COLLECTION N: they are all there, or the figures mean nothing.
points_are() {
    local n
    n=$(ask POST "/collections/$1/points/count" '{"exact":true}' | sed 's/.*"count":\([0-9]*\).*/\1/')
    [ "$n" = "$2" ] || { say "collection $1 has $n points, not $2"; exit 1; }
}

# CPU time of these processes with all their threads so far, in microseconds.
cpu_us() { local id; for id in "$@"; do cat "/proc/$id/task"/*/schedstat; done | awk '{ ns += $1 } END { printf "%.0f", ns / 1000 }'; }

# load NAME PATH OPTIONS...: one run of the load generator, with the servers' CPU time per answer.
load() {
    local name=$1 path=$2 before line requests
    shift 2
    before=$(cpu_us "${servers[@]}")
    line=$("$bench/load" --name "$name" --url "$url$path" --warmup 0 --seconds "$seconds" "$@")
    requests=$(sed 's/.*"requests":\([0-9]*\).*/\1/' <<<"$line")
    printf '%s,"cpu_us":%s}\n' "${line%\}}" "$(calc 1 "($(cpu_us "${servers[@]}") - $before) / ($requests + 0.001)")" | tell
}

# values NAME FIELD: of the lines of that name, in their order.
values() { { grep -F "\"name\":\"$1\"" "$lines" || :; } | sed -n "s/.*\"$2\":\"\{0,1\}\([^,\"}]*\).*/\1/p"; }
median() { sort -g | awk '{ v[NR] = $1 } END { print NR ? v[int((NR + 1) / 2)] : 0 }'; }
# figure NAME FIELD: the median over the lines of that name.
figure() { values "$1" "$2" | median; }
# ratio NAME OTHER FIELD: the one over the other, round by round; the median.
ratio() { paste <(values "$1" "$3") <(values "$2" "$3") | awk '{ print $1 / ($2 + 1e-9) }' | median; }
calc() { awk "BEGIN { printf \"%.$1f\", $2 }"; } # calc DECIMALS EXPRESSION
