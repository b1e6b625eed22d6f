"""Laws of edited pictures: what stays is exact, what is measured is linear, what is drawn has its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from runs import edit, train
from torch import Tensor, nn

from core.batch import Batch
from core.denoiser import Denoiser
from core.editable import EditRequest
from core.editing import Measurement, Operator
from core.errors import UserError
from core.guidance import Wrapper
from core.prediction import Velocity
from core.schedules import Cosine
from modalities.image import artefacts
from modalities.image.codec import Pixels
from modalities.image.editing import SIDES, kept_part, read
from modalities.image.measurements import Blur, Downsample, Grey
from modalities.image.modality import Image
from modalities.image.panels import HIDDEN, hidden, save_panels

MODEL = Image([1, 28, 28], [str(digit) for digit in range(10)])
OPERATORS = {
    "downsample": Downsample(2),
    "downsample by 4": Downsample(4),
    "blur": Blur(1.0),
    "wide blur": Blur(2.5),
    "grey": Grey(),
}
operators = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def save(path: Path, pixels: np.ndarray) -> Path:
    Pillow.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Pillow.open(path)).copy()


# --- what stays ---


@pytest.mark.parametrize("how", ["method=replace", "method=pigdm", "method=dps", "strength=0.6"])
@pytest.mark.parametrize("sampler", ["ddpm", "unipc"])
def test_kept_pixels_are_exact_in_the_files(how: str, sampler: str, trained: Path, digit: Path, tmp_path: Path) -> None:
    """To the last of 256 levels, also where x_0 was clipped; the others are drawn anew."""
    mask = np.zeros((28, 28), dtype=np.uint8)
    mask[5:17, 3:20] = 255
    save(tmp_path / "mask.png", mask)
    folder = edit(trained, tmp_path / "a", f"input={digit}", f"mask={tmp_path / 'mask.png'}", how, f"sampler={sampler}")
    before, kept = pixels_of(digit), mask > 0
    for number in range(4):
        after = pixels_of(folder / f"{number:05d}.png")
        np.testing.assert_array_equal(after[kept], before[kept])
        assert (after[~kept] != before[~kept]).mean() > 0.5


def test_white_stays_and_black_is_drawn_anew(digit: Path, tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.png", np.where(np.arange(28) < 9, 255, 0)[None].repeat(28, 0))
    known = MODEL.known(EditRequest(digit, 3, mask=mask))
    assert known.cond["keep"].shape == (3, 1, 28, 28)
    assert (known.cond["keep"][..., :9] == 1).all()
    assert (known.cond["keep"][..., 9:] == 0).all()
    inverted = save(tmp_path / "inverted.png", 255 - pixels_of(mask))
    other = MODEL.known(EditRequest(digit, 3, mask=inverted))
    assert torch.equal(other.cond["keep"], 1 - known.cond["keep"])
    assert torch.equal(other.x, known.x)


@pytest.mark.parametrize(("side", "opposite"), [("left", "right"), ("top", "bottom")])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_opposite_sides_make_up_the_picture(side: str, opposite: str, share: float) -> None:
    picture = torch.zeros(3, 8, 12)
    one, other = kept_part(f"{side} {share}", picture), kept_part(f"{opposite} {1 - share}", picture)
    assert torch.equal(one + other, torch.ones(1, 8, 12))
    assert one.mean() == pytest.approx(share)


def test_sides_lie_where_they_are_called() -> None:
    picture = torch.zeros(1, 4, 6)
    corners = {"left": (0, 0), "right": (-1, -1), "top": (0, -1), "bottom": (-1, 0)}
    for side in SIDES:
        keep = kept_part(side, picture)[0]
        assert keep[corners[side]] == 1
        assert keep.sum() == 12, "a half, unless a share is given"
    assert kept_part("left", picture)[0, -1, 0] == 1
    assert kept_part("top", picture)[0, 0, 0] == 1


def test_a_box_is_a_slice_with_x_first() -> None:
    keep = kept_part("2:5, 1:3", torch.zeros(1, 4, 6))
    wanted = torch.zeros(1, 4, 6)
    wanted[:, 1:3, 2:5] = 1
    assert torch.equal(keep, wanted)
    assert torch.equal(kept_part(": 1:", torch.zeros(1, 4, 6)), kept_part("bottom 0.75", torch.zeros(1, 4, 6)))


def test_room_is_added_where_it_is_asked_for_and_is_never_kept(digit: Path) -> None:
    known = MODEL.known(EditRequest(digit, 2, grow={"left": 3, "right": 5, "top": 7, "bottom": 11}))
    assert known.x.shape == (2, 1, 28 + 18, 28 + 8)
    picture = read(digit, 1)
    assert torch.equal(known.x[0, :, 7:35, 3:31], picture)
    room = torch.ones(1, 46, 36)
    room[:, 7:35, 3:31] = 0
    assert torch.equal(known.cond["keep"][0], 1 - room)
    partly = MODEL.known(EditRequest(digit, 1, keep="left", grow={"right": 4}))
    assert partly.cond["keep"][0, 0, 0].tolist() == [1.0] * 14 + [0.0] * 18


def test_conditions_that_are_not_given_are_null(digit: Path) -> None:
    assert set(MODEL.known(EditRequest(digit, 2, keep="left")).cond) == {"keep"}
    known = MODEL.known(EditRequest(digit, 2, {"label": [7, "2"]}, keep="left"))
    assert known.cond["label"].tolist() == [7, 2]
    assert set(MODEL.known(EditRequest(digit, 2, {"label": None}, keep="left")).cond) == {"keep"}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_colour_and_grey_files_become_what_the_model_draws(suffix: str, tmp_path: Path) -> None:
    colour = np.zeros((28, 28, 3), dtype=np.uint8)
    colour[..., 0] = 200
    grey = save(tmp_path / f"grey.{suffix}", np.full((28, 28), 100))
    red = save(tmp_path / f"red.{suffix}", colour)
    in_grey = MODEL.known(EditRequest(red, keep="left")).x
    assert in_grey.shape == (1, 1, 28, 28)
    assert in_grey.mean() == pytest.approx(0.299 * 200 / 255, abs=0.01)
    in_colour = Image([3, 28, 28]).known(EditRequest(grey, keep="left")).x
    assert in_colour.shape == (1, 3, 28, 28)
    assert in_colour.mean() == pytest.approx(100 / 255, abs=0.01)


def test_a_measurement_is_read_as_it_is(tmp_path: Path) -> None:
    small = save(tmp_path / "small.png", np.full((14, 7), 100))
    assert MODEL.known(EditRequest(small, 2, measured=True)).x.shape == (2, 1, 14, 7)
    with pytest.raises(UserError, match=r"small\.png has 7x14 pixels"):
        MODEL.known(EditRequest(small, 2))


def test_a_large_picture_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modalities.image.pictures.MAX_PIXELS", 100)
    large = save(tmp_path / "large.png", np.zeros((28, 28)))
    with pytest.raises(UserError, match=r"large\.png cannot be read: 28x28 pixels, more than the 100 allowed"):
        MODEL.known(EditRequest(large, keep="left"))


# --- what is measured ---


@operators
def test_a_measurement_is_linear_and_has_its_adjoint(operator: Operator) -> None:
    """<A x, y> = <x, A^T y>, with A^T as the methods take it."""
    x, other = normal(0, 2, 3, 12, 16), normal(1, 2, 3, 12, 16)
    if isinstance(operator, Blur) and operator.sigma > 2:
        x, other = normal(0, 2, 3, 20, 18), normal(1, 2, 3, 20, 18)
    torch.testing.assert_close(operator(2 * x - other), 2 * operator(x) - operator(other))
    image = operator(x)
    transposed, y = Measurement(operator, image).adjoint(x), normal(2, *image.shape)
    torch.testing.assert_close((image * y).sum(), (x * transposed(y)).sum())


@operators
def test_measuring_commutes_with_the_codec(operator: Operator) -> None:
    pictures = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codec = Pixels()
    before = codec.encode(Batch.full(operator(pictures))).x
    torch.testing.assert_close(operator(codec.encode(Batch.full(pictures)).x), before)


@operators
def test_samples_are_measured_one_by_one(operator: Operator) -> None:
    x = normal(0, 4, 3, 20, 20)
    torch.testing.assert_close(operator(x)[2:3], operator(x[2:3]))


def test_downsampling_undoes_enlarging() -> None:
    small = normal(0, 2, 1, 3, 5)
    assert torch.allclose(Downsample(3)(small.repeat_interleave(3, 2).repeat_interleave(3, 3)), small)


def test_a_point_is_blurred_to_a_gaussian() -> None:
    """Its variance along both axes is sigma^2, but for what lies beyond 3 sigma."""
    x = torch.zeros(1, 2, 31, 31, dtype=torch.float64)
    x[0, 0, 15, 15] = 1
    y = Blur(2.0)(x)
    assert not y[0, 1].any(), "channels do not mix"
    torch.testing.assert_close(y[0, 0], y[0, 0].T)
    places = torch.arange(31) - 15
    assert (y[0, 0].sum(0) * places**2).sum() == pytest.approx(4, rel=0.04)
    assert y[0, 0, 15, 17] / y[0, 0, 15, 15] == pytest.approx(np.exp(-0.5), rel=1e-9)


def test_grey_is_what_pillow_calls_grey() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    wanted = torch.from_numpy(np.asarray(Pillow.fromarray(colour).convert("L")).copy()).double()
    got = Grey()(torch.from_numpy(colour).permute(2, 0, 1)[None].double())
    assert (got[0, 0] - wanted).abs().max() <= 0.51


@pytest.mark.parametrize(
    ("operator", "shape", "said"),
    [(Downsample(3), (1, 1, 28, 27), "factor=3 does not divide 27x28"), (Grey(), (1, 1, 8, 8), "no colours")],
)
def test_what_cannot_be_measured(operator: Operator, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        operator(torch.zeros(shape))


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A run of two steps on 3x8x8 pictures."""
    options = ("data=folder", f"data.path={pictures}", "data.size=8", "data.val=0.2", "data.test=0.2", "preview.n=0")
    return train(tmp_path_factory.mktemp("colours") / "run", *options)


