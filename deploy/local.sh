#!/usr/bin/env bash
# Several nodes on one Redis behind HAProxy, and Prometheus if it is installed, as plain processes on 127.0.0.1: what compose.yaml is with
# containers, from the same redis.conf, haproxy.cfg and prometheus.yml. `local.sh --help` explains it.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/usr/local/sbin" # Debian keeps haproxy out of an ordinary user's PATH

usage() {
	cat <<'END'
Usage: deploy/local.sh [up] [OPTION…] [-- FLAG…]   run nodes, Redis, HAProxy (and Prometheus) until Ctrl-C or SIGTERM
       deploy/local.sh start --dir DIR NAME…       start processes again that have ended, or were killed
       deploy/local.sh down --dir DIR              stop everything, also if what ran `up` was killed
FLAG… is handed to each `loopmq serve`.

Options of up:
  --nodes N          how many nodes, 1 to 16 (default 3)
  --port PORT        where HAProxy takes MQTT, 0 for any port that is free (default 1883); all others are free ports
  --dir DIR          where configuration, logs and data go; logs and data stay there, and a next run goes on with them
                     (default: a new directory, which is removed at the end)
  --bin PATH         the program (default bin/loopmq, which `make build` builds)
  --redis DIRECTIVE  a line for redis.conf, such as 'appendfsync everysec'; may be repeated
  --store STORE      the nodes' --store, instead of a Redis of their own
  --no-prometheus    no Prometheus, even if it is installed

DIR/env is there as soon as everything is ready, and only then: lines NAME=VALUE with DIR, BIN, MQTT, STATS, STORE, NODES, REDIS and
PROMETHEUS if they run, and NODE1_MQTT and NODE1_ADMIN of each node. DIR/NAME has pid, log and data of the process NAME: node1 …, redis,
haproxy, prometheus. Kill or halt any of them by its pid to see what happens, and `start` it again with the same addresses.
END
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
	echo "local.sh: $*" >&2
	exit 1
}

wrong() {
	echo "local.sh: $*; see deploy/local.sh --help" >&2
	exit 2
}

# running NAME: is the process of DIR/NAME there? A pid that by now is somebody else's has another working directory.
running() {
	local pid
	pid=$(cat "$dir/$1/pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null &&
		{ [ ! -e /proc/self/cwd ] || [ "/proc/$pid/cwd" -ef "$dir/$1" ]; }
}

# until_true SECONDS COMMAND…: tries again until the command succeeds; fails when the time is over.
until_true() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$deadline" ] || return 1
		sleep 0.05
	done
}

# launch NAME COMMAND…: runs it in DIR/NAME, in a process group of its own, so that Ctrl-C ends this script only, which then stops the
# others in the right order.
launch() {
	local name=$1
	shift
	mkdir -p "$dir/$name"
	pushd "$dir/$name" >/dev/null
	set -m
	"$@" </dev/null >>log 2>&1 &
	set +m
	echo $! >pid
	disown
	popd >/dev/null
}

# answers NAME: is the process of that name ready?
answers() {
	local at line=
	case $1 in
	node*)
		at=${1^^}_ADMIN
		"$bin" health --admin "${!at}" >/dev/null 2>&1
		;;
	redis)
		line=$({ exec 3<>"/dev/tcp/127.0.0.1/${REDIS##*:}" && echo PING >&3 && read -r -t 2 line <&3 && echo "$line"; } 2>/dev/null) || :
		[ "${line%$'\r'}" = +PONG ]
		;;
	haproxy) listening "${STATS#*:}" ;; # Its port for MQTT would count as a connection at a node.
	prometheus) listening "${PROMETHEUS#*:}" ;;
	esac
}

# ready NAME: waits until it is, or says why it won't be.
ready() {
	ended_or_answers() { ! running "$1" || answers "$1"; }
	if until_true 60 ended_or_answers "$1" && running "$1"; then return; fi
	tail -n 5 "$dir/$1/log" >&2 || :
	fail "$1 doesn't start: see above, the end of its log"
}

# start NAME: launches a process, with what DIR/env and the files beside it say.
start() {
	local mqtt=${1^^}_MQTT admin=${1^^}_ADMIN flags
	! running "$1" || fail "$1 is running already"
	case $1 in
	node*)
		[ -n "${!mqtt:-}" ] || fail "there is no $1"
		mapfile -t flags <"$dir/flags"
		launch "$1" "$bin" serve --tcp "${!mqtt}" --ws off --http off --coap off --admin "${!admin}" --store "$STORE" --log-format json "${flags[@]}"
		;;
	redis) launch redis redis-server "$dir/redis.conf" ;;
	haproxy) launch haproxy haproxy -db -f "$dir/haproxy.cfg" ;;
	prometheus)
		launch prometheus prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path=data --web.listen-address="$PROMETHEUS"
		;;
	*) fail "there is no $1" ;;
	esac
}

