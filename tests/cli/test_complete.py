"""What the shell completes."""

from pathlib import Path

from supermask.cli import complete


def test_names() -> None:
    assert complete.experiments("signed-supermask/table-15") == ["signed-supermask/table-15"]
    assert complete.methods("signed") == ["signed-supermask"]
    assert complete.models("conv") == ["conv2", "conv4", "conv6", "conv8"]
    assert complete.datasets("mn") == ["mnist"]
    assert complete.formats("la") == ["latex"]


def test_files(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "mine.py").touch()
    (tmp_path / "more").mkdir()
    (tmp_path / ".hidden").mkdir()
    assert complete.experiments(f"{tmp_path}/m") == [f"{tmp_path}/mine.yaml", f"{tmp_path}/more/"]
    assert complete.methods_and_files(f"{tmp_path}/") == [f"{tmp_path}/mine.py", f"{tmp_path}/more/"]
    assert complete.experiments(f"{tmp_path}/nowhere/x") == []
