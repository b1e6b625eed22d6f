"""A sound as a sample to edit: what of it stays, in time or in frequency, and how much longer it becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.editable import EditRequest
from core.errors import UserError, reason_of
from modalities.audio import artefacts, clips
from modalities.audio.frames import whole_frames

WORDS = "stretches of seconds, such as 0:0.5 or :0.3,0.4:, or bands of hertz, such as bands 0:2000"
ROWS = 128  # of a keep in frequency: equal shares of the way from 0 to half of the sample rate
FADE_SECONDS = 0.004
SPLICE = 512  # window, in samples, of the spectra in which bands are put together

Sound = Float[Tensor, " length"]


def read(path: Path, sample_rate: int) -> Sound:
    """A sound in [-1, 1] at the model's rate, channels averaged. UserError names a file that cannot be read."""
    if not path.is_file():
        raise UserError(f"{path} is no file")
    try:
        sound, rate = clips.read(path)
    except UserError:
        raise
    except Exception as error:  # on damaged bytes a decoder may raise anything
        raise UserError(f"{path} cannot be read: {reason_of(error)}") from error
    sound = clips.resample(sound, rate, sample_rate)
    return torch.from_numpy(sound * sound.dtype.type(clips.scale(sound, "none")))


def known(request: EditRequest, sample_rate: int, multiple: int, cond: Mapping[str, Tensor]) -> Batch:
    """The file n times with its added room, with `cond["keep"]` where some of it stays.

    keep: (n, 1, L), or (n, ROWS, L) where it is one of frequency. Rounded up to `multiple` samples; what that adds is
    padding.
    """
    if request.mask is not None:
        raise UserError(f"mask={request.mask}: what stays of a sound is said in words: keep={WORDS}")
    sound = read(request.input, sample_rate)
    before, after = (round(seconds * sample_rate) for seconds in _room(request.grow))
    if request.keep is None:
        keep = torch.ones(1, len(sound)) if request.grow else None
    else:
        keep = kept(request.keep, len(sound), sample_rate)
    x = F.pad(sound, (before, after)).expand(request.n, 1, -1)
    batch = whole_frames(Batch.full(x, cond), multiple)
    if keep is None:
        return batch
    keep = F.pad(keep, (before, after + batch.x.shape[-1] - x.shape[-1]))
    if bool(keep[:, : x.shape[-1]].all()):
        raise UserError(f"all of {request.input} stays: there is nothing to draw")
    return Batch(batch.x, batch.mask, {**batch.cond, "keep": keep.expand(request.n, *keep.shape)})


def _room(grow: Mapping[str, object]) -> tuple[float, float]:
    """The seconds to add before and after."""
    for name, seconds in grow.items():
        if name not in ("seconds", "before"):
            raise UserError(f"grow.{name}={seconds}: a sound grows by grow.seconds, or grow.before its beginning")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
            raise UserError(f"grow.{name}={seconds}: must be a number of seconds above 0 and at most 3600")
    before, after = grow.get("before", 0.0), grow.get("seconds", 0.0)
    assert isinstance(before, int | float)
    assert isinstance(after, int | float)
    return before, after


def kept(words: str, length: int, sample_rate: int) -> Float[Tensor, "rows length"]:
    """1 where `keep=` says that the sound stays: one row, or ROWS for bands of frequency."""
    in_bands = words.strip().startswith("bands")
    text = words.strip().removeprefix("bands").replace(" ", "")
    end = sample_rate / 2 if in_bands else length / sample_rate
    parts = [re.fullmatch(r"(\d*\.?\d*):(\d*\.?\d*)", part) for part in text.split(",")]
    if not all(parts) or any("." in part.groups() for part in parts if part):
        raise UserError(f"keep={words}: what stays of a sound is {WORDS}")
    keep = torch.zeros(ROWS if in_bands else length)
    for part in filter(None, parts):
        first, last = (
            float(edge) if edge else default for edge, default in zip(part.groups(), (0.0, end), strict=True)
        )
        if not first < last or first >= end:
            unit = "Hz" if in_bands else "s"
            raise UserError(f"keep={words}: {part.group()} is no stretch within 0 to {end:g} {unit}")
        keep[round(first / end * len(keep)) : round(min(last, end) / end * len(keep))] = 1
    if not bool(keep.any()):
        raise UserError(f"keep={words}: nothing of the sound stays")
    return keep[:, None].expand(-1, length) if in_bands else keep[None]


def finished(edited: Batch, known: Batch, sample_rate: int) -> Batch:
    """What is kept, sample by sample, faded over 4 ms into what is new, so that nothing clicks; or band by band."""
    keep = known.cond["keep"].to(edited.x)
    length = edited.x.shape[-1]
    original, keep = known.x[..., :length].to(edited.x), keep[..., :length]
    if keep.shape[1] > 1:
        return edited.with_x(_in_bands(original[:, 0], edited.x[:, 0], keep[:, :, 0])[:, None])
    share = inner(keep, round(FADE_SECONDS * sample_rate / 2))
    return edited.with_x(share * original + (1 - share) * edited.x)


def inner(keep: Float[Tensor, "b 1 length"], half: int) -> Float[Tensor, "b 1 length"]:
    """1 from 2 `half` samples inside the kept part on, falling to 0 at its border with what is new."""
    width = 2 * half + 1
    new = F.max_pool1d(1 - keep, width, 1, half)
    return 1 - F.avg_pool1d(F.pad(new, (half, half), mode="replicate"), width, 1)


def _in_bands(original: Tensor, edited: Tensor, keep: Float[Tensor, "b rows"]) -> Float[Tensor, "b length"]:
    """The kept rows of frequency of the original's short-time spectrum, the others of the edited sound's."""
    taper = torch.hann_window(SPLICE, dtype=original.dtype)
    options = {"n_fft": SPLICE, "hop_length": SPLICE // 4, "window": taper}
    spectra = [torch.stft(x, **options, return_complex=True) for x in (original, edited)]
    share = F.interpolate(keep[:, None], spectra[0].shape[1], mode="linear", align_corners=True)[:, 0, :, None]
    return torch.istft(share * spectra[0] + (1 - share) * spectra[1], **options, length=original.shape[-1])


def shown(known: Batch, sample_rate: int) -> Batch:
    """What is kept, silence elsewhere: to be drawn."""
    if "keep" not in known.cond:
        return known
    return finished(known.with_x(torch.zeros_like(known.x)), known, sample_rate)


def write_sheet(known: Batch, edited: Batch, path: Path, sample_rate: int) -> None:
    """One PNG: before, what stays, and up to 8 after, as waveforms and spectrograms on one scale."""
    from modalities.audio import drawing

    sounds = [("before", known, 0)]
    if "keep" in known.cond:
        sounds.append(("what stays", shown(known, sample_rate), 0))
    sounds += [(f"after {row}", edited, row) for row in range(min(len(edited), 8))]
    clips_ = [artefacts.unpadded(batch.x[row : row + 1], batch.mask[row : row + 1])[0] for _, batch, row in sounds]
    drawing.save_row([title for title, _, _ in sounds], clips_, path, sample_rate)
