#!/bin/bash
# Slurm's Epilog, as root on every node of a job, after its processes have ended: delivers orphaned spools.
#
# Guarantees: it ends within TORCHELASTIC_OTEL_EPILOG_TIMEOUT and five seconds, whatever the Collector or the disk does.
# Delivery runs as the job's user, since only the owner can read a spool. The exit status is always 0: after any other
# one Slurm drains the node. Undelivered events stay in the spool, for the user's next job on this node.
#
# Settings, from the file in TORCHELASTIC_OTEL_SITE (torchelastic-otel.env), or the environment:
#   TORCHELASTIC_OTEL_SPOOL_DIR        as in prolog.sh
#   TORCHELASTIC_OTEL_EPILOG_TIMEOUT   seconds, default 15
#   TORCHELASTIC_OTEL_PROGRAM          the command; one installation per node, which needs no torch

# Slurm sets no PATH
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
    # after most jobs there is nothing to deliver
    local spools=("$TORCHELASTIC_OTEL_SPOOL_DIR/torchelastic-otel-$uid"/*.spool)
    [ -e "${spools[0]}" ] || return
    if ! [ -x "$program" ]; then
        say "$program is not there; what is left waits for the user's next job on this node"
        return
    fi
    # the user's process gets only this project's variables of slurmd's environment
    local settings=() name
    for name in "${!OTEL_@}" "${!TORCHELASTIC_OTEL_@}"; do settings+=("$name=${!name}"); done
    local as_user=()
    if [ "$(id -u)" -ne "$uid" ]; then as_user=(setpriv --reuid="$uid" --regid="$gid" --clear-groups); fi
    # the user may have no access to slurmd's working directory
    cd / || return
    timeout --kill-after=2 "$((seconds + 3))" \
        env -i "PATH=$PATH" HOME=/ "${settings[@]}" "${as_user[@]}" "$program" flush --timeout "$seconds" >&2
    local status=$?
    if [ "$status" -ne 0 ]; then say "flush ended with status $status; what is left waits for the next job"; fi
}

main
exit 0
