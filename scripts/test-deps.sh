#!/usr/bin/env bash
# Makes sure that what the tests need is there: a C compiler for the race detector, a redis-server, HAProxy, nginx, openssl, curl, Chromium, Prometheus, and the MQTT clients and brokers that
# others wrote.
# On Debian and Ubuntu, as root or where sudo asks for no password, it installs what is missing; elsewhere it says what to install.
# Exits 1 when something is still missing: tests against real clients are never skipped silently.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/usr/local/sbin" # Debian keeps mosquitto itself out of an ordinary user's PATH

has() { command -v "$1" >/dev/null 2>&1; }

# missing prints the Debian packages that would bring what is not there.
missing() {
	has "${CC:-gcc}" || echo gcc libc6-dev
	has mosquitto || echo mosquitto
	{ has mosquitto_pub && has mosquitto_sub; } || echo mosquitto-clients
	has node || echo nodejs
	has npm || echo npm
	has redis-server || echo redis-server
	has haproxy || echo haproxy
	has openssl || echo openssl
	has curl || echo curl
	has coap-client-openssl || echo libcoap3-bin
	has jq || echo jq
	{ has nginx && [ -e /usr/lib/nginx/modules/ngx_stream_module.so ]; } || echo nginx libnginx-mod-stream
	has chromium || echo chromium
	{ has prometheus && has promtool; } || echo prometheus
}

# as_root runs a command as root, or fails if that takes a password.
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
	has apt-get || return 1
	[ "$(id -u)" = 0 ] || { has sudo && sudo -n true 2>/dev/null; }
}

install_packages() {
	echo "make test: installing $*"
	# Debian starts a mosquitto service on port 1883 as soon as its package is there, in the way of `make run`: the tests need the
	# program only. A masked service can be had back with `systemctl unmask mosquitto`.
	# The same goes for redis-server on port 6379.
	if [ -d /run/systemd/system ]; then
		for service in mosquitto redis-server haproxy nginx prometheus prometheus-node-exporter; do
			if [[ " $* " == *" $service "* ]]; then as_root systemctl mask "$service.service"; fi
		done
	fi
	as_root apt-get update -qq
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

packages=$(missing | xargs)
if [ -n "$packages" ] && may_install; then
	# shellcheck disable=SC2086 # one word per package
	install_packages $packages
	packages=$(missing | xargs)
fi
if [ -n "$packages" ]; then
	echo "make test: please install these first (names of Debian packages): $packages" >&2
	exit 1
fi

# MQTT.js, node-opcua and coap, in the versions that the lock files hold. The copy of the lock file inside node_modules tells whether they are there.
for peer in internal/peers/mqttjs internal/peers/nodeopcua internal/peers/nodecoap; do
	if ! cmp -s "$peer/package-lock.json" "$peer/node_modules/.installed-lock.json"; then
		echo "make test: installing what $peer/package-lock.json lists"
		if ! npm ci --prefix "$peer" --ignore-scripts --no-audit --no-fund --loglevel=error; then
			echo "make test: 'npm ci' in $peer failed: it is needed, from an npm registry that this machine can reach" >&2
			exit 1
		fi
		cp "$peer/package-lock.json" "$peer/node_modules/.installed-lock.json"
	fi
done
