#!/usr/bin/env bash
# Ray on one node of the job, from start to end; srun runs it on each. It ends when its standard input does, which the
# job closes: nobody else's Ray is touched, and none is left behind by a job that died. `node.sh logs` copies Ray's logs.
set -euo pipefail

temp='' reader=''

main() {
    temp=$scratch/plca-$SLURM_JOB_ID-$SLURM_NODEID
    local input ray code=0
    if [[ ${1:-} == logs ]]; then
        mkdir -p "$PLCA_LOGS/$SLURMD_NODENAME"
        cp -r "$temp"/session_2*/logs/. "$PLCA_LOGS/$SLURMD_NODENAME" 2>/dev/null || true # a node may have none
        return
    fi
    trap : TERM # Slurm's, to all processes at once: not before the commands below have ended, and not while it clears up
    trap 'over $?' EXIT
    rm -rf "$temp"
    mkdir -m 700 "$temp"
    exec {input}<&0
    cat <&"$input" >/dev/null &
    reader=$!

    # Ray would count the whole machine's cores and memory, and listen where another job's Ray may listen already.
    local options=(
        --node-name="$SLURMD_NODENAME" --node-ip-address="$(address)" --temp-dir="$temp"
        --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
        --object-store-memory=$((128 << 20)) # records and settings: no sample travels through it
        --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 --disable-usage-stats --log-color=false
        --block
    )
    if ((SLURM_NODEID == 0)); then
        options+=(--head --port="$PLCA_PORT")
        options+=(--ray-client-server-port=$((PLCA_PORT + 1)) --dashboard-port=$((PLCA_PORT + 2)))
    else
        until (: <>"/dev/tcp/${RAY_ADDRESS/://}") 2>/dev/null; do
            kill -0 "$reader" 2>/dev/null || return 0
            sleep 0.5
        done
        options+=(--address="$RAY_ADDRESS")
    fi
    # Nothing is left to drain when Ray is told to end: the driver has left.
    export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
    env -u RAY_ADDRESS "${container[@]}" ray start "${options[@]}" </dev/null &
    ray=$!
    wait -n "$ray" "$reader" || code=$?
    if kill "$ray" 2>/dev/null; then
        while kill -0 "$ray" 2>/dev/null; do wait "$ray" || true; done # Ray calls its end by a signal a failure
    else
        echo "Ray ended with exit code $code"
        return 1
    fi
}

over() {
    local try
    for try in {1..20}; do # a signal may end rm, and what Ray started may write its last
        if rm -rf "$temp" 2>/dev/null; then break; fi
        sleep 0.5 || true
    done
    if [[ $reader ]]; then kill "$reader" 2>/dev/null || true; fi # Slurm would wait for it
    (($1 == 0)) || echo "node.sh: failed on $SLURMD_NODENAME" # job.sh looks for this line
}

# shellcheck source=site.sh
. "$PLCA_SITE"
main "$@"
exit
