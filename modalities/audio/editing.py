"""A sound as a sample to edit: what of it stays, in time or in frequency, and how much longer it becomes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.denoiser import BaseDenoiser, Cond
from core.editable import EditRequest
from core.errors import UserError
from core.guidance import Wrapper
from core.reverse import Denoised
from modalities.audio import artefacts, clips, seams

WORDS = (
    "stretches of seconds, such as 0:0.5 or :0.3,0.4:, bands of hertz, such as bands 0:2000, "
    "or declip, which keeps what was not cut off"
)
ROWS = 128  # of a keep in frequency: equal shares of the way from 0 to half of the sample rate
FLAT = 0.999  # of the clipping level: samples at or beyond it were cut off there
TYPICAL = 0.15  # root mean square of a clip whose peak is `clips.PEAK`
LEVEL, BEYOND = "level", "beyond"  # conditions of a known sound that no network sees

Sound = Float[Tensor, " length"]


@dataclass(frozen=True)
class Kept:
    """What of a sound stays.

    keep: 1 where it does: one row of samples, or ROWS of them for bands of frequency. heard: what of the sound that is.
    beyond: 1 where a sample is known to be at least as far from 0 as it is in the file.
    """

    keep: Float[Tensor, "rows length"]
    heard: Sound
    beyond: Sound | None = None


def known(request: EditRequest, sample_rate: int, multiple: int, cond: Mapping[str, Tensor]) -> Batch:
    """The file n times with its added room; see `as_known`. UserError for what cannot be read or kept."""
    if request.mask is not None:
        raise UserError(f"mask={request.mask}: what stays of a sound is said in words: keep={WORDS}")
    if not request.input.is_file():
        raise UserError(f"{request.input} is no file")
    sound, _ = artefacts.read_sound(request.input, sample_rate)
    room = _room(request.grow, sample_rate)
    part = None
    if request.keep is not None:
        part = kept(request.keep, sound, sample_rate)
    elif any(room):
        part = Kept(torch.ones(1, len(sound)), sound)
    if part is not None:
        _check_some(request, part, room)
    if float((sound if part is None else part.heard).abs().max()) < clips.SILENCE:
        raise UserError(f"{request.input} is silent" if part is None else f"what stays of {request.input} is silent")
    many = as_known(sound, part, room, multiple)[torch.zeros(request.n, dtype=torch.int64)]
    return Batch(many.x, many.mask, {**cond, **many.cond})


def as_known(sound: Sound, part: Kept | None, room: tuple[int, int], multiple: int) -> Batch:
    """One sound at the level of training clips, with so many samples before and after it.

    Where some of it stays, `cond` has keep, (1, 1, L) or (1, ROWS, L) where it is one of frequency; level (1,), by
    which the sound was multiplied; and for clipped sounds beyond (1, 1, L). L is rounded up to `multiple` samples; what
    that adds is padding, which is known to be silent.
    """
    length = room[0] + len(sound) + room[1]
    padding = -length % multiple
    around, level = (room[0], room[1] + padding), _level(sound, part)
    mask = (torch.arange(length + padding) < length).float() if padding else torch.ones(1)
    cond: dict[str, Tensor] = {}
    if part is not None:
        keep = F.pad(F.pad(part.keep, room), (0, padding), value=1.0)
        cond |= {"keep": keep[None], LEVEL: torch.tensor([level])}
        if part.beyond is not None:
            cond[BEYOND] = F.pad(part.beyond, around)[None, None]
    return Batch((F.pad(sound, around) * level)[None, None], mask[None, None], cond)


def _room(grow: Mapping[str, object], sample_rate: int) -> tuple[int, int]:
    """The samples to add before and after."""
    for name, seconds in grow.items():
        if name not in ("seconds", "before"):
            raise UserError(f"grow.{name}={seconds}: a sound grows by grow.seconds, or grow.before its beginning")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= clips.MAX_SECONDS:
            most = clips.MAX_SECONDS
            raise UserError(f"grow.{name}={seconds}: must be a number of seconds above 0 and at most {most}")
    before, after = grow.get("before", 0.0), grow.get("seconds", 0.0)
    assert isinstance(before, int | float)
    assert isinstance(after, int | float)
    return round(before * sample_rate), round(after * sample_rate)


def kept(words: str, sound: Sound, sample_rate: int) -> Kept:
    """What `keep=` says of the sound. UserError for other words than `WORDS`, or if nothing stays."""
    text = words.strip()
    if text.startswith("declip"):
        return unclipped(words, sound)
    if text.startswith("bands"):
        rows = _stretches(words, text.removeprefix("bands"), ROWS, sample_rate / 2, "Hz")
        keep = rows[:, None].expand(-1, len(sound))
        heard = seams.joined_bands(sound[None], torch.zeros_like(sound)[None], rows[None])[0]
        return Kept(keep, heard)
    row = _stretches(words, text, len(sound), len(sound) / sample_rate, "s")
    return Kept(row[None], sound * row)


def _stretches(words: str, text: str, size: int, end: float, unit: str) -> Float[Tensor, " size"]:
    """1 within the stretches `first:last`, of which `end` units are `size` elements."""
    keep = torch.zeros(size)
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d*\.?\d+|\d+\.|):(\d*\.?\d+|\d+\.|)", part)
        if match is None:
            raise UserError(f"keep={words}: what stays of a sound is {WORDS}")
        first, last = (float(edge or other) for edge, other in zip(match.groups(), (0.0, end), strict=True))
        if not first < min(last, end):
            raise UserError(f"keep={words}: {part} is no stretch within 0 to {end:g} {unit}")
        keep[round(first / end * size) : round(min(last, end) / end * size)] = 1
    return keep


def unclipped(words: str, sound: Sound) -> Kept:
    """`declip` or `declip LEVEL`: all samples below the level at which others were cut off, the file's peak."""
    match = re.fullmatch(r"declip\s*(\d*\.?\d+)?", words.strip())
    if match is None or (match[1] and not 0 < float(match[1]) < 1):
        raise UserError(f"keep={words}: the level at which a sound was cut off lies between 0 and 1")
    limit = float(match[1] or sound.abs().max())
    beyond = (sound.abs() >= FLAT * limit).float()
    if not bool((beyond[1:] * beyond[:-1]).any()):
        raise UserError(
            f"keep={words}: the sound has no two samples in a row at {limit:.3g}; give another level, as declip 0.5"
        )
    return Kept((1 - beyond)[None], sound * (1 - beyond), beyond)


