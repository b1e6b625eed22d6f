"""The tables of README and docs are those of the records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import tables
from core.errors import UserError


def test_documents_hold_what_the_records_say() -> None:
    tables.main(tables.Options(check=True))


def test_every_table_stands_somewhere() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in tables.documents())
    assert set(re.findall(r"<!-- table: ([^>]+) -->", text)) == set(tables.TABLES)
    assert text.count("<!-- table: ") == text.count("<!-- end -->")


def test_each_record_says_what_it_was_measured_with() -> None:
    for path in tables.RESULTS.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert "seed" in record, path.name
        machines = list(_machines(record))
        assert machines, path.name
        for machine in machines:  # of the record, or of each of its parts
            assert {"processor", "threads", "torch", "python", "commit"} <= machine.keys(), path.name
            assert not machine["commit"].endswith("+"), f"{path.name}: measured on files that no commit holds"


def _machines(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        if "machine" in part:
            yield part["machine"]
        for one in part.values():
            yield from _machines(one)


def test_a_table_that_is_typed_over_is_found() -> None:
    name = next(iter(tables.TABLES))
    text = f"before\n<!-- table: {name} -->\n| typed |\n<!-- end -->\nafter"
    filled = tables.filled(text)
    assert filled != text
    assert filled.startswith("before\n")
    assert filled.endswith("\nafter")
    assert tables.filled(filled) == filled
    with pytest.raises(UserError, match="table: no such: there are"):
        tables.filled("<!-- table: no such -->\n<!-- end -->")
