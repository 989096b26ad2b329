#!/bin/bash
# Slurm's TaskProlog, as the user before each task: Slurm adds its output "export NAME=value" to the task's environment.
#
# Guarantees: a variable that the user has set is not changed, so that a job can override it. Slurm parses standard
# output; nothing else is printed there. The exit status is 0: any other one would end the task.
#
# Settings, from the file in TORCHELASTIC_OTEL_SITE (torchelastic-otel.env): all its lines NAME=value.

main() {
    local site=${TORCHELASTIC_OTEL_SITE:-/etc/torchelastic-otel/torchelastic-otel.env}
    local line name
    [ -r "$site" ] || return
    while IFS= read -r line || [ -n "$line" ]; do
        name=${line%%=*}
        # lines are parsed, not executed: the user's shell does not trust this file
        if [[ $line == *=* && $name =~ ^(OTEL|TORCHELASTIC_OTEL)_[A-Z_]+$ && -z ${!name+set} ]]; then
            echo "export $line"
        fi
    done <"$site"
}

main
exit 0
