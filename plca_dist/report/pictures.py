"""The pictures of a report: what runs predict on labelled images, what they associate, and where gradients go."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from plca_dist.config import ClusterSettings, Config
from plca_dist.data.labels import LabelSet
from plca_dist.data.prepare import Progress
from plca_dist.data.shards import read_manifest
from plca_dist.data.stream import Labelled, Pair, label_table, labelled_rows, share, whole_pairs
from plca_dist.errors import UserError
from plca_dist.inference.load import TrainedNetwork
from plca_dist.inference.parts import InferenceJob, job_from, loaded, share_out
from plca_dist.report.association_picture import association_picture
from plca_dist.report.associations import LEVELS
from plca_dist.report.diffusion_picture import diffusion_picture
from plca_dist.report.image_scores import ImageScore, image_miou, image_scores, worst_and_best
from plca_dist.report.page import Panel, Picture
from plca_dist.report.panels import columns
from plca_dist.storage import absolute, probe
from plca_dist.training.evaluation import probabilities

T = TypeVar("T")
ASSOCIATION, DIFFUSION = "Cycle association", "Gradient diffusion"


@dataclass(frozen=True)
class Subject:
    """Weights to be looked at: a run's title, its recipe, their place, and what `load_trained` makes of that."""

    title: str
    config: Config
    place: str
    trained: TrainedNetwork


@dataclass(frozen=True)
class PictureOptions:
    """How pictures are made.

    Attributes:
        data: labelled shards; "" for the recipe's own evaluation shards.
        images: how many are shown, half of them the worst, half the best.
        candidates: of so many, the first of the set.
        aggregation: λ of the predictions.
        endpoint: of an S3-compatible server.
    """

    data: str = ""
    images: int = 6
    candidates: int = 50
    aggregation: float = 0.0
    workers: ClusterSettings = field(default_factory=ClusterSettings)
    endpoint: str | None = None


def labelled_data(subject: Subject, labels: LabelSet, options: PictureOptions) -> tuple[str, int]:
    """The URI of the labelled images, and how many candidates it has. Raises UserError where there are none."""
    uri = subject.config.evaluation.uri
    if not options.data and not uri:
        raise UserError(f"{subject.title} has no evaluation.uri; give labelled shards with --data.")
    data = absolute(options.data or subject.config.data_uri(uri or ""))
    manifest = read_manifest(probe(data, options.endpoint))
    label_table(manifest, labels.classes, data)  # for its refusals
    if manifest.rows == 0:
        raise UserError(f"{data} holds no images.")
    return data, min(options.candidates, manifest.rows)


def scores(
    subject: Subject, data: str, candidates: int, options: PictureOptions, progress: Progress
) -> list[ImageScore]:
    """The mIoU of every candidate by itself. Raises UserError where none has one."""
    wanted = options.workers
    job, workers = job_from(
        subject.place,
        options.aggregation,
        endpoint=options.endpoint,
        workers=wanted.most_workers,
        gpu=wanted.gpu,
        trained=subject.trained,
    )
    found: list[ImageScore] = []
    for part in share_out(_score_part, (job, data, candidates), candidates, workers):
        found += part
        progress("images", len(found), candidates)
    if all(math.isnan(score.miou) for score in found):
        raise UserError(f"{data}: none of the first {candidates} images has a labelled pixel.")
    return found


def _score_part(job: InferenceJob, data: str, candidates: int, part: int, parts: int, device: str) -> list[ImageScore]:
    trained = loaded(job, device)
    samples = labelled_rows(data, trained.labels, share(candidates, part, parts), job.endpoint)
    found = image_scores(
        trained.network,
        samples,
        trained.labels,
        size=job.size,
        ratio=job.aggregation,
        inference=trained.inference,
    )
    return list(found)


def panels(
    subjects: Sequence[Subject],
    data: str,
    found: Sequence[ImageScore],
    labels: LabelSet,
    options: PictureOptions,
    progress: Progress,
) -> list[Panel]:
    """image | truth | each subject's prediction, from the worst to the best by the last subject's mIoU."""
    made: list[Panel] = []
    shown = worst_and_best(found, options.images)
    for chosen in shown:
        sample = image_at(data, chosen.row, labels, options)
        predictions, scored = {}, []
        for subject in subjects:
            probability_KHW = probabilities(
                subject.trained.network,
                sample.image,
                size=subject.config.evaluation.size,
                ratio=options.aggregation,
                inference=subject.trained.inference,
            )
            prediction_HW = probability_KHW.argmax(0)
            predictions[subject.title] = prediction_HW.numpy()
            scored.append(f"{subject.title} {image_miou(prediction_HW, sample.label, labels):.1f}")
        caption = f"{sample.id}: mIoU {', '.join(scored)}"
        made.append(Panel(columns(sample.image.numpy(), sample.label.numpy(), predictions, labels), caption))
        progress("images shown", len(made), len(shown))
    return made


def typical(found: Sequence[ImageScore]) -> int:
    """The row of the image in the middle between the worst and the best; one of `found` has an mIoU (see `scores`)."""
    ranked = worst_and_best(found, len(found))
    return ranked[len(ranked) // 2].row


def image_at(data: str, row: int, labels: LabelSet, options: PictureOptions) -> Labelled:
    return _first(labelled_rows(data, labels, range(row, row + 1), options.endpoint), data)


def associations(
    subjects: Sequence[Subject], labels: LabelSet, target: Labelled | None, options: PictureOptions, progress: Progress
) -> list[Picture]:
    """Figures 1 and 2 for the first source image of the last subject's recipe and `target`.

    Args:
        target: None: the first image of the target training shards, whose labels nobody has.
    """
    pair, target_label = _pair(subjects[-1].config, labels, target, options)
    made: list[Picture] = []
    for level in LEVELS:
        for subject in subjects:
            network = subject.trained.network
            found = association_picture(network, pair, labels, target_label=target_label, level=level, **_how(subject))
            made.append(Picture(ASSOCIATION, f"{subject.title}, {level} level: {found.caption}", found.png))
            progress("associations", len(made), len(LEVELS) * len(subjects))
    last = subjects[-1]
    if last.config.objective.aggregation and (spread := diffusion_picture(last.trained.network, pair, **_how(last))):
        told = f"{spread.elsewhere:.0%} of the gradient of one association reaches other positions through aggregation"
        made.append(Picture(DIFFUSION, f"{last.title}, feature level: {told}", spread.png))
    return made


def _how(subject: Subject) -> dict[str, Any]:
    """As the network was trained to associate, on images of the size that it is evaluated at."""
    config = subject.config
    return {
        "size": config.evaluation.size,
        "aggregation": config.objective.aggregation,
        "inference": config.objective.inference,
    }


def _pair(
    config: Config, labels: LabelSet, target: Labelled | None, options: PictureOptions
) -> tuple[Pair, Tensor | None]:
    source = config.data_uri(config.source.uri)
    if target is None:
        of_target = config.data_uri(config.target.uri)
        pairs = whole_pairs(source, of_target, labels, 1, 0, 1, options.endpoint)
        return _first(pairs, f"{source} or {of_target}"), None
    first = image_at(source, 0, labels, options)
    return Pair(first.image, first.label, target.image), target.label


def _first(found: Iterator[T], where: str) -> T:
    for one in found:
        return one
    raise UserError(f"{where} holds no images.")
