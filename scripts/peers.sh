#!/usr/bin/env bash
# ChronosDB beside what people use in its place, in one run on one machine: events of 256 bytes,
# each durable before its answer. A peer that is not installed is skipped, with the reason.
#   scripts/peers.sh [--install] [--duration TIME] [--rounds N] [--write]
#     --install    first installs the peers from Debian's packages (as root)
#     --duration   of each of the three parts, for each server [default: 5s]
#     --rounds     all servers in turn, so often; the table has the medians [default: 3]
#     --write      also puts the table and the machine's limits into bench/RESULTS.md
set -euo pipefail
cd "$(dirname "$0")/.."
duration=5s rounds=3 write=no
while [ $# -gt 0 ]; do
    case $1 in
    --install)
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends redis-server beanstalkd postgresql \
            nats-server fio
        ;;
    --duration) duration=$2 && shift ;;
    --rounds) rounds=$2 && shift ;;
    --write) write=yes ;;
    *) sed -n '2,8s/^# //p' "$0" && exit 2 ;;
    esac
    shift
done
PATH=$PATH:/usr/sbin

cargo build --release --workspace --quiet
build=${CARGO_TARGET_DIR:-target}
bench=$build/release/chronosdb-bench
work=$(mktemp -d "$(realpath "$build")/peers-XXXXXX")
chmod 755 "$work"
rows=$work/rows.jsonl
server=
stop() {
    [ -z "$server" ] || { kill "$server" 2> /dev/null && wait "$server" 2> /dev/null; } || true
    server=
}
trap 'stop; rm -rf "$work"' EXIT

skip() { # NAME WHY
    echo "== $1: skipped: $2"
    printf '{"peer": "%s", "skipped": "%s"}\n' "$1" "$2" >> "$rows"
}

# An empty directory for a server.
fresh() { # NAME
    rm -rf "${work:?}/$1" && mkdir "$work/$1"
}

# Waits until a server listens on a port of loopback.
up() { # PORT
    for _ in {1..300}; do
        (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null && return
        kill -0 "$server" 2> /dev/null || break
        sleep 0.1
    done
    return 1
}

# Starts a server, measures it, stops it. It runs in a directory of its own.
measure() { # NAME PORT COMMAND...
    local name=$1 port=$2
    shift 2
    echo "== $name: $*"
    "$@" > "$work/$name.log" 2>&1 &
    server=$!
    if ! up "$port"; then
        skip "$name" "it did not start: $(tail -n 1 "$work/$name.log" | tr -d '"\\')"
    elif ! "$bench" peer "$name" --addr "127.0.0.1:$port" --duration "$duration" \
        --results "$rows" 2> "$work/bench.log"; then
        skip "$name" "$(tail -n 1 "$work/bench.log" | tr -d '"\\')"
    fi
    stop
}

load=$(cut -d' ' -f1 /proc/loadavg)
"$bench" limits --dir "$work" --json | tee "$work/limits.txt" | grep -v '^{'

round() {
    fresh chronosdb
    measure chronosdb 17700 "$build/release/chronosdb" serve --data-dir "$work/chronosdb" \
        --native-addr 127.0.0.1:17700 --grpc-addr 127.0.0.1:19000 --http-addr 127.0.0.1:18080

    if command -v redis-server > /dev/null; then
        for name in redis-stream redis-zset; do
            fresh "$name"
            measure "$name" 16379 redis-server --port 16379 --bind 127.0.0.1 --dir "$work/$name" \
                --appendonly yes --appendfsync always --save ''
        done
    else
        skip redis-stream "redis-server is not installed"
        skip redis-zset "redis-server is not installed"
    fi

    if command -v beanstalkd > /dev/null; then
        fresh beanstalkd
        measure beanstalkd 11399 beanstalkd -l 127.0.0.1 -p 11399 -b "$work/beanstalkd" -f 0
    else
        skip beanstalkd "beanstalkd is not installed"
    fi

    # initdb and postgres are often not on the path, and never run as root.
    postgres_bin=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | sort -V | tail -n 1 || true)
    as_postgres=()
    [ "$(id -u)" != 0 ] || as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups --)
    if [ -z "$postgres_bin" ]; then
        skip postgres "no PostgreSQL in /usr/lib/postgresql"
    elif [ "$(id -u)" = 0 ] && ! id postgres > /dev/null 2>&1; then
        skip postgres "it does not run as root, and there is no user postgres"
    else
        data=$work/postgres
        fresh postgres
        [ "$(id -u)" != 0 ] || chown postgres "$data"
        if "${as_postgres[@]}" "$postgres_bin/initdb" -D "$data" -U bench --auth=trust \
            > "$work/initdb.log" 2>&1; then
            measure postgres 15432 "${as_postgres[@]}" "$postgres_bin/postgres" -D "$data" -p 15432 \
                -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 \
                -c fsync=on -c synchronous_commit=on -c shared_buffers=512MB -c max_wal_size=4GB
        else
            skip postgres "initdb: $(tail -n 1 "$work/initdb.log" | tr -d '"\\')"
        fi
    fi

    if command -v nats-server > /dev/null; then
        fresh nats
        printf 'listen: "127.0.0.1:14222"\njetstream { store_dir: "%s", sync_interval: always }\n' \
            "$work/nats" > "$work/nats.conf"
        if nats-server -t -c "$work/nats.conf" > /dev/null 2>&1; then
            measure nats 14222 nats-server -c "$work/nats.conf"
        else
            version=$(nats-server --version)
            skip nats "$version answers before it syncs (sync_interval: always came with 2.10)"
        fi
    else
        skip nats "nats-server is not installed"
    fi
}
for ((number = 0; number < rounds; number++)); do
    round
