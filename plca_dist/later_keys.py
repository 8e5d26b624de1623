"""Keys of a recipe that came after the first runs, and which sections are options of which terms."""

from typing import Any

#: Sections of options -> the weights of the terms that they are for.
OPTIONS_OF = {
    "teacher": ("class_mix", "masked_consistency"),
    "masking": ("masked_consistency",),
    "feature_distance": ("feature_distance",),
    "adversary": ("adversarial",),
    "self_training": ("pseudo_labels",),
}

#: Options of self-training -> the one kind that they are for.
KINDS_OF = {"smoothness": "mrkld", "temperature": "lrent"}

#: Keys that came after the first runs -> their defaults, which are no part of an identity: those runs continue.
LATER: dict[str, Any] = {
    "model.stride": 8,
    "model.head": "deeplab",
    "model.frozen": [],
    "model.freeze_bn": False,
    "optimizer.kind": "sgd",
    "optimizer.betas": None,
    "optimizer.layer_decay": 1.0,
    "schedule.warmup": 0,
    "order.cut": None,
    "objective.class_mix": 0.0,
    "objective.masked_consistency": 0.0,
    "objective.feature_distance": 0.0,
    "teacher.decay": 0.99,
    "teacher.threshold": 0.968,
    "teacher.ignore_top": 0.0,
    "teacher.ignore_bottom": 0.0,
    "teacher.jitter": 0.25,
    "teacher.blur": True,
    "masking.block": 64,
    "masking.ratio": 0.7,
    "feature_distance.classes": None,
    "feature_distance.share": 0.75,
    "rare_class_sampling.temperature": None,
    "rare_class_sampling.pixels": 3000,
    "rare_class_sampling.crops": 10,
    "objective.entropy": 0.0,
    "objective.entropy_penalty": "linear",
    "objective.max_square": 0.0,
    "objective.image_weights": False,
    "objective.adversarial": 0.0,
    "objective.pseudo_labels": 0.0,
    "adversary.sees": "entropy",
    "adversary.lr": 1e-4,
    "adversary.betas": [0.9, 0.99],
    "self_training.kind": "mrkld",
    "self_training.start": 0.25,
    "self_training.rounds": 3,
    "self_training.round_steps": None,
    "self_training.share": 0.2,
    "self_training.growth": 0.05,
    "self_training.most": 0.5,
    "self_training.smoothness": 0.01,
    "self_training.temperature": 0.25,
    "self_training.size": None,
    "source.fourier": 0.0,
}
