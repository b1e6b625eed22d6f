"""The comparison of settings: cells that are drawn once, fronts that nothing dominates, a page that stands alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import compare
from benchmarks.compare_page import framed
from benchmarks.drawing import Subject
from benchmarks.pareto import Board, Cell, front
from core.errors import UserError
from core.model import Model
from core.shipped import models

VOID = {"meta", "img", "link", "br", "input", "hr"}


@pytest.fixture(scope="session")
def compared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[compare.Options, list[Board]]:
    """Two samplers, two numbers of evaluations, two scales of a run of four steps. Look, but do not write."""
    options = _options(trained, tmp_path_factory.mktemp("compare"))
    return options, compare.main(options)


def _options(run: Path, out: Path, **other: Any) -> compare.Options:
    few = {"samplers": "ddim,heun", "evaluations": [1, 3], "guidance": [1.0, 2.0], "n": {"image": 6}}
    small = {"show": 4, "micro_batch": 3, "resamples": 20}
    asked = few | small | other
    return compare.Options(modality="image", checkpoint={"image": str(run)}, out=str(out), **asked)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each micro-batch that a model draws from here on."""
    sizes: list[int] = []
    draw = Model.draw

    def counted(self: Model, template: Any, *others: Any, **options: Any) -> Any:
        sizes.append(len(template))
        return draw(self, template, *others, **options)

    monkeypatch.setattr(Model, "draw", counted)
    return sizes


def test_every_setting_is_a_cell(compared: tuple[compare.Options, list[Board]]) -> None:
    options, (board,) = compared
    assert len(board.cells) == 8
    assert {(cell.sampler, cell.evaluations, cell.scale) for cell in board.cells} == {
        (sampler, evaluations, scale) for sampler in ("ddim", "heun") for evaluations in (1, 3) for scale in (1, 2)
    }
    for cell in board.cells:
        assert cell.nfe <= cell.evaluations * cell.scale  # scale 2 makes two passes of an evaluation
        assert cell.errors.keys() == cell.values.keys() >= {"frechet_distance"}
        assert (Path(options.out) / cell.samples / "samples.npz").exists()
        assert (Path(options.out) / "cells" / f"{cell.key}.json").exists()
    assert not list((Path(options.out) / "cells").glob("*-*/0*.npz"))  # parts


def test_a_second_run_asks_the_network_nothing(compared: tuple[compare.Options, list[Board]], drawn: list[int]) -> None:
    options, boards = compared
    assert compare.main(options) == boards
    assert drawn == []


