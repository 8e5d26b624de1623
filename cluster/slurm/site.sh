# shellcheck shell=bash disable=SC2034
# What is particular to your site; the only file here to edit. Every node of a job reads it. Where it exports SBATCH_…
# variables, also source it in the shell that submits. PLCA_SITE=/path/to/file names another file to read instead.

# Where jobs go, unless sbatch's options say otherwise (`man sbatch`, "input environment variables").
# export SBATCH_PARTITION=gpu SBATCH_ACCOUNT=vision SBATCH_TIMELIMIT=12:00:00

# Python with the project in it, at the same place on all nodes: what `make install` made, modules, or a container.
# module load cuda
PATH=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin:$PATH

# What `ray`, `python` and `plca` are run in, which has to hand signals on to them; empty: nothing.
container=()
# container=(apptainer exec --nv --bind /scratch /scratch/plca.sif)

# This node's address, as the other nodes reach it.
address() { hostname -I | cut -d' ' -f1; }
# address() { ip -4 -o address show ib0 | awk '{ sub("/.*", "", $4); print $4 }'; }
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

# Where the bucket's credentials are, for jobs that do not inherit them: see docs/operations.md, "What each cloud needs".
# export AWS_PROFILE=plca AWS_REGION=us-east-1
# export GOOGLE_APPLICATION_CREDENTIALS=$HOME/.config/plca/google.json
# export AZURE_STORAGE_ACCOUNT_NAME=account # and `az login`, or the line below, with a file that only you can read
# AZURE_STORAGE_SAS_TOKEN=$(cat "$HOME/.config/plca/azure-sas"); export AZURE_STORAGE_SAS_TOKEN
# export SSL_CERT_FILE=/etc/ssl/authorities.pem # certificates of your own authorities, and of others that are needed
# export HTTPS_PROXY=http://proxy.example.com:3128 NO_PROXY=10.0.0.0/8,localhost

# A directory of each node's own for sockets and Ray's logs. Short: the path of a socket holds 107 bytes.
scratch=/tmp

# Seconds that Ray may take to start on all nodes: importing Python from a busy file system can take minutes.
start_s=300
