from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from supermask.cli.collect import channel_values
from supermask.errors import ConfigError
from supermask.report import table
from supermask.report.channels import Values, budget_grid, channels_row, values_of
from supermask.report.content import Content
from supermask.report.figures import histogram, removal
from supermask.report.summary import summarize

from .results import result

GROUPS = [
    {"name": "conv1", "channels": 8, "remaining": 6, "chosen": True, "kept": ""},
    {"name": "conv2", "channels": 12, "remaining": 4, "chosen": True, "kept": ""},
    {"name": "fc", "channels": 10, "remaining": 10, "chosen": False, "kept": "are the network's outputs"},
]


def channels(used: float, alone: float | None = 0.53, difference: float | None = 1e-7) -> dict[str, Any]:
    def cost(dense: float, used: float, limit: float | None, alone: float | None) -> dict[str, Any]:
        return {"dense": dense, "remaining": used * dense, "limit": limit, "alone": alone, "granularity": 0.02}

    costs = {
        "params": cost(1000, 0.4, None, None),
        "macs": cost(5000, used, 0.5, alone),
        "volume": cost(9, 0.9, None, None),
    }
    shrunk = {"max_difference": difference, "why": "" if difference is not None else "no way"}
    return {"groups": GROUPS, "costs": costs, "shrunk": shrunk, "latency": None}


def runs(*told: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [
        result(run=f"{seed:012x}", seed=seed, label="masked", method="maskconvnet", channels=one)
        for seed, one in enumerate(told)
    ]


def test_a_row_by_hand() -> None:
    row = channels_row(runs(channels(0.48), channels(0.5, 0.55, 3e-7)))
    assert row is not None
    assert row.remaining is not None
    assert row.remaining.mean == pytest.approx(10 / 20)
    assert row.checked == 3e-7
    macs = {cost.unit: cost for cost in row.costs}["macs"]
    assert macs.used is not None
    assert macs.alone is not None
    assert (macs.limit, macs.used.mean, macs.alone.mean) == (0.5, pytest.approx(0.49), pytest.approx(0.54))


def test_rows_of_other_methods_and_of_earlier_versions_have_none() -> None:
    assert channels_row([result()]) is None
    assert channels_row(runs(None, None)) is None
    assert channels_row(runs(channels(0.5), None)) is None
    assert summarize([result()])[0].channels is None


def test_the_table_of_budgets() -> None:
    row = channels_row(runs(channels(0.48), channels(0.5, 0.55, None)))
    assert row is not None
    grid = budget_grid([("masked", row)], "std")
    assert [line[1] for line in grid.rows] == ["params", "macs"]  # a unit without a limit is told in JSON
    assert grid.rows[0] == ("masked", "params", "–", "–", "40.00", "2.00", "50.00")
    assert grid.rows[1] == ("masked", "macs", "50.00", "54.00 ± 1.41", "49.00 ± 1.41", "2.00", "50.00")
    assert grid.notes[-1].startswith("masked: channels could not be taken out")
    text = table.render(Content(rows=summarize(runs(channels(0.48)))))
    assert "Budgets: costs of what remains" in text
    assert "Budgets" not in table.render(Content(rows=summarize([result()])))


def test_raw_values() -> None:
    content = Content(rows=summarize(runs(channels(0.48))))
    told = json.loads(table.render(content, "json"))["rows"][0]["channels"]
    assert told["costs"][1]["unit"] == "macs"
    assert told["costs"][1]["used"]["mean"] == pytest.approx(0.48)
    (line,) = csv.DictReader(io.StringIO(table.render(content, "csv")))
    assert float(line["costs.macs"]) == pytest.approx(0.48)
    assert not any("channels" in key for key in line)


# ---------------------------------------------------------------------- values by epoch

FIRST = np.array([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]], dtype=np.float32)
SECOND = np.array([[0.5], [0.1], [0.0]], dtype=np.float32)


def made(name: str = "masked") -> Values:
    found = values_of(name, [{"gate/conv10": SECOND, "gate/conv2": FIRST}, {}], ["conv2", "conv10"])
    assert found is not None
    return found