def test_an_interrupted_run_continues(
    trained: Path,
    tmp_path: Path,
    compared: tuple[compare.Options, list[Board]],
    drawn: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After two and a half cells of four: what is there stays, and the samples are those of a run that was not."""
    monkeypatch.setattr(compare, "plot", lambda board, path: path.with_suffix(".svg").touch())
    options = _options(trained, tmp_path, samplers="ddim")
    with monkeypatch.context() as patch:
        patch.setattr(Model, "draw", _broken(Model.draw, after=5))
        with pytest.raises(KeyboardInterrupt):
            compare.main(options)
    assert drawn == [3] * 5
    assert len(list((tmp_path / "cells").glob("*.json"))) == 2
    (board,) = compare.main(options)
    assert drawn == [3] * 8
    whole = {cell.key: cell for cell in compared[1][0].cells}
    assert len(board.cells) == 4
    assert all(cell.values == whole[cell.key].values for cell in board.cells)


def _broken(draw: Callable[..., Any], after: int) -> Callable[..., Any]:
    calls = iter(range(after))

    def broken(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    return broken


def test_another_request_is_another_cell(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other seeds, other errors, other code that measures, other weights; and the same again is the same."""
    options = _options(trained, Path("nowhere"), samplers="ddim", evaluations=[1], guidance=[1.0])
    preset = compare.PRESETS["quick"]
    subject = Subject.of("image", str(trained), 6)

    def key(options: compare.Options = options, subject: Subject = subject) -> str:
        (setting,) = compare._settings(subject, options, preset)
        return setting.key

    keys = [key(), key(replace(options, seed=1)), key(replace(options, resamples=21))]
    keys += [key(replace(options, evaluations=[2])), key(replace(options, guidance=[2.0]))]
    keys += [key(subject=replace(subject, digest="other")), key(subject=replace(subject, reference=subject.floor[:5]))]
    monkeypatch.setattr(compare, "MEASURE", "another")
    keys.append(key())
    assert len(set(keys)) == len(keys) == 8
    monkeypatch.undo()
    assert key() == keys[0]


def test_the_front_is_what_nothing_dominates() -> None:
    points = [(float(a), float(b)) for a, b in torch.randint(0, 12, (80, 2), generator=torch.manual_seed(0))]
    found = set(front(points))

    def dominated(place: int) -> bool:
        a, b = points[place]
        return any(c <= a and d <= b and (c, d) != (a, b) for c, d in points)

    assert found == {place for place in range(len(points)) if not dominated(place)}
    assert 0 < len(found) < len(points)
    for place in set(range(len(points))) - found:  # and each that is dominated is by a point of the front
        assert any(points[k][0] <= points[place][0] and points[k][1] <= points[place][1] for k in found)


def test_what_is_advised_is_the_cheapest_within_two_errors() -> None:
    cells = [
        _cell("a", 5, 0.5, 0.05),
        _cell("b", 10, 0.85, 0.05),
        _cell("c", 20, 0.9, 0.05),
        _cell("d", 40, 0.89, 0.05),
    ]
    board = Board("m", "run", "0", "data", None, 9, "share", [], {"share": 1.0}, {"share": 0.0}, "real", cells)
    assert board.best == cells[2]
    assert board.advised == cells[1]
    assert [cell.key for cell in board.front("share", "nfe")] == ["a", "b", "c"]
    unknown = Cell(**{**vars(cells[0]), "key": "e", "values": {}, "errors": {}})
    empty = Board(**{**vars(board), "cells": [unknown]})
    assert empty.best is None
    assert empty.verdict == "no setting has a share"


def _cell(key: str, nfe: int, value: float, error: float) -> Cell:
    return Cell(key, "ddim", nfe, nfe, 1.0, nfe, nfe / 100, None, {"share": value}, {"share": error}, key)


class _Page(HTMLParser):
    """What a page loads or links to; AssertionError where elements do not close as they open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.links: list[str] = []
        self.frames: list[_Page] = []
        self.feed(text)
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.opened.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "data", "poster", "srcset")]
        self.frames += [_Page(value or "") for name, value in attrs if name == "srcdoc"]

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def test_the_page_stands_alone(compared: tuple[compare.Options, list[Board]]) -> None:
    options, (board,) = compared
    text = (Path(options.out) / "compare.html").read_text()
    page = _Page(text)
    assert all(link.startswith("data:") for link in page.links)
    assert not re.search(r"https?://|@import|url\(", text)
    assert text.count("image/svg+xml") == 1
    assert len(page.links) >= 3  # the plot, the advised setting's samples and real ones
    assert all(cell.sampler in text for cell in board.cells)
    assert board.verdict.split(":")[0] in text


def test_a_page_within_the_page_links_to_nothing_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text('<p>a <a href="a.xyz" download>a</a> <img src="data:image/png;base64,AA=="> <a href="#b">b</a></p>')
    (frame,) = _Page(f'<iframe srcdoc="{framed(page)}"></iframe>').frames
    assert frame.links == ["data:image/png;base64,AA==", "#b"]


def test_json_and_plots_are_complete(compared: tuple[compare.Options, list[Board]]) -> None:
    options, _ = compared
    content = json.loads((Path(options.out) / "compare.json").read_text(), parse_constant=pytest.fail)
    assert {"processor", "threads", "torch", "python", "numpy", "commit"} <= content["machine"].keys()
    assert content["seed"] == options.seed
    assert content["errors"].startswith("bootstrap")
    (found,) = content["modalities"]
    assert found["floor"].keys() == found["floor_errors"].keys() >= {"frechet_distance"}
    keys = {cell["key"] for cell in found["cells"]}
    assert len(keys) == 8
    assert {found["best"], found["advised"]} <= keys
    assert all(cell["seconds"] > 0 and cell["nfe"] >= 1 for cell in found["cells"])
    assert set(found["fronts"]["frechet_distance"]["nfe"]) <= keys
    assert (Path(options.out) / "image.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"<svg[^>]*>", (Path(options.out) / "image.svg").read_text())


def test_a_shipped_model_is_called_by_its_name() -> None:
    assert compare._called(str(models()["image"])) == "the shipped mnist"
    assert compare._called("runs/image-1") == "runs/image-1"


def test_a_model_whose_data_are_not_here_gives_way_to_another(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Subject.of

    def where_data_are(name: str, run: str | Path, *more: Any) -> Subject:
        if run == "first":
            raise UserError("its data are gone")
        return of(name, run, *more)

    monkeypatch.setattr(Subject, "of", staticmethod(where_data_are))
    monkeypatch.setattr(compare, "of_modality", lambda name: ["first", trained])
    options = replace(_options(trained, tmp_path, evaluations=[1], guidance=[1.0]), checkpoint={})
    (board,) = compare.main(options)
    assert board.checkpoint == str(trained)
    assert "in the place of another: its data are gone" in (tmp_path / "log.txt").read_text()
    with pytest.raises(UserError, match="its data are gone"):
        compare.main(replace(options, data={"image": {"path": "mine"}}))


def test_what_cannot_be_compared_is_said(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "of_modality", lambda name: [])
    with pytest.raises(UserError, match="modality=smell: allowed are"):
        compare.main(compare.Options(modality="smell", out=str(tmp_path)))
    with pytest.raises(UserError, match="preset=slow: allowed are quick, full"):
        compare.main(compare.Options(preset="slow", out=str(tmp_path)))
    with pytest.raises(UserError, match=r"no model of it comes with the project; checkpoint\.image=runs"):
        compare.main(compare.Options(modality="image", out=str(tmp_path)))
    with pytest.raises(UserError, match="the lines above say why"):
        compare.main(compare.Options(out=str(tmp_path)))
    assert "audio is left out: no model" in (tmp_path / "log.txt").read_text()
    with pytest.raises(UserError, match=r"n\.image=9999: with \d+ held-out samples, at most \d+"):
        compare.main(_options(trained, tmp_path, n={"image": 9999}))
    with pytest.raises(UserError, match=r"headline\.image=beauty: its figures are frechet_distance"):
        compare.main(_options(trained, tmp_path, headline={"image": "beauty"}))
