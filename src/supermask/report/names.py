"""What the rows of a report are called."""

from __future__ import annotations

from collections.abc import Sequence

from supermask.report.summary import Row


def row_names(rows: Sequence[Row]) -> list[str]:
    """Labels, after the experiment if there are several, with whatever else tells equal ones apart."""
    several = len({row.experiment for row in rows}) > 1
    names = [f"{row.experiment} / {row.label}" if several else row.label for row in rows]
    for key, shape in (("model", "{} / "), ("data", "{} / "), ("epochs", ", {} epochs"), ("n_train", ", {} examples")):
        for name in {name for name in names if names.count(name) > 1}:
            same = [index for index, other in enumerate(names) if other == name]
            if len({getattr(rows[index], key) for index in same}) > 1:
                for index in same:
                    part = shape.format(getattr(rows[index], key))
                    names[index] = part + name if part.endswith(" ") else name + part
    for name in {name for name in names if names.count(name) > 1}:
        for index in [index for index, other in enumerate(names) if other == name]:
            row = rows[index]
            part = row.apart or (f"setting {row.setting}" if row.setting else "")
            names[index] = f"{name}, {part}" if part else name
    precisions = [row.precision for row in rows]
    return [
        name if precision == "float32" or precision in name else f"{name} ({precision})"
        for name, precision in zip(names, precisions)
    ]
