#!/bin/bash
# Slurm's Epilog, as root on every node of a job, when its processes are gone: delivers what killed agents left.
#
# What always holds: it ends within TORCHELASTIC_OTEL_EPILOG_TIMEOUT and five seconds, whatever the Collector or the
# disk does. Delivery runs as the job's user, who alone may read the spool. The exit status is 0 whatever happens: with
# any other one Slurm drains the node. What is left stays in the spool, for the user's next job on this node.
#
# Settings, from the file that TORCHELASTIC_OTEL_SITE names (torchelastic-otel.env), or the environment:
#   TORCHELASTIC_OTEL_SPOOL_DIR        as in prolog.sh
#   TORCHELASTIC_OTEL_EPILOG_TIMEOUT   seconds, 15 where nothing is said
#   TORCHELASTIC_OTEL_PROGRAM          the command; one installation for each node, which needs no torch

# Slurm gives these programs no search path
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 077

say() { echo "torchelastic-otel epilog: $*" >&2; }

main() {
    local site=${TORCHELASTIC_OTEL_SITE:-/etc/torchelastic-otel/torchelastic-otel.env}
    set -a
    # shellcheck source=/dev/null
    if [ -r "$site" ]; then . "$site"; fi
    set +a
    export TORCHELASTIC_OTEL_SPOOL_DIR=${TORCHELASTIC_OTEL_SPOOL_DIR:-/var/spool/torchelastic-otel}
    local seconds=${TORCHELASTIC_OTEL_EPILOG_TIMEOUT:-15}
    local program=${TORCHELASTIC_OTEL_PROGRAM:-/opt/torchelastic-otel/bin/torchelastic-otel}
    local uid=${SLURM_JOB_UID:-} gid=${SLURM_JOB_GID:-}
    if ! [[ $uid =~ ^[0-9]+$ ]]; then
        say "SLURM_JOB_UID='$uid' is no user id; nothing is delivered"
        return
    fi
    if ! [[ $seconds =~ ^[0-9]+$ ]]; then
        say "TORCHELASTIC_OTEL_EPILOG_TIMEOUT='$seconds' is no whole number of seconds; 15 is taken"
        seconds=15
    fi
    if ! [[ $gid =~ ^[0-9]+$ ]]; then gid=$(id -g "$uid" 2>/dev/null) || gid=$uid; fi
    # most jobs leave nothing, and pay for one look into a folder
    local spools=("$TORCHELASTIC_OTEL_SPOOL_DIR/torchelastic-otel-$uid"/*.spool)
    [ -e "${spools[0]}" ] || return
    if ! [ -x "$program" ]; then
        say "$program is not there; what is left waits for the user's next job on this node"
        return
    fi
    # the user's process gets what is ours of the environment, and nothing else of slurmd's
    local settings=() name
    for name in "${!OTEL_@}" "${!TORCHELASTIC_OTEL_@}"; do settings+=("$name=${!name}"); done
    local as_user=()
    if [ "$(id -u)" -ne "$uid" ]; then as_user=(setpriv --reuid="$uid" --regid="$gid" --clear-groups); fi
    # the directory that slurmd runs in may be closed to the user
    cd / || return
    timeout --kill-after=2 "$((seconds + 3))" \
        env -i "PATH=$PATH" HOME=/ "${settings[@]}" "${as_user[@]}" "$program" flush --timeout "$seconds" >&2
    local status=$?
    if [ "$status" -ne 0 ]; then say "flush ended with status $status; what is left waits for the next job"; fi
}

main
exit 0