# stop SECONDS NAME…: asks all of them to end, and kills what is still there after that time.
stop() {
	local patience=$1 name
	shift
	for name; do
		# One that was halted (SIGSTOP) has to go on to hear it.
		if running "$name"; then kill -TERM "$(cat "$dir/$name/pid")" && kill -CONT "$(cat "$dir/$name/pid")"; fi 2>/dev/null || :
	done
	ended() { ! running "$1"; }
	for name; do
		until_true "$patience" ended "$name" || {
			echo "local.sh: $name doesn't end, and is killed" >&2
			kill -KILL "$(cat "$dir/$name/pid")" 2>/dev/null || :
			until_true 10 ended "$name" || :
		}
		rm -f "$dir/$name/pid"
	done
}

# stop_all stops whatever runs in DIR: nodes first, since what they still commit goes to Redis and what they still say goes through HAProxy.
# They get more than their --grace (10s).
stop_all() {
	local pids=("$dir"/node*/pid)
	pids=("${pids[@]%/pid}")
	rm -f "$dir/env"
	[ ! -d "${pids[0]}" ] || stop 15 "${pids[@]##*/}"
	stop 5 haproxy prometheus
	stop 15 redis
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

taken=" "
# free_port sets port to one that nobody listens on. They are below what systems use for outgoing connections, so that none of those takes
# the port while a process is restarted.
free_port() {
	while port=$((15000 + RANDOM % 17000)); do
		if [[ "$taken" != *" $port "* ]] && ! listening "$port"; then break; fi
	done
	taken+="$port "
}

# configure sets the addresses, writes the configuration of each process, and DIR/env.starting.
configure() {
	local i name line targets='' servers=''
	mqtt_port=$port_wanted
	if [ "$mqtt_port" = 0 ]; then
		free_port
		mqtt_port=$port
	elif listening "$mqtt_port"; then
		fail "port $mqtt_port is taken; --port 0 finds one that isn't"
	fi
	MQTT=127.0.0.1:$mqtt_port
	free_port
	STATS=127.0.0.1:$port
	REDIS='' PROMETHEUS=''
	if [ -z "$store" ]; then
		free_port
		REDIS=127.0.0.1:$port
		store=redis://$REDIS/0
		mkdir -p "$dir/redis"
		{
			echo "include \"$here/redis.conf\""
			printf '%s\n' "port $port" "bind 127.0.0.1" "dir \"$dir/redis\"" "daemonize no" ${directives[@]+"${directives[@]}"}
		} >"$dir/redis.conf"
	fi
	STORE=$store
	for ((i = 1; i <= nodes; i++)); do
		free_port
		printf -v "NODE${i}_MQTT" '127.0.0.1:%d' "$port"
		servers+=$'\t'"server node$i 127.0.0.1:$port port "
		free_port
		printf -v "NODE${i}_ADMIN" '127.0.0.1:%d' "$port"
		servers+="$port"$'\n'
		targets+="${targets:+, }\"127.0.0.1:$port\""
	done
	printf '%s\n' ${flags[@]+"${flags[@]}"} >"$dir/flags"
	[ ${#flags[@]} -gt 0 ] || : >"$dir/flags"
	{
		sed -e "s/bind :1883/bind $MQTT/" -e "s/bind :8404/bind $STATS/" -e '/^	server /d' "$here/haproxy.cfg"
		printf '%s' "$servers"
	} >"$dir/haproxy.cfg"
	if $prometheus; then
		free_port
		PROMETHEUS=127.0.0.1:$port
		# Who tries it out looks at once, not in 15 seconds.
		sed -e 's/: 15s$/: 1s/' -e "s/\"node1:.*\"\]/$targets]/" -e "s/haproxy:8404/$STATS/" -e "s|\[prometheus/|[$here/prometheus/|" "$here/prometheus.yml" >"$dir/prometheus.yml"
	fi
	{
		printf '%s=%q\n' DIR "$dir" BIN "$bin" MQTT "$MQTT" STATS "$STATS" STORE "$STORE" NODES "$nodes"
		[ -z "$REDIS" ] || echo "REDIS=$REDIS"
		[ -z "$PROMETHEUS" ] || echo "PROMETHEUS=$PROMETHEUS"
		for ((i = 1; i <= nodes; i++)); do
			for name in "NODE${i}_MQTT" "NODE${i}_ADMIN"; do echo "$name=${!name}"; done
		done
	} >"$dir/env.starting"
}

# needs PROGRAM PACKAGE: is it installed?
needs() {
	command -v "$1" >/dev/null || missing+=" $2"
}

up() {
	local nodes=3 port_wanted=1883 store='' prometheus=true temporary=false directives=() flags=() i missing='' names=()
	dir='' bin=$here/../bin/loopmq
	while [ $# -gt 0 ]; do
		case $1 in
		--nodes | --port | --dir | --bin | --redis | --store) [ $# -gt 1 ] || wrong "$1 needs a value" ;;
		esac
		case $1 in
		--nodes) nodes=$2 && shift ;;
		--port) port_wanted=$2 && shift ;;
		--dir) dir=$2 && shift ;;
		--bin) bin=$2 && shift ;;
		--redis) directives+=("$2") && shift ;;
		--store) store=$2 && shift ;;
		--no-prometheus) prometheus=false ;;
		--)
			shift
			flags=("$@")
			break
			;;
		*) wrong "\"$1\" isn't an option" ;;
		esac
		shift
	done
	[[ "$nodes" =~ ^([1-9]|1[0-6])$ ]] || wrong "--nodes \"$nodes\": allowed: 1 to 16"
	[[ "$port_wanted" =~ ^(0|[1-9][0-9]{0,4})$ && "$port_wanted" -lt 65536 ]] || wrong "--port \"$port_wanted\": allowed: 0 to 65535"

	[ -n "$store" ] || needs redis-server redis-server
	needs haproxy haproxy
	[ -z "$missing" ] || fail "please install what is missing (names of Debian packages): apt-get install$missing"
	command -v prometheus >/dev/null || prometheus=false
	[ -x "$bin" ] || fail "there is no program $bin: run 'make build', or name one with --bin"
	bin=$(cd "$(dirname "$bin")" && pwd)/$(basename "$bin")

	if [ -n "$dir" ]; then
		mkdir -p "$dir"
		dir=$(cd "$dir" && pwd)
		! supervised || fail "$dir is in use by process $(cat "$dir/pid")"
		stop_all # What is left of a run that was killed.
	else
		temporary=true
		dir=$(mktemp -d "${TMPDIR:-/tmp}/loopmq.XXXXXX")
	fi
	echo $$ >"$dir/pid"
	trap 'trap "" INT TERM HUP; stop_all; rm -f "$dir/pid" "$dir/env.starting"; if '$temporary'; then rm -rf "$dir"; fi' EXIT
	trap 'exit 0' INT TERM HUP

	configure
	for ((i = 1; i <= nodes; i++)); do names+=("node$i"); done
	if [ -n "$REDIS" ]; then
		start redis
		ready redis
	fi
	for i in "${names[@]}"; do start "$i"; done
	for i in "${names[@]}"; do ready "$i"; done
	start haproxy
	ready haproxy
	if [ -n "$PROMETHEUS" ]; then
		start prometheus
		ready prometheus
	fi
	mv "$dir/env.starting" "$dir/env"

	cat <<END
