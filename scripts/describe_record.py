"""Write RECORD.md, the page that says what each field of a record means, from where the fields are declared.

python scripts/describe_record.py
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from bench import record

PAGE = Path(__file__).parents[1] / "RECORD.md"
HEAD = """# The record of a run

`run.json` of each run, and the columns of `bench.load`. A number says its unit; what could not be measured
is null, and `unmeasured` says why. *Better*: which way, where there is one. Records are compared in speed
only where all fields marked with * agree. Written by `scripts/describe_record.py` from `FIELDS` in
[bench/record.py](bench/record.py).
"""
TABLE = ["", "| field | unit | better | what it says |", "| --- | --- | --- | --- |"]


def page() -> str:
    """The page in markdown, a table a group of fields."""
    lines = [HEAD]
    for group, fields in groupby(record.FIELDS, lambda field: field.group):
        lines += [f"## {group.capitalize()}", *TABLE]
        for field in fields:
            name = f"`{field.name}`{'*' * field.must_match}"
            better = "" if field.direction == "neither" else field.direction
            lines.append(f"| {name} | {field.unit} | {better} | {field.about} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