def test_a_grey_picture_is_coloured(colours: Path, pictures: Path, tmp_path: Path) -> None:
    """From a grey file, or from one in colour that is made grey first."""
    grey = save(tmp_path / "grey.png", np.tile(np.linspace(40, 220, 8), (8, 1)))
    arguments = ("measurement=grey", "steps=12", "clip=none")
    folder = edit(colours, tmp_path / "a", f"input={grey}", *arguments)
    with np.load(folder / "samples.npz") as arrays:
        x = torch.from_numpy(arrays["x"]).double()
    assert x.shape == (4, 3, 8, 8)
    assert (x - Grey()(x)).abs().max() > 0.01, "in colour"
    one = next((pictures / "cat").iterdir())
    eight = save(tmp_path / "eight.png", pixels_of(one)[:8, :8])
    degraded = edit(colours, tmp_path / "b", f"input={eight}", "degrade=true", *arguments)
    assert (degraded / "edit.png").exists()


# --- larger pictures ---


class Watching(nn.Module):
    """A network that notes the sizes it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[tuple[int, ...]] = set()

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.sizes.add(tuple(x.shape[2:]))
        return torch.tanh(x)


def test_a_larger_picture_is_drawn_in_windows_of_the_models_size() -> None:
    network = Watching()
    denoiser = Denoiser(network, Cosine(), Velocity())
    template = Batch.full(normal(0, 2, 1, 45, 31))
    windowed = MODEL.windowed(denoiser, template, Pixels())
    assert isinstance(windowed, Wrapper)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    x0 = windowed(template.x, t, template.mask, {}).x0
    assert network.sizes == {(28, 28)}
    whole = denoiser(template.x, t, template.mask, {}).x0
    torch.testing.assert_close(x0, whole, msg="a pointwise network cannot tell")


def test_at_the_trained_size_there_are_no_windows() -> None:
    denoiser = Denoiser(Watching(), Cosine(), Velocity())
    assert MODEL.windowed(denoiser, Batch.full(torch.zeros(2, 1, 28, 28)), Pixels()) is denoiser


def test_outpainting_keeps_the_picture_in_its_place(trained: Path, digit: Path, tmp_path: Path) -> None:
    folder = edit(trained, tmp_path / "a", f"input={digit}", "grow.right=28", "grow.top=5")
    for number in range(4):
        after = pixels_of(folder / f"{number:05d}.png")
        assert after.shape == (33, 56)
        np.testing.assert_array_equal(after[5:, :28], pixels_of(digit))
    assert len({(folder / f"{number:05d}.png").read_bytes() for number in range(4)}) == 4


# --- what is shown ---


def test_what_is_hidden_is_shown_in_a_colour() -> None:
    keep = kept_part("left", torch.zeros(1, 4, 6))
    shown = hidden(torch.full((1, 4, 6), 0.25), keep)
    assert (shown[:, :, :3] == 0.25).all()
    assert torch.equal(shown[:, :, 3:], torch.tensor(HIDDEN)[:, None, None].expand(3, 4, 3))


def test_all_pictures_are_shown_enlarged_beside_each_other(tmp_path: Path) -> None:
    """A smaller one too: by a whole factor, without smoothing."""
    small, large = torch.zeros(1, 14, 14), torch.ones(3, 28, 28)
    small[:, 3, 5] = 1
    save_panels([("measured", small), ("after", large)], tmp_path / "a.png")
    sheet = pixels_of(tmp_path / "a.png")
    assert sheet.shape == (2 * 6 + 16 + 112 - 0, 2 * (112 + 6) + 6, 3)
    first = sheet[22:134, 6:118]
    wanted = np.kron(small[0].numpy() * 255, np.ones((8, 8)))
    np.testing.assert_array_equal(first, wanted[..., None].repeat(3, 2))


def test_the_picture_of_an_edit_is_no_sample(trained: Path, digit: Path, tmp_path: Path) -> None:
    folder = edit(trained, tmp_path / "a", f"input={digit}", "keep=left")
    assert (folder / artefacts.EDIT).exists()
    assert len(artefacts.read_pngs(folder)) == 4