MQTT         $MQTT (HAProxy; mosquitto_sub -p $mqtt_port -t 'greeting/#')
END
	for i in "${names[@]}"; do
		local mqtt=${i^^}_MQTT admin=${i^^}_ADMIN
		printf '%-12s %s, http://%s/metrics\n' "$i" "${!mqtt}" "${!admin}"
	done
	echo "HAProxy      http://$STATS/"
	[ -z "$REDIS" ] || echo "Redis        $REDIS"
	[ -z "$PROMETHEUS" ] || echo "Prometheus   http://$PROMETHEUS/"
	echo "Directory    $dir"
	echo "Ctrl-C stops everything."

	# Nobody ever writes here. A signal ends `read` at once, as it wouldn't a command in the foreground.
	mkfifo "$dir/never"
	exec 4<>"$dir/never"
	rm "$dir/never"
	while :; do read -r -u 4 || :; done
}

# supervised: is `up` running in DIR?
supervised() {
	local pid
	pid=$(cat "$dir/pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null && ps -o args= -p "$pid" | grep -q local.sh
}

# at_dir takes --dir DIR from the arguments of start and down, and leaves the others in names.
at_dir() {
	if [ "${1:-}" != --dir ] || [ ! -d "${2:-}" ]; then wrong "start and down need --dir DIR, a directory that is there"; fi
	dir=$(cd "$2" && pwd)
	names=("${@:3}")
}

case ${1:-} in
start)
	at_dir "${@:2}"
	[ -f "$dir/env" ] || fail "nothing is up in $dir"
	# shellcheck source=/dev/null # written by configure
	. "$dir/env"
	bin=$BIN
	for name in "${names[@]}"; do start "$name"; done
	for name in "${names[@]}"; do ready "$name"; done
	;;
down)
	at_dir "${@:2}"
	if supervised; then
		kill -TERM "$(cat "$dir/pid")"
		gone() { ! supervised; }
		until_true 60 gone || fail "process $(cat "$dir/pid") doesn't end"
	else
		stop_all
		rm -f "$dir/pid"
	fi
	;;
-h | --help | help) usage ;;
up) up "${@:2}" ;;
*) up "$@" ;;
esac