def _level(sound: Sound, part: Kept | None) -> float:
    """What brings a sound to the level of training clips: by the peak of what is known of it.

    A clipped sound has lost its peak: with p the share of samples that were cut off, the level where they were is taken
    to be that of a clip of typical loudness, if amplitudes have Laplace's density: -ln(p) / sqrt(2) standard
    deviations.
    """
    if part is None or part.beyond is None:
        return clips.PEAK / float((sound if part is None else part.heard).abs().max())
    share = float(part.beyond.mean())
    return min(clips.PEAK, -TYPICAL / math.sqrt(2) * math.log(share)) / float(sound.abs().max())


def _check_some(request: EditRequest, part: Kept, room: tuple[int, int]) -> None:
    if bool(part.keep.all()) and not any(room):
        raise UserError(f"all of {request.input} stays: there is nothing to draw")
    if any(room) and len(part.keep) > 1:
        raise UserError(f"keep={request.keep} is kept at all times: leave grow out")


class Aside(Wrapper):
    """What is known of a sound and told to no network.

    limit: x_0 is no nearer to 0 than it is, where it is not 0: what was cut off there lies beyond, on its side.
    """

    def __init__(self, denoiser: BaseDenoiser, limit: Float[Tensor, "b 1 length"] | None = None) -> None:
        super().__init__(denoiser)
        self.limit = limit

    def forward(
        self,
        x_t: Float[Tensor, "b *s"],
        t: Float[Tensor, " b"],
        mask: Float[Tensor, "b *m"],
        cond: Cond,
    ) -> Denoised:
        # guidance would contrast two equal answers if there were any condition left
        denoised = self.denoiser(x_t, t, mask, without_aside(cond))
        return denoised if self.limit is None else replace(denoised, x0=pushed_out(denoised.x0, self.limit))


def without_aside(cond: Cond) -> dict[str, Tensor]:
    """The conditions that a network may see."""
    return {name: value for name, value in cond.items() if name not in (LEVEL, BEYOND)}


def pushed_out(x: Tensor, limit: Tensor) -> Tensor:
    """x, at least as far from 0 as limit on limit's side; as it is where limit is 0."""
    outside = torch.where(limit > 0, x.maximum(limit), x.minimum(limit))
    return torch.where(limit == 0, x, outside)


def finished(edited: Batch, known: Batch, sample_rate: int) -> Batch:
    """What is kept as it was and what is new without a seam, at the level of the file.

    Stretches of time stay sample by sample; bands stay in the short-time spectrum.
    """
    length = known.x.shape[-1]
    new, original = edited.x[:, 0, :length], known.x[:, 0].to(edited.x)
    keep, mask = known.cond["keep"].to(edited.x), known.mask.to(edited.x)
    if BEYOND in known.cond:
        x = torch.where(keep[:, 0] > 0, original, pushed_out(new, original * known.cond[BEYOND][:, 0].to(original)))
    elif keep.shape[1] > 1:
        x = seams.joined_bands(original, new, keep[:, :, 0])
    else:
        x = seams.joined(original, new, keep[:, 0], mask.expand_as(known.x)[:, 0], sample_rate)
    return Batch((x[:, None] * mask) / _levels(known), mask, without_aside(edited.cond))


def as_given(known: Batch) -> Batch:
    """The known sound at the level of its file."""
    return known.with_x(known.x / _levels(known))


def heard(known: Batch) -> Batch:
    """What is kept of a known sound, at the level of its file, with silence for the rest."""
    keep, x = known.cond["keep"], known.x
    if keep.shape[1] > 1:
        x = seams.joined_bands(x[:, 0], torch.zeros_like(x)[:, 0], keep[:, :, 0])[:, None]
    else:
        x = x * keep
    return known.with_x(x * known.mask / _levels(known))


def _levels(known: Batch) -> Float[Tensor, "b 1 1"]:
    level = known.cond.get(LEVEL, known.x.new_ones(len(known)))
    return level.to(known.x)[:, None, None]
