#!/bin/bash
# Slurm's Prolog, as root on every node of a job: creates the spool directory of the user's agents.
#
# Guarantees: a directory that this creates belongs only to the job's user (0700) from its first moment. An existing one
# is never changed, since following a user's link as root would give away other files. The exit status is always 0:
# after any other one Slurm drains the node, and telemetry must not stop a job. Errors are on standard error.
#
# Settings, from the file in TORCHELASTIC_OTEL_SITE (torchelastic-otel.env), or the environment:
#   TORCHELASTIC_OTEL_SPOOL_DIR   the parent of all users' directories, on a disk of the node; the default is below

# Slurm sets no PATH
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022

say() { echo "torchelastic-otel prolog: $*" >&2; }

main() {
    local site=${TORCHELASTIC_OTEL_SITE:-/etc/torchelastic-otel/torchelastic-otel.env}
    # shellcheck source=/dev/null
    if [ -r "$site" ]; then . "$site"; fi
    local base=${TORCHELASTIC_OTEL_SPOOL_DIR:-/var/spool/torchelastic-otel}
    local uid=${SLURM_JOB_UID:-} gid=${SLURM_JOB_GID:-}
    if ! [[ $uid =~ ^[0-9]+$ ]]; then
        say "SLURM_JOB_UID='$uid' is no user id; nothing is made"
        return
    fi
    if ! [[ $gid =~ ^[0-9]+$ ]]; then gid=$(id -g "$uid" 2>/dev/null) || gid=$uid; fi

    mkdir -p "$base" || return
    # the name that torchelastic-otel uses below TORCHELASTIC_OTEL_SPOOL_DIR
    local folder=$base/torchelastic-otel-$uid
    if ! [ -e "$folder" ]; then
        # whole before it has its name: a kill in between must not leave a folder that is root's; -T goes into no
        # directory and over no link that is there by now
        local new
        new=$(mktemp -d "$base/.new.XXXXXXXX") || return
        if ! { chmod 0700 "$new" && chown "$uid:$gid" "$new" && mv -T "$new" "$folder"; }; then rmdir "$new"; fi
    fi
    local found
    found=$(stat -c '%F, mode %a, of user %u' "$folder")
    if [ "$found" != "directory, mode 700, of user $uid" ]; then
        say "$folder is a $found, and not user $uid's directory with mode 700; remove it"
    fi
}

main
exit 0
