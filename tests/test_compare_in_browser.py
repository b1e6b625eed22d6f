"""The comparison's page in a real browser: its pictures load, sounds play, molecules turn; it is silent and offline."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import compare
from benchmarks.compare_page import PAGE
from benchmarks.pareto import Board
from core.shipped import models

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("rdkit")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on PATH: apt-get install chromium"),
    pytest.mark.skipif(find_spec("qm9pack") is None, reason="QM9 is not installed"),
]
# no sandbox: root may not have one; the others keep the browser from asking its maker for anything
FLAGS = ["no-sandbox", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"]
FLAGS += ["disable-quic", "mute-audio"]
NOWHERE = {"server": "http://127.0.0.1:9", "bypass": "<-loopback>"}  # a proxy that is not there: no request succeeds
SHOWN = 4
SECONDS = 0.5  # of a sound
WIDE, NARROW = 1280, 390  # pixels: a desk's screen and a phone's
TIMEOUT = 20_000  # milliseconds: of what takes one, on a machine that is busy


@dataclass(frozen=True)
class Compared:
    folder: Path
    boards: dict[str, Board]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Compared:
    """A few samples of each modality's shipped model. Look, but do not write."""
    home = tmp_path_factory.mktemp("compare")
    # a name at which no line breaks of itself, as a run's may be
    named = Path(shutil.copytree(models()["molecules"], home / ("a_run_" + 40 * "x")))
    options = compare.Options(
        checkpoint={"molecules": str(named)},
        data={"audio": {"path": str(_recordings(home / "recordings"))}},
        samplers="ddim",
        evaluations=[4],
        guidance=[1.0],
        n={"audio": SHOWN, "image": SHOWN, "molecules": SHOWN},
        show=SHOWN,
        resamples=5,
        out=str(home / "out"),
    )
    boards = {board.name: board for board in compare.main(options)}
    assert boards.keys() == {"audio", "image", "molecules"}
    return Compared(home / "out", boards)


def _recordings(folder: Path) -> Path:
    """A stand-in for the spoken digits, under their names: tones of half a second, eight of each digit and speaker."""
    folder.mkdir()
    t = np.arange(round(8000 * SECONDS)) / 8000
    for digit in range(10):
        for place, speaker in enumerate(("ann", "bob")):
            for index in range(8):
                sound = 0.5 * np.sin(2 * np.pi * (200 + 100 * digit + 50 * place + 2 * index) * t)
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", sound, 8000)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        flags = [f"--{flag}" for flag in FLAGS]
        opened = playwright.chromium.launch(executable_path=BROWSER, args=flags, proxy=NOWHERE)
        yield opened
        opened.close()


@dataclass
class Visit:
    """A page, and what it and its frames have complained of since it was opened.

    complaints: errors, and requests that leave the page. Of a sandboxed frame's first ones Playwright is told nothing,
    but as no request succeeds, the console names each.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)

    def frames(self, modality: str) -> list[Any]:
        """Those of a modality's section, each scrolled to, as it is not loaded before, and complete."""
        section = self.page.locator("section").filter(has=self.page.locator("h2", has_text=re.compile(f"^{modality}$")))
        return [self._loaded(frame) for frame in section.locator("iframe").element_handles()]

    def _loaded(self, frame: Any) -> Any:
        frame.scroll_into_view_if_needed()
        inside = frame.content_frame()
        inside.wait_for_selector("body > main")
        inside.wait_for_load_state()
        return inside

    def all(self) -> list[Any]:
        """The page and all its frames."""
        return [
            self.page.main_frame,
            *(frame for name in ("audio", "image", "molecules") for frame in self.frames(name)),
        ]


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Opens a file on a screen of so many pixels' width."""
    contexts = []

    def opened(file: Path, width: int = WIDE) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        context.set_default_timeout(TIMEOUT)
        found = Visit(context.new_page())
        for event, listener in _listeners(found.complaints, file.as_uri()).items():
            context.on(event, listener)
        found.page.goto(file.as_uri())
        return found

    yield opened
    for context in contexts:
        context.close()


def _listeners(complaints: list[str], own: str) -> dict[str, Callable[[Any], None]]:
    """By event. own: the page's URL, the one that is no complaint beside what is in the page itself."""

    def console(message: Any) -> None:
        if message.type == "error":
            complaints.append(f"{message.text}: {message.location['url']}")

    def request(asked: Any) -> None:
        if asked.url != own and not asked.url.startswith(("data:", "about:", "blob:")):
            complaints.append(f"request: {asked.url}")

    return {
        "console": console,
        "weberror": lambda error: complaints.append(str(error.error)),
        "request": request,
    }


