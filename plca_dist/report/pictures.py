"""The pictures of a report: predictions of runs on labelled images, their associations, and the spread of gradients."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from plca_dist.config import ClusterSettings, Config
from plca_dist.data.label_table import label_table
from plca_dist.data.labels import LabelSet
from plca_dist.data.shards import read_manifest
from plca_dist.data.whole_images import Labelled, Pair, labelled_rows, share, whole_pairs
from plca_dist.errors import UserError
from plca_dist.inference.distribute import InferenceJob, distribute, job_from, loaded
from plca_dist.messages import Progress
from plca_dist.report.association_picture import association_picture
from plca_dist.report.associations import LEVELS
from plca_dist.report.diffusion_picture import diffusion_picture
from plca_dist.report.image_scores import ImageScore, image_miou, image_scores, worst_and_best
from plca_dist.report.page import Panel, Picture
from plca_dist.report.panels import columns
from plca_dist.report.tables import percent
from plca_dist.storage import OUTAGE_PATIENCE_S, Location, Store, probe, resolve
from plca_dist.training.evaluation import probabilities
from plca_dist.training.trained import TrainedNetwork

T = TypeVar("T")
ASSOCIATION, DIFFUSION = "Cycle association", "Gradient diffusion"


@dataclass(frozen=True)
class Subject:
    """A run with weights: its title, its recipe, and its weights, by location and loaded."""

    title: str
    config: Config
    weights: Location
    trained: TrainedNetwork

    def shards(self, uri: str) -> Location:
        """One of the recipe's shard directories, on the server that the run was read from."""
        return self.weights.with_uri(self.config.data_uri(uri))


@dataclass(frozen=True)
class PictureOptions:
    """How pictures are made.

    Attributes:
        data: labelled shards; None for the recipe's own evaluation shards.
        images: how many are shown: half of them the worst of the candidates, half the best.
        candidates: how many images are scored: the first ones of the set.
        aggregation: λ of the predictions.
        workers: how many processes score the candidates, and whether on GPUs.
    """

    data: Location | None = None
    images: int = 6
    candidates: int = 50
    aggregation: float = 0.0
    workers: ClusterSettings = field(default_factory=ClusterSettings)


def labelled_data(subject: Subject, labels: LabelSet, options: PictureOptions) -> tuple[Location, int]:
    """The labelled images, and the number of candidates. Raises UserError where there are none."""
    uri = subject.config.evaluation.uri
    if not options.data and not uri:
        raise UserError(f"{subject.title} has no evaluation.uri; give labelled shards with --data.")
    data = (options.data or subject.shards(uri or "")).absolute()
    manifest = read_manifest(probe(data))
    label_table(manifest, labels, data.uri)  # for its refusals
    if manifest.rows == 0:
        raise UserError(f"{data.uri} holds no images.")
    return data, min(options.candidates, manifest.rows)


def scores(
    subject: Subject, data: Location, candidates: int, options: PictureOptions, progress: Progress
) -> list[ImageScore]:
    """The mIoU of every candidate by itself. Raises UserError where no candidate has a labelled pixel."""
    wanted = options.workers
    job, workers = job_from(
        subject.weights,
        options.aggregation,
        workers=wanted.most_workers,
        gpu=wanted.gpu,
        trained=subject.trained,
    )
    scored: list[ImageScore] = []
    for part in distribute(_score_part, (job, data, candidates), candidates, workers):
        scored += part
        progress("images", len(scored), candidates)
    if all(score.miou is None for score in scored):
        raise UserError(f"{data.uri}: none of the first {candidates} images has a labelled pixel.")
    return scored


def _score_part(
    job: InferenceJob, data: Location, candidates: int, part: int, parts: int, device: str
) -> list[ImageScore]:
    trained = loaded(job, device)
    samples = labelled_rows(_open(data), trained.labels, share(candidates, part, parts))
    scores = image_scores(
        trained.network, samples, trained.labels, size=job.size, ratio=job.aggregation, inference=trained.inference
    )
    return list(scores)


def panels(
    subjects: Sequence[Subject],
    data: Location,
    scored: Sequence[ImageScore],
    labels: LabelSet,
    options: PictureOptions,
    progress: Progress,
) -> list[Panel]:
    """image | truth | each subject's prediction, from the worst to the best by the last subject's mIoU."""
    made: list[Panel] = []
    shown = worst_and_best(scored, options.images)
    for chosen in shown:
        sample = image_at(data, chosen.row, labels)
        predictions, mious = {}, []
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
            mious.append(f"{subject.title} {percent(image_miou(prediction_HW, sample.label, labels))}")
        caption = f"{sample.id}: mIoU {', '.join(mious)}"
        made.append(Panel(columns(sample.image.numpy(), sample.label.numpy(), predictions, labels), caption))
        progress("images shown", len(made), len(shown))
    return made


def typical(scored: Sequence[ImageScore]) -> int:
    """The row of the image of median mIoU. At least one of the images has an mIoU (see `scores`)."""
    ranked = worst_and_best(scored, len(scored))
    return ranked[len(ranked) // 2].row


def image_at(data: Location, row: int, labels: LabelSet) -> Labelled:
    """The image of a row of the set. Raises UserError where the set has no such row."""
    return _first(labelled_rows(_open(data), labels, range(row, row + 1)), data.uri)


def associations(
    subjects: Sequence[Subject], labels: LabelSet, target: Labelled | None, progress: Progress
) -> list[Picture]:
    """The paper's Figures 1 and 2, for `target` and the first source image of the last subject's recipe.

    Args:
        target: None: the first image of the target training shards, which have no labels.
    """
    pair, target_label = _pair(subjects[-1], labels, target)
    made: list[Picture] = []
    for level in LEVELS:
        for subject in subjects:
            network = subject.trained.network
            drawn = association_picture(
                network, pair, labels, target_label=target_label, level=level, **_settings(subject)
            )
            made.append(Picture(ASSOCIATION, f"{subject.title}, {level} level: {drawn.caption}", drawn.png))
            progress("associations", len(made), len(LEVELS) * len(subjects))
    last = subjects[-1]
    if last.config.objective.aggregation and (
        spread := diffusion_picture(last.trained.network, pair, **_settings(last))
    ):
        text = f"{spread.elsewhere:.0%} of the gradient of one association reaches other positions through aggregation"
        made.append(Picture(DIFFUSION, f"{last.title}, feature level: {text}", spread.png))
    return made


def _settings(subject: Subject) -> dict[str, Any]:
    """The settings of associations: those of the network's training, and the image size of its evaluation."""
    config = subject.config
    return {
        "size": config.evaluation.size,
        "aggregation": config.objective.aggregation,
        "inference": config.objective.inference,
    }


def _pair(subject: Subject, labels: LabelSet, target: Labelled | None) -> tuple[Pair, Tensor | None]:
    """The first source image with `target` (None: the first target training image), and the target's label."""
    source = subject.shards(subject.config.source.uri)
    if target is None:
        target_shards = subject.shards(subject.config.target.uri)
        pairs = whole_pairs(_open(source), _open(target_shards), labels, 1, 0, 1)
        return _first(pairs, f"{source.uri} or {target_shards.uri}"), None
    first = image_at(source, 0, labels)
    return Pair(first.image, first.label, target.image), target.label


def _open(data: Location) -> Store:
    return resolve(data, patience_s=OUTAGE_PATIENCE_S)


def _first(images: Generator[T, None, None], where: str) -> T:
    with closing(images):
        for image in images:
            return image
    raise UserError(f"{where} holds no images.")
