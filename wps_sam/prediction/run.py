"""Prediction over many pictures, videos and cameras, whose results are written and forgotten."""

from __future__ import annotations

import itertools
import logging
import signal
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from tqdm import tqdm

from ..shares import Share
from ..stops import exit_code
from .parts import PartPrediction
from .pictures import ImageLike
from .results import Results
from .sources import Source, open_video

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Predictor(Protocol):
    """What is asked of a :class:`wps_sam.PartPredictor`."""

    def predict_batch(self, images: Iterable[ImageLike], batch_size: int = ...) -> list[PartPrediction]: ...


def sources_of(share: Share, sources: Sequence[Source], batch_size: int) -> list[Source]:
    """A share of the sources; of the pictures whole batches of them all.

    So a picture has the company in its batch that it has without shares, and the same last bits.
    """
    pictures: list[Source] = []
    videos: list[Source] = []
    for source in sources:
        (videos if source.moves else pictures).append(source)
    batches = [batch for number, batch in enumerate(_batches(pictures, batch_size)) if share.has(number)]
    return [*itertools.chain(*batches), *(video for number, video in enumerate(videos) if share.has(number))]


def predict_all(
    predictor: Predictor,
    sources: Sequence[Source],
    results: Results,
    *,
    batch_size: int = 4,
    every: int = 1,
    names: Sequence[str] | None = None,
    done: Collection[Source] = (),
) -> int:
    """Finds the parts in all sources and writes what ``results`` is to write; says what fails, and goes on.

    A camera is watched until Ctrl-C.

    Args:
        predictor: finds the parts.
        sources: where the pictures are.
        results: writes the files.
        batch_size: so many pictures or frames are shown to the model at once, and kept in memory.
        every: of videos and cameras, every how many frames one is looked at.
        names: the parts that count; None for all.
        done: those of the sources whose results are there and are kept. Beside one that is not done they are shown to
            the model once more, so that it has the same company.

    Returns:
        How many sources failed.
    """
    failed = 0
    pictures = [source for source in sources if not source.moves]
    # In a file or a pipe a bar would only get between the lines.
    with tqdm(total=len(pictures), unit="picture", disable=None if pictures else True) as progress:
        for batch in _batches(pictures, batch_size):
            left = [source for source in batch if source not in done]
            shown = _each(predictor, [source.name for source in batch]) if left else [None] * len(batch)
            for source, found in zip(batch, shown):
                progress.update()
                if found is None or source in done:
                    results.keep(source)
                    continue
                if isinstance(found, ValueError):
                    failed += 1
                    tqdm.write(f"error: {found}", file=sys.stderr)
                    continue
                found = found.filter(names=names)
                results.write(source, found)
                tqdm.write(f"{source.name}: {_counted(found.names)}")
    for source in sources:
        if source.moves and source in done:
            results.keep(source)
        elif source.moves:
            try:
                _predict_video(predictor, source, results, batch_size, every, names)
            except ValueError as error:
                failed += 1
                tqdm.write(f"error: {error}", file=sys.stderr)
    return failed


def _predict_video(
    predictor: Predictor,
    source: Source,
    results: Results,
    batch_size: int,
    every: int,
    names: Sequence[str] | None,
) -> None:
    video = open_video(source)
    total = None if video.count is None else -(-video.count // every)
    with (
        results.video(source, video.rate / every) as take,
        tqdm(total=total, unit="frame", desc=source.name, disable=None) as progress,
    ):
        done, frames_with = 0, Counter[str]()
        try:
            # Of a camera every frame is shown as soon as it is there.
            for batch in _batches(video.frames(every), 1 if source.is_camera else batch_size):
                found = predictor.predict_batch([frame for _, frame in batch], batch_size=len(batch))
                for (number, _), parts in zip(batch, found):
                    parts = replace(parts, file_name=source.name).filter(names=names)
                    take(number, parts)
                    progress.update()
                    done += 1
                    frames_with.update(dict.fromkeys(parts.names, 1))
        except KeyboardInterrupt as stop:
            # Ctrl-C is how a camera is told that it is enough.
            if not source.is_camera or exit_code(stop) != 128 + signal.SIGINT:
                raise
    shares = ", ".join(f"{name} in {count}" for name, count in frames_with.most_common())
    tqdm.write(f"{source.name}: {done} frames; {shares or 'no part found'}")
    if video.count is not None and done < 0.9 * (total or 0):
        logger.warning("%s: could be decoded up to frame %d of %d only", source.name, done * every, video.count)


def _counted(names: Sequence[str]) -> str:
    """Each name once, with how often it is there: "skin x2, dress"."""
    counts = Counter(names)
    return ", ".join(f"{name} x{count}" if count > 1 else name for name, count in counts.items()) or "no part found"


def _each(predictor: Predictor, pictures: list[str]) -> list[PartPrediction | ValueError]:
    """What is in each picture, or what is wrong with it."""
    try:
        return [*predictor.predict_batch(pictures, batch_size=len(pictures))]
    except ValueError as error:
        if len(pictures) == 1:
            return [error]
        return [found for picture in pictures for found in _each(predictor, [picture])]


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
