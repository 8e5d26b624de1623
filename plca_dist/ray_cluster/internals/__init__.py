"""All uses of what Ray does not document: environment variables here, the rest in core.py, train.py and tune.py.

No other file uses anything that Ray does not document. A new version of Ray is tried with tests/ray_cluster/
test_contract.py, which asks for each attribute and signature and says what breaks without it.

Importing this package sets the variables below, where nobody else has. It imports nothing else, because some of them
count only before Ray is imported.
"""

import os

SWITCHES = {
    # A warning about a default of Ray's that will change.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A signal waits for up to a second otherwise.
    "RAY_get_check_signal_interval_milliseconds": "100",
    # On a cluster that is started here: a process for every CPU ahead, of which a run, whose workers have variables of
    # their own, uses none.
    "RAY_prestart_worker_first_driver": "0",
    # The default of 2 s delays every start and every report.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # One process more; `run.preemption` watches.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # A Ctrl-C is Python's own.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Tune's own files; the runs of a search keep theirs.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A trial that failed has no metric.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # The searcher tells of failed trials, in a line each.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # The old output heeds verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
}

for _name, _value in SWITCHES.items():
    os.environ.setdefault(_name, _value)
