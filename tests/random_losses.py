"""How the random networks declare each type of loss: random fields, and targets of its domain."""

import math

import torch

from netc.layers import LAYERS
from tests.random_networks import Declared, Generator, proposes
from tests.random_values import VOID

NORMALIZERS = ("none", "full", "batch_size", "valid")


@proposes("SoftmaxWithLoss", "MultinomialLogisticLoss", "InfogainLoss", "HingeLoss")
def of_labels(r: Generator, kind: str, bottom: str) -> Declared | None:
    channels, *places = r.sample(bottom)
    can_ignore = "ignore_label" in LAYERS.members[kind].model_fields
    dense = 1 <= len(places) <= 3 and math.prod(places) <= 30 and r.chance(0.6)
    classes = int(r.inputs["label1"]["classes"])
    labels = "label1"
    if dense or (can_ignore and r.chance(0.2)):
        classes = r.integer(2, 4)
        domain = "void" if can_ignore and r.chance(0.3) else "label"
        shape = (places if r.chance(0.7) else [math.prod(places)]) if dense else None
        labels = r.input(domain, shape, classes)
    scores = bottom
    if not (dense or not places) or channels < classes or r.chance(0.3):
        scores = r.projected(bottom, [classes + r.integer(0, 1), *(places if dense else [])])
    number = r.sample(scores)[0]
    if kind == "MultinomialLogisticLoss":
        scores = r.must({"type": "Softmax", "bottom": scores})
    fields: Declared = {"bottom": [scores, labels]}
    if can_ignore:
        fields |= r.some(normalization=NORMALIZERS, ignore_label=[0, 1, -1])
    if labels.startswith("void"):
        fields["ignore_label"] = VOID
    if kind == "SoftmaxWithLoss":
        weights = [r.number(0.2, 2.0) for _ in range(number)]
        fields |= r.some(label_smoothing=[0.1, 0.4], class_weight=[weights])
    if kind == "InfogainLoss":
        fields["matrix"] = [[r.number(0.0, 1.0) for _ in range(number)] for _ in range(number)]
    if kind == "HingeLoss":
        fields |= r.some(norm=["l1", "l2"])
    return fields


def _narrow(r: Generator, bottom: str) -> str:
    """Return a top of not too many values that depends on this one."""
    if math.prod(r.sample(bottom)) <= 30:
        return bottom
    return r.projected(bottom, [r.integer(2, 6)])


@proposes("EuclideanLoss", "L1Loss", "HuberLoss", "SigmoidCrossEntropyLoss", "FocalLoss", "DiceLoss")
def of_numbers(r: Generator, kind: str, bottom: str) -> Declared | None:
    scores = _narrow(r, bottom)
    shape = r.choice([r.sample(scores), [math.prod(r.sample(scores))]])
    fields = r.some(normalization=NORMALIZERS) if "normalization" in LAYERS.members[kind].model_fields else {}
    if kind in ("EuclideanLoss", "L1Loss", "HuberLoss"):
        fields |= r.some(delta=[0.3, 2]) if kind == "HuberLoss" else {}
        wanted = r.another(shape, scores) if r.chance(0.4) else r.input("target", shape)
        return {"bottom": [scores, wanted] if r.chance(0.8) else [wanted, scores], **fields}
    if kind == "DiceLoss":
        return {"bottom": [scores, r.input(r.choice(["unit", "binary"]), shape)], **r.some(smooth=[0.1])}
    if kind == "FocalLoss":
        return {"bottom": [scores, r.input("binary", shape)], **fields, **r.some(gamma=[0, 0.5], alpha=[0.6])}
    domain = r.choice(["unit", "binary"])
    if domain == "binary":
        fields |= r.some(balanced=[True, False], ignore_label=[0, 1])
    return {"bottom": [scores, r.input(domain, shape)], **fields}


@proposes("KLDivergenceLoss")
def kullback_leibler(r: Generator, kind: str, bottom: str) -> Declared | None:
    scores = bottom if len(r.sample(bottom)) == 1 else r.projected(bottom, [r.integer(2, 5)])
    if r.sample(scores)[0] < 2:
        return None
    if r.chance(0.4):
        return {"bottom": [scores, r.input("unit", r.sample(scores))]}
    other = r.another(r.sample(scores), scores)
    return {"bottom": [scores, r.must({"type": "Softmax", "bottom": other})]}


@proposes("ContrastiveLoss")
def contrastive(r: Generator, kind: str, bottom: str) -> Declared | None:
    first = _narrow(r, bottom)
    second = r.another(r.choice([r.sample(first), [math.prod(r.sample(first))]]), first)
    fields: Declared = {"bottom": [first, second, r.input("similar", [1])]} | r.some(legacy_version=[True])
    squared = torch.sum((r.tops[first].flatten(1) - r.tops[second].flatten(1)) ** 2, 1)
    distance = float((squared if "legacy_version" in fields else squared.sqrt()).mean())
    return fields | ({"margin": round(1.4 * distance, 3)} if distance > 0.1 and r.chance(0.8) else {})
