"""One web page to listen to samples: it works offline, from the file alone, and loads nothing from elsewhere."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from core.batch import Batch
from modalities.audio.artefacts import lengths, wav_name
from modalities.audio.drawing import Names, caption, thumbnails

PAGE = "index.html"
MAX_PLAYERS = 200
MAX_EMBEDDED = 8_000_000  # bytes of sound that the page holds itself; beyond, it links to the files beside it

STYLE = """
:root { color-scheme: light dark; --paper: #fafafc; --card: #fff; --ink: #26262b; --faint: #6d6d78; --mark: #b5367a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17171b; --card: #222228; --ink: #ececf1; --faint: #a0a0ac; --mark: #fb8761; }
}
body { margin: 0 auto; max-width: 88rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.4 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.5rem; }
h2 { margin: 1.6rem 0 .6rem; font-size: 1.1rem; }
p, small { color: var(--faint); }
button { font: inherit; padding: .3rem .9rem; }
main { display: flex; flex-wrap: wrap; gap: 0 1.6rem; }
section { min-width: 0; max-width: 100%; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { box-sizing: border-box; width: 17rem; max-width: 100%; margin: 0; padding: .5rem; border-radius: .5rem;
  border: 2px solid transparent; background: var(--card); }
figure.playing { border-color: var(--mark); }
img { display: block; width: 100%; height: auto; border-radius: .25rem; }
audio { display: block; width: 100%; height: 2.25rem; margin: .4rem 0 .3rem; }
figcaption { display: flex; justify-content: space-between; gap: .5rem; }
"""

SCRIPT = """
const players = [...document.querySelectorAll("audio")], button = document.querySelector("button");
let queue = false;
players.forEach((player, i) => {
  player.onplay = () => {
    players.forEach((other) => other === player || other.pause());
    player.parentElement.classList.add("playing");
  };
  player.onpause = () => player.parentElement.classList.remove("playing");
  player.onended = () => queue && i + 1 < players.length ? players[i + 1].play() : stop();
});
function stop() {
  queue = false;
  button.textContent = "Play all";
}
button.hidden = false;
button.onclick = () => {
  players.forEach((player) => { player.pause(); player.currentTime = 0; });
  if (queue) return stop();
  queue = true;
  button.textContent = "Stop";
  players[0].play();
};
"""


def write_page(folder: Path, batch: Batch, sample_rate: int, conditions: Names, title: str = "Samples") -> Path:
    """A player for each of the first 200 sounds, whose WAVs `write_wavs` has put in the folder; returns the page.

    Each has its waveform and spectrogram, what it was asked to be, and its length; those of a class stand together.
    conditions: names of the values of each condition. OSError if a WAV is not there.
    """
    shown = batch[:MAX_PLAYERS]
    sizes = [(folder / wav_name(number)).stat().st_size for number in range(len(shown))]
    embed = sum(sizes) <= MAX_EMBEDDED
    cards = [
        _card(folder / wav_name(number), embed, picture, caption(shown, number, conditions), length / sample_rate)
        for number, (picture, length) in enumerate(
            zip(thumbnails(shown, sample_rate), lengths(shown.x, shown.mask), strict=True)
        )
    ]
    sections = "".join(
        _section(name, [cards[number] for number in group]) for name, group in _groups(shown, conditions)
    )
    left_out = f"; {len(batch) - len(shown):,} more lie beside this page" if len(batch) > len(shown) else ""
    about = f"{len(shown):,} sounds at {sample_rate:,} Hz{left_out}"
    path = folder / PAGE
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n<p>{about}</p>\n"
        f'<button type="button" hidden>Play all</button>\n</header>\n<main>\n{sections}</main>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n",
        encoding="utf-8",
    )
    return path


def _groups(batch: Batch, conditions: Names) -> list[tuple[str, list[int]]]:
    """The sounds of each class, or all together without a name."""
    if "label" not in conditions or "label" not in batch.cond:
        return [("", list(range(len(batch))))]
    labels = batch.cond["label"].tolist()
    return [
        (str(conditions["label"][value]), [number for number, label in enumerate(labels) if label == value])
        for value in sorted(set(labels))
    ]


def _section(name: str, cards: list[str]) -> str:
    heading = f"<h2>{escape(name)}</h2>\n" if name else ""
    return f'<section>\n{heading}<div class="cards">\n{"".join(cards)}</div>\n</section>\n'


def _card(wav: Path, embed: bool, picture: bytes, words: str, seconds: float) -> str:
    sound = _data("audio/wav", wav.read_bytes()) if embed else wav.name
    alt = escape(f"Waveform and spectrogram of {words or wav.name}")
    return (
        f'<figure>\n<img src="{_data("image/png", picture)}" alt="{alt}">\n'
        f'<audio controls preload="none" src="{sound}"></audio>\n'
        f"<figcaption>{escape(words or wav.stem)} <small>{seconds:.2f} s, {wav.name}</small></figcaption>\n</figure>\n"
    )


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