def until(page: Any, holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold within the time limit."""
    end = time.monotonic() + TIMEOUT / 1000
    while not (held := holds()) and time.monotonic() < end:
        page.wait_for_timeout(100)  # in which events arrive
    return held


def test_all_pictures_load(compared: Compared, visit: Callable[..., Visit]) -> None:
    seen = visit(compared.folder / PAGE)
    for frame in seen.all():
        frame.wait_for_function("[...document.images].every((image) => image.complete)")
        assert all(frame.evaluate("[...document.images].map((image) => image.naturalWidth > 0)"))
    plots = seen.page.locator("section > img[src^='data:image/svg']").count()
    grids = seen.page.locator("section > img[src^='data:image/png']").count()
    assert (plots, grids) == (3, _shown(compared.boards["image"]))
    assert [len(seen.frames(name)) for name in ("audio", "image", "molecules")] == [
        _shown(compared.boards["audio"]),
        0,
        _shown(compared.boards["molecules"]),
    ]
    for frame in seen.frames("audio"):
        assert frame.locator("img").count() == frame.locator("audio").count() == SHOWN


def _shown(board: Board) -> int:
    """How many sets of samples the page shows: of settings, and real ones."""
    return 1 + len(compare.shown(board))


def test_sounds_play_one_after_the_other(compared: Compared, visit: Callable[..., Visit]) -> None:
    """By a click, as a visitor's: no flag lets them play unasked."""
    seen = visit(compared.folder / PAGE)
    *_, real = seen.frames("audio")
    button, first = real.locator("button"), "document.querySelector('audio')"
    assert real.evaluate(f"{first}.paused")
    button.click()
    real.wait_for_function(f"{first}.currentTime > 0")
    before = real.evaluate(f"{first}.currentTime")
    real.wait_for_function(f"{first}.currentTime > {before}")
    assert button.inner_text() == "Stop"
    real.wait_for_function("document.querySelector('button').textContent === 'Play all'")  # after the last
    found = real.evaluate(
        "[...document.querySelectorAll('audio')].map((a) => [a.ended, a.currentTime, a.duration, a.error])"
    )
    home = compared.folder / compared.boards["audio"].floor_samples
    files = sorted(home.glob("*.wav"))[:SHOWN]
    assert len(found) == len(files) == SHOWN
    for (ended, reached, duration, error), file in zip(found, files, strict=True):
        assert ended
        assert error is None
        assert reached == duration == pytest.approx(soundfile.info(file).duration, abs=1e-3)
        assert duration == pytest.approx(SECONDS, abs=1e-3)
    assert seen.complaints == []


def test_molecules_turn(compared: Compared, visit: Callable[..., Visit]) -> None:
    """By themselves, until they are paused; and then by dragging."""
    seen = visit(compared.folder / PAGE)
    *_, real = seen.frames("molecules")
    assert real.locator("canvas").count() == SHOWN
    canvas = real.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    assert len(_colours(canvas.screenshot())) > 50  # shaded balls and sticks, not an empty card
    before = canvas.screenshot()
    assert until(seen.page, lambda: canvas.screenshot() != before)
    real.locator("#turn").click()
    assert until(seen.page, lambda: _rests(seen.page, canvas))
    paused = canvas.screenshot()
    _drag(seen.page, canvas)
    assert until(seen.page, lambda: canvas.screenshot() != paused)
    assert until(seen.page, lambda: _rests(seen.page, canvas))
    assert seen.complaints == []


def _rests(page: Any, canvas: Any) -> bool:
    before = canvas.screenshot()
    page.wait_for_timeout(300)
    return bool(canvas.screenshot() == before)


def _colours(screenshot: bytes) -> set[Any]:
    return set(Image.open(io.BytesIO(screenshot)).convert("RGB").getdata())


def _drag(page: Any, canvas: Any) -> None:
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 20, steps=5)
    page.mouse.up()


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_hangs_over_and_nothing_is_dead(compared: Compared, visit: Callable[..., Visit], width: int) -> None:
    """Only a table scrolls sideways; what looks like a button is one."""
    for frame in visit(compared.folder / PAGE, width).all():
        assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth"), frame.url
        links = frame.locator("nav a")
        assert not any(link.is_visible() and link.get_attribute("href") is None for link in links.all())
        for button in frame.locator("nav button").all():
            button.click()


def test_the_page_is_silent_and_offline(compared: Compared, visit: Callable[..., Visit]) -> None:
    seen = visit(compared.folder / PAGE)
    assert len(seen.all()) > 4
    seen.page.wait_for_timeout(500)
    assert seen.complaints == []


def test_what_a_frame_does_wrong_is_noticed(tmp_path: Path, visit: Callable[..., Visit]) -> None:
    """An error and a request from within a frame such as the page's: the tests above would see them."""
    file = tmp_path / "wrong.html"
    inside = "<img src='http://polydiffusion.invalid/a.png'><script>throw Error('wrong')</script>"
    file.write_text(f'<iframe sandbox="allow-scripts" srcdoc="{inside}"></iframe>')
    seen = visit(file)
    assert until(seen.page, lambda: len(seen.complaints) > 1)
    assert any("http://polydiffusion.invalid/a.png" in complaint for complaint in seen.complaints)
    assert "wrong" in seen.complaints