done

"$bench" peer-table --results "$rows" | tee "$work/table.md"
[ $write = yes ] || exit 0

machine() {
    echo "$(nproc) cores of $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)," \
        "$(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)," \
        "Linux $(uname -r | cut -d- -f1), $(findmnt -n -o FSTYPE -T "$work")," \
        "load average $load when it began"
}
{
    echo "# ChronosDB beside its peers"
    echo
    echo "Made by \`scripts/peers.sh --duration $duration --rounds $rounds --write\` on" \
        "$(date -u +%F), commit $(git rev-parse --short HEAD): $(machine)."
    echo "Servers and load share the cores. Rates are events a second, medians of the rounds; in"
    echo "parentheses, ChronosDB as a multiple of the peer. Another machine gives other rates:"
    echo "compare within one table."
    echo
    cat "$work/table.md"
    echo
    echo "Every event has 256 bytes and is synced before its answer. ChronosDB looks for duplicates"
    echo "and keeps a due time and a history; \`bench/src/peers/\` says what each peer leaves out. A"
    echo "batch is a pipeline where a peer has no batches."
    echo
    echo "## Settings"
    echo
    echo "- Redis: \`appendonly yes\`, \`appendfsync always\`; a stream (\`XADD\`, \`XREADGROUP\`," \
        "\`XACK\`), a sorted set (\`ZADD\`, \`ZRANGEBYSCORE\`, \`ZREM\`)"
    echo "- beanstalkd: \`-b DIR -f 0\`"
    echo "- PostgreSQL: \`fsync=on\`, \`synchronous_commit=on\`, \`shared_buffers=512MB\`," \
        "\`max_wal_size=4GB\`; \`FOR UPDATE SKIP LOCKED\`"
    echo "- NATS JetStream: \`sync_interval: always\`"
    echo
    echo "## What the machine could do in that minute"
    echo
    echo '```text'
    grep -v '^{' "$work/limits.txt"
    echo '```'
} > bench/RESULTS.md
echo "wrote bench/RESULTS.md"
