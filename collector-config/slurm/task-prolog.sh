#!/bin/bash
# Slurm's TaskProlog, as the user before each task: what it prints as "export NAME=value" is in the task's environment.
#
# What always holds: a variable that the user has set stays as it is, so that a job can go its own way. Standard output
# is Slurm's; nothing else is printed there. The exit status is 0: any other one would end the task.
#
# Settings, from the file that TORCHELASTIC_OTEL_SITE names (torchelastic-otel.env): every line NAME=value of it.

main() {
    local site=${TORCHELASTIC_OTEL_SITE:-/etc/torchelastic-otel/torchelastic-otel.env}
    local line name
    [ -r "$site" ] || return
    while IFS= read -r line || [ -n "$line" ]; do
        name=${line%%=*}
        # a line is read, never run: the user's shell owes this file nothing
        if [[ $line == *=* && $name =~ ^(OTEL|TORCHELASTIC_OTEL)_[A-Z_]+$ && -z ${!name+set} ]]; then
            echo "export $line"
        fi
    done <"$site"
}

main
exit 0
