"""Which classes the data of a recipe and the recipe do not share, and what that does to the mean."""

from plca_dist.config import Config
from plca_dist.data.label_match import matched, with_nearest
from plca_dist.data.labels import LabelSet
from plca_dist.data.shards import Manifest, read_manifest
from plca_dist.errors import some
from plca_dist.storage import probe

#: Names in a line; a set of 150 classes that shares few would fill the screen.
_SHOWN = 12


def class_gaps(config: Config) -> list[str]:
    """Lines for a person before training; none where source, evaluation and recipe have the same classes.

    A class that shards of this version know, and of which they have no pixel, counts as one that they do not have.
    """
    labels = config.label_set
    source = _manifest(config, config.source.uri)
    lines = _gaps("source", config.data_uri(config.source.uri), source, labels)
    unlearned = _absent(source, labels)
    measured = _manifest(config, config.evaluation.uri) if config.evaluation.uri else None
    if unlearned:
        lines[0] += ". They are not learned"
        if measured:
            counted = [name for name in unlearned if name not in _absent(measured, labels)]
            share = f"{len(counted)} of {len(labels)} classes of the mIoU have an IoU of 0 for it"
            lines[0] += f", and {share}" if counted else ", and the evaluation has none of them either"
    lines = [f"{line}." for line in lines]
    if measured and config.evaluation.uri:
        lines += evaluation_gaps(config.data_uri(config.evaluation.uri), measured, labels)
    return lines


def evaluation_gaps(uri: str, manifest: Manifest, labels: LabelSet) -> list[str]:
    """The same of labelled shards on which a network of these classes is scored."""
    lines = _gaps("evaluation", uri, manifest, labels)
    if _absent(manifest, labels):
        lines[0] += ". One that is predicted has an IoU of 0; one that is not is left out of the mIoU"
    return [f"{line}." for line in lines]


def _gaps(domain: str, uri: str, manifest: Manifest, labels: LabelSet) -> list[str]:
    """What the domain lacks, then what of it is ignored."""
    absent, unused = _absent(manifest, labels), _unused(manifest, labels)
    lines = []
    if absent:
        shown = with_nearest(absent[:_SHOWN], unused, "there")
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        lines.append(f"{domain} {uri} has no label of {len(absent)} of {len(labels)} classes: {shown}{more}")
    if unused:
        shown = f"{some([repr(name) for name in unused], _SHOWN)}"
        lines.append(f"{domain} {uri}: labels that are no class of the recipe are ignored: {shown}")
    return lines


def _absent(manifest: Manifest, labels: LabelSet) -> tuple[str, ...]:
    """Classes of the recipe without a label."""
    found = {here for here, n in zip(matched(manifest.labels, labels), _pixels(manifest), strict=True) if n}
    return tuple(name for i, name in enumerate(labels.classes) if i not in found)


def _unused(manifest: Manifest, labels: LabelSet) -> tuple[str, ...]:
    """Classes of the shards that occur, and that the recipe does not have."""
    there = zip(manifest.classes, matched(manifest.labels, labels), _pixels(manifest), strict=True)
    return tuple(name for name, here, n in there if here is None and n)


def _pixels(manifest: Manifest) -> tuple[int, ...]:
    """Pixels of every class; 1 each where nobody has counted them."""
    return (manifest.statistics.pixels if manifest.statistics else ()) or (1,) * len(manifest.classes)


def _manifest(config: Config, uri: str) -> Manifest:
    return read_manifest(probe(config.location(config.data_uri(uri))))
