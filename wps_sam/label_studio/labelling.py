"""The labelling configuration of a project: which kinds of labels it has, and for which names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from ..visualization import part_colors

# What we answer with: the tag, and the type of its results.
KINDS = {"BrushLabels": "brushlabels", "RectangleLabels": "rectanglelabels", "KeyPointLabels": "keypointlabels"}


@dataclass(frozen=True)
class Control:
    """One tag with labels on a picture.

    Attributes:
        kind: a value of ``KINDS``.
        name, to_name: of the tag, and of the picture's.
        data_key: where in a task's data the picture's address is.
        labels: their names.
        smart: whether it asks for masks, and is no label by itself.
    """

    kind: str
    name: str
    to_name: str
    data_key: str
    labels: tuple[str, ...]
    smart: bool

    def label_of(self, class_name: str) -> str | None:
        """The label of a class: of its name, whatever the case of its letters; None where there is none."""
        return next((label for label in self.labels if label.casefold() == class_name.casefold()), None)


def read_labelling(xml: str) -> list[Control]:
    """The controls of a labelling configuration that we can answer.

    Raises:
        ValueError: it is no XML, or has none of ``KINDS`` on a picture.
    """
    where = "labelling configuration"
    if "<!" in xml.replace("<!--", ""):
        raise ValueError(f"{where}: expected no document type and no entities")
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"{where}: no valid XML: {error}") from error
    keys = {tag.get("name"): tag.get("value", "").removeprefix("$") for tag in root.iter("Image")}
    controls = []
    for tag in root.iter():
        to_name = tag.get("toName", "")
        if tag.tag in KINDS and keys.get(to_name):
            labels = tuple(label.get("value", "") for label in tag.iter("Label"))
            smart = tag.get("smart", "").lower() == "true"
            controls.append(Control(KINDS[tag.tag], tag.get("name", ""), to_name, keys[to_name], labels, smart))
    if not controls:
        raise ValueError(f"{where}: expected one of {', '.join(KINDS)} whose toName is an Image with a value")
    return controls


def unknown_labels(controls: Sequence[Control], class_names: Sequence[str]) -> list[str]:
    """Labels that the model has no class for, each once: it never gives them."""
    known = {name.casefold() for name in class_names}
    labels = dict.fromkeys(label for control in controls if not control.smart for label in control.labels)
    return [label for label in labels if label.casefold() not in known]


def write_labelling(class_names: Sequence[str]) -> str:
    """A labelling configuration with a brush for each class, and with points and boxes that ask for masks."""
    labels = "\n".join(
        f'    <Label value={quoteattr(name)} background="#{bytes(color.tolist()).hex()}"/>'
        for name, color in zip(class_names, part_colors(class_names))
    )
    asking = "".join(
        f'  <{kind} name="{name}" toName="image" smart="true">\n{labels}\n  </{kind}>\n'
        for kind, name in (("KeyPointLabels", "click"), ("RectangleLabels", "box"))
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="part" toName="image">\n{labels}\n  </BrushLabels>\n{asking}</View>\n'
    )
