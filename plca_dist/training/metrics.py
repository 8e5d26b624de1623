"""Names and units of the metrics. Nothing heavy is imported: the command line checks space files against the names."""

from typing import Literal, NamedTuple

STEP = "step"
TOTAL_LOSS = "loss/total"
LOSS_PREFIX = "loss/"
CONSISTENT_PREFIX = "consistent/"  # share of labelled source positions whose cycle is consistent, 0-1
CONFIDENT = "teacher/confident"  # share of the target's pixels whose pseudo-label counts, 0-1
LABELLED = "self_training/labelled"  # share of the target's pixels that have a label of the last round, 0-1
LEARNING_RATE = "learning_rate"
PAIRS_PER_SECOND = "pairs_per_second"
DATA_WAIT = "data_wait"  # share of the time spent waiting for data, 0-1
DATA_SKIPPED = "data/skipped"  # damaged samples since the last record that others replaced; absent where none
GPU_MEMORY = "gpu_memory_gb"  # peak since the last record
ELAPSED = "elapsed_s"  # since this launch began training
MIOU = "miou"  # percent, without aggregation
MIOU_AGGREGATED = "miou_aggregated"  # percent
TEACHER_MIOU = "teacher/miou"  # percent, of the averaged teacher, without aggregation
TEACHER_MIOU_AGGREGATED = "teacher/miou_aggregated"  # percent
CRITERIA_PREFIX = "criteria/"
DENSITY = "criteria/neighbourhood_density"  # nats; soft neighbourhood density of target images
ENTROPY = "criteria/entropy"  # of predictions on target images, as a share of its largest value, 0-1
CYCLES_FEATURE = "criteria/consistent_feature"  # share of labelled source positions of whole images, 0-1
CYCLES_PREDICTION = "criteria/consistent_prediction"  # the same at the prediction level
CHECKPOINT = "checkpoint_s"  # seconds from the start of a save to its commit; goes with the message of the commit


class Criterion(NamedTuple):
    """A metric that a search can optimize: the key in a record, and whether more or less is better."""

    key: str
    mode: Literal["max", "min"]
    needs_labels: bool = False


#: By the names that space files use. All but the first are measured on unlabelled target images.
CRITERIA = {
    "target_miou": Criterion(MIOU, "max", needs_labels=True),
    "neighbourhood_density": Criterion(DENSITY, "max"),
    "entropy": Criterion(ENTROPY, "min"),
    "consistent_feature": Criterion(CYCLES_FEATURE, "max"),
    "consistent_prediction": Criterion(CYCLES_PREDICTION, "max"),
}