def test_values_by_epoch_and_by_group() -> None:
    values = made()
    assert (values.kind, values.groups, len(values.runs)) == ("gate", ("conv2", "conv10"), 1)
    np.testing.assert_array_equal(values.pooled(), np.concatenate([FIRST, SECOND], axis=1))
    np.testing.assert_allclose(values.remaining(), [1.0, 1.0, 1 / 3])
    np.testing.assert_allclose(values.last_by_group(), [0.5, 0.0])
    assert values_of("masked", [{}, {}], []) is None


def test_scales_count_by_their_magnitude_in_the_order_of_their_names() -> None:
    found = values_of("slim", [{"scale/bn10.weight": -FIRST, "scale/bn2.weight": SECOND}], ["conv2", "conv10"])
    assert found is not None
    assert (found.kind, found.groups) == ("scale", ("bn2.weight", "bn10.weight"))
    assert float(found.pooled().min()) == 0.0
    assert found.pooled()[0].tolist() == [0.5, 0.5, 0.5]


def rectangles(svg: str) -> list[ET.Element]:
    return [e for e in ET.fromstring(svg).iter() if e.tag.endswith("rect") and "fill-opacity" in e.attrib]


def test_the_histogram_has_a_cell_for_each_band_that_holds_channels() -> None:
    cells = rectangles(histogram([made()]))
    # epoch 1: all in one band; epoch 2: three bands; epoch 3: exactly 0 and exactly 1
    assert len(cells) == 1 + 3 + 2
    opacity = sorted(float(cell.attrib["fill-opacity"]) for cell in cells)
    assert opacity == pytest.approx(sorted([1.0, *[3**-0.5] * 3, (2 / 3) ** 0.5, 3**-0.5]), abs=0.01)
    zero, one = cells[-2:]
    assert float(zero.attrib["y"]) > float(one.attrib["y"])


def test_many_epochs_are_thinned_and_scales_have_no_band_for_one() -> None:
    rng = np.random.default_rng(0)
    long = Values("slim", "scale", ("bn1.weight",), ((rng.uniform(0.1, 3.0, (500, 4)).astype(np.float32),),))
    cells = rectangles(histogram([long, made()]))
    assert len({cell.attrib["x"] for cell in cells}) == 100 + 3
    texts = [e.text for e in ET.fromstring(histogram([long])).iter() if e.tag.endswith("text")]
    assert "epoch, 1 to 500" in texts
    assert "magnitude of batch norm's scale" in texts


def test_the_figure_of_removal_has_a_line_for_each_row_in_both_panels() -> None:
    svg = removal([made("decay 0 & more"), made("decay <1>")])
    lines = [e for e in ET.fromstring(svg).iter() if e.tag.endswith("polyline")]
    assert len(lines) == 4
    heights = [float(point.split(",")[1]) for point in lines[0].attrib["points"].split()]
    assert heights[0] == heights[1] < heights[2]
    assert {"decay 0 & more", "decay <1>"} <= {e.text for e in ET.fromstring(svg).iter()}


@pytest.mark.parametrize("draw", [histogram, removal])
def test_nothing_to_draw(draw: Any) -> None:
    with pytest.raises(ConfigError, match="--figures: no finished run here recorded gates or scales"):
        draw([])


def test_values_are_read_from_the_folders_of_the_runs(tmp_path: Path) -> None:
    results = runs(channels(0.48), channels(0.5))
    folders = {}
    for one in results:
        folders[one["run"]] = tmp_path / one["run"]
        folders[one["run"]].mkdir()
        save_file({"gate/conv1": FIRST, "gate/conv2": SECOND}, folders[one["run"]] / "channels.safetensors")
    plain = result(run="f" * 12, label="dense")
    folders[plain["run"]] = tmp_path / plain["run"]
    everything = [plain, *results]
    (found,) = channel_values(summarize(everything), everything, folders)
    assert (found.name, found.groups, len(found.runs)) == ("masked", ("conv1", "conv2"), 2)
