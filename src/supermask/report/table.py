"""A report as tables for people: aligned text, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from supermask.report import form
from supermask.report.channels import budget_grid
from supermask.report.content import FORMATS, Content, Failure, Settings, View, require_word
from supermask.report.grid import UNKNOWN, Grid, escape_markdown
from supermask.report.latex import to_latex
from supermask.report.names import row_names
from supermask.report.path import path_grid
from supermask.report.quoted import FIGURES, NEEDS, NOT_SAID, TARGETED, WORDS, Quote
from supermask.report.rank_table import ranking_grids
from supermask.report.statistics import Spread
from supermask.report.summary import Row, said, same_device
from supermask.report.values import to_csv, to_json

#: Short column headers for the accountings of `result.json`.
ACCOUNTINGS = {"two_bit": "two-bit", "sparse_index": "index", "entropy": "entropy", "packed": "packed"}


_FULL: Final = (
    "full: the dense model while its masks are only tracked, in the last such epoch; the other columns are the model under its "
    "masks."
)

#: Why runs trained for fewer epochs than planned: of one round, of several.
_SHORTER: Final = (
    "the schedule ended training earlier",
    "further rounds began later than at the first, or the schedule ended earlier",
)

#: Quantiles, and nothing that has to be asked for.
DEFAULT = View()


@dataclass(frozen=True)
class Document:
    """What a report says to people.

    Attributes:
        grids: The tables.
        failed: The runs that ended in an error; empty or one table.
        remarks: Sentences on the report as a whole.
    """

    grids: tuple[Grid, ...]
    failed: tuple[Grid, ...]
    remarks: tuple[str, ...]

    @property
    def tables(self) -> tuple[Grid, ...]:
        """All tables."""
        return (*self.grids, *self.failed)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of all tables, each once, and the remarks."""
        return (*dict.fromkeys(note for grid in self.grids for note in grid.notes), *self.remarks)

    def to_text(self) -> str:
        """The document as aligned plain text that ends with a newline."""
        return _join([grid.to_text() for grid in self.tables], "\n".join(self.notes))

    def to_markdown(self) -> str:
        """The document as GitHub-flavoured Markdown that ends with a newline."""
        notes = "\n".join(f"- {escape_markdown(note)}" for note in self.notes)
        return _join([grid.to_markdown() for grid in self.tables], notes)

    def to_latex(self) -> str:
        r"""One `table` environment a table, each with its notes; what concerns the report as a whole are comments."""
        failed = [line for grid in self.failed for line in grid.to_text().splitlines()]
        comments = [r"needs \usepackage{booktabs}", *self.remarks, *failed]
        return _join(["\n".join(f"% {' '.join(line.split())}" for line in comments), *map(to_latex, self.grids)], "")


def render(content: Content, format: str = "text", view: View = DEFAULT) -> str:
    """A report as one text that ends with a newline.

    Args:
        content: What it says.
        format: "text", "markdown", "latex", "csv" or "json".
        view: How it says it.

    Raises:
        ConfigError: `format` is not one of the known words, or CSV is asked for several tables.
    """
    require_word("format", format, FORMATS)
    if format == "json":
        return to_json(content)
    if format == "csv":
        return to_csv(content, view)
    document = build(content, view)
    forms = {"text": document.to_text, "markdown": document.to_markdown, "latex": document.to_latex}
    return forms[format]()


def build(content: Content, view: View = DEFAULT) -> Document:
    """The tables and notes of a report."""
    grids = [_settings(table) for table in content.settings]
    if content.literature:
        grids.append(_literature(content.literature, _marks((*content.quotes, *content.literature))))
    remarks = [f"{sentence}." for sentence in content.sentences]
    if content.rows or content.quotes:
        results = _Results(content, view)
        grids += results.grids()
        if (needs := _needs(content.quotes, results.marks)).rows:
            grids.append(needs)
        if not results.quality().rows:  # no table to print them below
            remarks += _sources(results.silent, results.marks)
    if content.missing:
        remarks.append(f"{content.missing:,} planned run{'s have' if content.missing > 1 else ' has'} no result yet.")
    failed = (_failed(content.failures),) if content.failures else ()
    return Document(grids=tuple(grids), failed=failed, remarks=tuple(remarks))


@dataclass(frozen=True)
class _Column:
    """One column: what a row of ours shows there, and which quoted cell belongs there."""

    header: str
    ours: Callable[[Row], str]
    quoted: str = ""


class _Results:
    """Builds the tables of results; quoted rows stand below the row of ours that they belong to, or at the end."""

    def __init__(self, content: Content, view: View) -> None:
        self.rows, self.quotes, self.view = content.rows, content.quotes, view
        self.rankings, self.paths = content.rankings, content.paths
        self.names = row_names(content.rows)
        self.named = {id(row): name for row, name in zip(self.rows, self.names)}
        self.marks = _marks(content.quotes)
        self.silent = [quote for quote in content.quotes if quote.note and not quote.has_figures]
        metrics = list(dict.fromkeys(row.metric.name for row in self.rows)) or ["accuracy"]
        self.tracked = list(dict.fromkeys(row.metric.name for row in self.rows if row.full.metric))
        short = [name.rpartition(":")[2] for name in metrics]
        self.units = dict(zip(metrics, short if len(set(short)) == len(short) else metrics))
        if "accuracy" in self.units:
            self.units["accuracy"] = "%"

    def grids(self) -> list[Grid]:
        grids = [self.quality(), *ranking_grids(self.rankings, self.named, self.units, self.view)]
        if any(row.n_validation for row in self.rows):
            grids.append(self.validation())
        if self.view.per_epoch:
            grids.append(self.epochs())
        removed = [(name, row.channels) for row, name in zip(self.rows, self.names) if row.channels is not None]
        grids += [budget_grid(removed, self.view.spread), self.size(), self.cost()]
        if self.view.per_layer:
            grids += [self.macs()] if any(row.macs.dense for row in self.rows) else []
            grids += [_layers(row, name) for row, name in zip(self.rows, self.names) if row.layers]
        grids += [path_grid(path, self.named[id(path.row)]) for path in self.paths]
        return [grid for grid in grids if grid.rows]

    def quality(self) -> Grid:
        # what was published only for the best epoch would not be seen without its column
        best = self.view.best or any("accuracy_best" in q.cells and "accuracy" not in q.cells for q in self.quotes)
        columns = [
            _Column("n", lambda row: f"{row.n}{'*' if self.starred(row) else ''}", "n"),
            *self.measured("accuracy ", lambda row: row.metric.last, self.units, "accuracy"),
            *self.measured("full accuracy ", lambda row: row.full.metric, self.tracked),
            *self.measured("best epoch ", lambda row: row.metric.best, self.units if best else (), "accuracy_best"),
            *self.measured("full best epoch ", lambda row: row.full.best, self.tracked if self.view.best else ()),
            _Column("test loss", lambda row: form.mean(row.test_loss, form.decimals(4)), "test_loss"),
            _Column("remaining %", lambda row: self.percent(row.density), "remaining"),
        ]
        if any(row.accuracy_top5 for row in self.rows) or any("accuracy_top5" in quote.cells for quote in self.quotes):
            columns.insert(2, _Column("top 5 %", lambda row: self.percent(row.accuracy_top5), "accuracy_top5"))
        notes = _shares(self.quotes, self.marks)
        if any(self.starred(row) for row in self.rows):
            notes.append(form.ESTIMATED)
        if best:
            notes.append("best epoch: chosen on the test set, therefore optimistic; compare by the last epoch.")
        notes += [_FULL] * bool(self.tracked)
        lower = [self.units[row.metric.name] for row in self.rows if row.metric.better == "lower"]
        notes += [f"{name}: lower is better." for name in dict.fromkeys(lower)]
        for row, name in zip(self.rows, self.names):
            epochs = {q.cells["epochs"] for q in self.quotes if q.is_beside(row) and "epochs" in q.cells} - {row.epochs}
            notes += [f"{name}: {row.epochs:,} epochs here, {number:,} where quoted." for number in sorted(epochs)]
        notes += said(self.rows, self.names)
        shape = "mean [5 %, 95 %]" if self.view.spread == "quantiles" else "mean ± standard deviation"
        return self.grid(f"Last epoch, {shape} over the runs", columns, notes, told=self.silent)

    def validation(self) -> Grid:
        kept = [(row, name) for row, name in zip(self.rows, self.names) if row.n_validation]
        metrics = list(dict.fromkeys(row.metric.name for row, _ in kept))
        columns = [
            _Column("held out", lambda row: f"{row.n_validation:,}"),
            *self.measured("validation ", lambda row: row.metric.validation, metrics, mark=True),
            *self.measured("selected ", lambda row: row.metric.validation_selected, metrics, mark=True),
        ]
        lines = tuple((name, *(column.ours(row) for column in columns)) for row, name in kept)
        shown = (spread for row, _ in kept for spread in (row.metric.validation, row.metric.validation_selected))
        notes = (
            *self.estimated(shown),
            "validation: on training examples that were held out, last epoch.",
            "selected: on the test set, in the epoch that was best on the held-out examples.",
        )
        return Grid("Validation split", ("label", *(c.header for c in columns)), lines, notes=notes)

    def epochs(self) -> Grid:
        headers = (
            "label",
            "epoch",
            *(self.header("accuracy ", name) for name in self.units),
            *(self.header("full accuracy ", name) for name in self.tracked),
            "test loss",
            "remaining %",
        )
        lines = []
        for row, name in zip(self.rows, self.names):
            for at in row.at_epochs:
                value = self.marked(self.value(row, at.metric), at.metric)
                full = self.marked(self.value(row, at.full), at.full)
                own = row.metric.name
                values = [value if metric == own else UNKNOWN for metric in self.units]
                values += [full if metric == own else UNKNOWN for metric in self.tracked]
                loss = form.mean(at.test_loss, form.decimals(4))
                density = self.marked(self.percent(at.density), at.density)
                lines.append((name, str(at.epoch), *values, loss, density))
        notes = self.estimated(
            spread for row in self.rows for at in row.at_epochs for spread in (at.metric, at.density)
        )
        asked = sorted({at.epoch for row in self.rows for at in row.at_epochs})
        ends: dict[str, list[str]] = {}
        for row, name in zip(self.rows, self.names):
            if len(row.at_epochs) < len(asked):
                ends.setdefault(_end(row, asked[len(row.at_epochs)]), []).append(name)
        notes += [f"{end}: {'; '.join(names)}." for end, names in ends.items()]
        return Grid("At single epochs", headers, tuple(lines), notes=tuple(notes))

    def size(self) -> Grid:
        accountings = list(dict.fromkeys(key for row in self.rows for key, value in row.compression.items() if value))
        if "packed" not in accountings and any("packed" in quote.cells for quote in self.quotes):
            accountings.append("packed")
        columns = [
            _Column("remaining", lambda row: form.mean(row.weights_remaining, form.count), "weights"),
            _Column("targeted", lambda row: form.mean(row.weights_targeted, form.count), "start_weights"),
            _Column("of all %", lambda row: form.mean(row.remaining_of_all, form.percent)),
            *(
                _Column(f"{ACCOUNTINGS.get(key, key)} %", _compression(key), "packed" * (key == "packed"))
                for key in accountings
            ),
        ]
        notes = []
        if accountings:
            named = ", ".join(ACCOUNTINGS.get(key, key) for key in accountings)
            notes.append(f"{named}: compression rate 1 - bytes / float32 bytes of the dense model, so counted.")
        if any("compression" in quote.cells for quote in self.quotes):
            columns.append(_Column("unnamed %", lambda _: UNKNOWN, "compression"))
            notes.append("unnamed: compression rate, quoted; how the source counts bytes is not known.")
        return self.grid("Weights, and compression rate by accounting (means)", columns, notes)

    def cost(self) -> Grid:
        columns = [
            _Column("epochs", lambda row: form.mean(row.epochs_trained, form.epochs), "epochs"),
            _Column("s/epoch", lambda row: form.mean(row.seconds_per_epoch, form.decimals(3)), "seconds_per_epoch"),
            _Column("training s", lambda row: form.mean(row.seconds_train, form.seconds)),
            _Column("extra %", self.extra, "extra_time"),
            _Column("peak MiB", lambda row: form.mean(row.peak_memory, form.mebibytes)),
        ]
        if any(row.peak_device_memory for row in self.rows):
            columns.append(_Column("GPU MiB", lambda row: form.mean(row.peak_device_memory, form.mebibytes)))
        if any(row.trainings > 1 for row in self.rows):
            columns.insert(0, _Column("rounds", lambda row: form.mean(row.rounds, form.epochs)))
        notes = [
            f"{name}: {row.epochs:,} epochs planned, {_SHORTER[row.trainings > 1]}."
            for row, name in zip(self.rows, self.names)
            if row.epochs_trained.mean < row.epochs
        ]
        notes += self.estimated(row.extra_time.fraction for row in self.rows if row.extra_time)
        baselines = dict.fromkeys(repr(row.extra_time.baseline) for row in self.rows if row.extra_time)
        if baselines:
            over = " or ".join(baselines)
            known = ", machine" if any(row.machines for row in self.rows) else ""
            notes.append(f"extra: training time of an epoch over {over} at equal seed{known}, device and threads.")
        if any(row.extra_time and row.extra_time.pairs < row.n for row in self.rows):
            notes.append("extra: not every run has a baseline of its seed; only the pairs are compared.")
        if len({(row.machines, frozenset(map(same_device, row.devices)), row.threads) for row in self.rows}) > 1:
            notes.append("The rows ran on different machines, devices or thread counts: compare times with care.")
        return self.grid("Time and memory (means)", columns, notes)

    def macs(self) -> Grid:
        lines = tuple(
            (name, form.mean(row.macs.dense, form.count), form.mean(row.macs.remaining, form.count), _macs_share(row))
            for row, name in zip(self.rows, self.names)
        )
        notes = dict.fromkeys(f"MACs: {row.macs.convention}" for row in self.rows if row.macs.convention)
        headers = ("label", "dense", "remaining", "remaining %")
        return Grid("Multiply-accumulates (MACs) for one input (means)", headers, lines, notes=tuple(notes))

    def grid(self, title: str, columns: Sequence[_Column], notes: Sequence[str], *, told: Sequence[Quote] = ()) -> Grid:
        """Our rows, each followed by what was published for it, then quotes that stand beside none of them.

        Args:
            title: Of the table.
            columns: All but the labels.
            notes: Come first.
            told: Quotes without a line of their own whose notes are printed.
        """
        lines: list[tuple[str, ...]] = []
        shown: list[Quote] = []

        def quote_line(name: str, quote: Quote) -> None:
            keys = [column.quoted for column in columns]
            if any(key in quote.cells and key in FIGURES for key in keys):
                shown.append(quote)
                lines.append(
                    (f"{name}{quote.word} [{self.marks[quote.source]}]", *(_quoted(quote, key) for key in keys))
                )

        for row, name in zip(self.rows, self.names):
            lines.append((name, *(column.ours(row) for column in columns)))
            for quote in [quote for quote in self.quotes if quote.is_beside(row)]:
                quote_line("  ", quote)
        for quote in [quote for quote in self.quotes if not any(map(quote.is_beside, self.rows))]:
            quote_line(f"{quote.label}, ", quote)
        headers = ("label", *(column.header for column in columns))
        return Grid(title, headers, tuple(lines), notes=(*notes, *_sources([*shown, *told], self.marks)))

    def measured(
        self,
        what: str,
        value: Callable[[Row], Spread | None],
        metrics: Iterable[str],
        quoted: str = "",
        *,
        mark: bool = False,
    ) -> list[_Column]:
        """One column for each of the metrics, filled where a row is judged by it."""

        def shown(row: Row) -> str:
            text = self.value(row, value(row))
            return self.marked(text, value(row)) if mark else text

        def cell(name: str) -> Callable[[Row], str]:
            return lambda row: shown(row) if row.metric.name == name else UNKNOWN

        return [_Column(self.header(what, name), cell(name), quoted if name == "accuracy" else "") for name in metrics]

    def header(self, what: str, metric: str) -> str:
        return f"{what if metric == 'accuracy' else what.replace('accuracy ', '')}{self.units[metric]}"

    def value(self, row: Row, value: Spread | None) -> str:
        if row.metric.name == "accuracy":
            return self.percent(value)
        return form.spread(value, self.view.spread, form.like(value.mean if value else 0))

    def percent(self, value: Spread | None) -> str:
        return form.spread(value, self.view.spread, form.percent)

    def extra(self, row: Row) -> str:
        fraction = row.extra_time.fraction if row.extra_time else None
        return self.marked(form.spread(fraction, self.view.spread, form.signed_percent), fraction)

    def marked(self, text: str, value: Spread | None) -> str:
        """A cell of a table that does not show n, with a star after estimated quantiles."""
        return f"{text}*" if self.view.spread == "quantiles" and form.estimated(value) else text

    def estimated(self, shown: Iterable[Spread | None]) -> list[str]:
        """What the star means, where one is shown."""
        return [form.ESTIMATED] if self.view.spread == "quantiles" and any(map(form.estimated, shown)) else []

    def starred(self, row: Row) -> bool:
        return self.view.spread == "quantiles" and row.estimated and row.n > 1


def _settings(table: Settings) -> Grid:
    """One line a label; quoted columns, which follow their own, become a line below it."""
    own = [0]
    quoted: dict[int, int] = {}  # column -> the column that quotes it
    for index, header in enumerate(table.headers[1:], start=1):
        if header.startswith(f"{table.headers[own[-1]]} ("):
            quoted[own[-1]] = index
        else:
            own.append(index)
    sources = {table.headers[quote].removeprefix(table.headers[column])[2:-1] for column, quote in quoted.items()}
    lines = []
    for row in table.rows:
        lines.append(tuple(_setting(row[column]) for column in own))
        cells = [None if column not in quoted else row[quoted[column]] for column in own[1:]]
        if any(cell is not None for cell in cells):
            lines.append((f"  quoted ({', '.join(sources)})", *map(_setting, cells)))
    return Grid(table.title, tuple(table.headers[column] for column in own), tuple(lines), frozenset(range(len(own))))


def _setting(value: object) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _literature(quotes: Sequence[Quote], marks: Mapping[str, int]) -> Grid:
    columns = {
        "data": "data",
        "start_weights": "weights",
        "weights": "remaining",
        "remaining": "remaining %",
        "bits": "bits",
        "trained_weights": "trained",
        "batchnorm": "batch norm",
        "epochs": "epochs",
        "accuracy": "accuracy %",
        "accuracy_top5": "top 5 %",
        "accuracy_best": "best epoch %",
        **NEEDS,
    }
    known = {key: header for key, header in columns.items() if any(key in quote.cells for quote in quotes)}
    lines = tuple((f"{quote.label} {_mark(quote, marks)}", *(_quoted(quote, key) for key in known)) for quote in quotes)
    notes = [*_shares(quotes, marks), *_sources(quotes, marks)]
    if "trained_weights" in known:
        notes.insert(0, "trained: whether the weights themselves were trained, beside which of them remain.")
    return Grid("Quoted from the literature", ("label", *known.values()), lines, notes=tuple(notes))


def _marks(quotes: Sequence[Quote]) -> dict[str, int]:
    """Source -> its number in the notes."""
    return {source: number for number, source in enumerate(dict.fromkeys(quote.source for quote in quotes), start=1)}


def _needs(quotes: Sequence[Quote], marks: Mapping[str, int]) -> Grid:
    """What the quoted methods ask for, beside the density and the training itself."""
    told = [quote for quote in quotes if any(key in quote.cells for key in NEEDS)]
    lines = tuple((f"{quote.label} {_mark(quote, marks)}", *(_quoted(quote, key) for key in NEEDS)) for quote in told)
    return Grid("What the methods ask for, as quoted", ("label", *NEEDS.values()), lines)


def _shares(quotes: Sequence[Quote], marks: Mapping[str, int]) -> list[str]:
    """One note on what quoted shares are shares of, where that is not the targeted weights."""
    kinds: dict[str, list[int]] = {}
    for quote in quotes:
        if "remaining" in quote.cells:
            kinds.setdefault(quote.cells.get("remaining_of", TARGETED), []).append(marks[quote.source])
    told = [
        f"of {kind} {', '.join(f'[{mark}]' for mark in sorted(set(found)))}"
        for kind, found in kinds.items()
        if kind not in (TARGETED, NOT_SAID)
    ]
    told += [f"not said of what [{mark}]" for mark in sorted(set(kinds.get(NOT_SAID, ())))]
    return [f"remaining % where quoted: {'; '.join(told)}; of the targeted weights otherwise."] if told else []


def _mark(quote: Quote, marks: Mapping[str, int]) -> str:
    return f"{'recalled ' if quote.word == 'recalled' else ''}[{marks[quote.source]}]"


def _sources(quotes: Sequence[Quote], marks: Mapping[str, int]) -> list[str]:
    """One note a source, one for each remark on a quoted row."""
    sources = sorted({quote.source for quote in quotes}, key=lambda source: marks[source])
    words = {quote.source: quote.word for quote in quotes}
    notes = [f"[{marks[source]}] {WORDS[words[source]]}: {source.removesuffix('.')}." for source in sources]
    remarks: dict[tuple[str, str], list[str]] = {}
    for quote in quotes:
        if quote.note:
            remarks.setdefault((quote.source, quote.note.removesuffix(".")), []).append(quote.label)
    told = (f"[{marks[source]}] {'; '.join(dict.fromkeys(to))}: {note}." for (source, note), to in remarks.items())
    return [*notes, *told]


def _quoted(quote: Quote, key: str) -> str:
    text = (None if quote.n is None else str(quote.n)) if key == "n" else quote.text(key)
    return UNKNOWN if text is None else text


def _compression(accounting: str) -> Callable[[Row], str]:
    return lambda row: form.mean(row.compression.get(accounting), form.percent)


def _end(row: Row, lacking: int) -> str:
    """Why a row has no epoch of that number."""
    if row.epochs_trained.std:
        return f"no epoch {lacking}, as a run ended before it"
    return f"ends at epoch {row.epochs_trained.mean:.0f}"


def _macs_share(row: Row) -> str:
    dense, remaining = row.macs.dense, row.macs.remaining
    return form.percent(remaining.mean / dense.mean) if dense and remaining and dense.mean else UNKNOWN


def _layers(row: Row, name: str) -> Grid:
    lines = (
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            f"{layer.size:,}",
            *(UNKNOWN if part is None else form.percent(part) for part in (layer.remaining, layer.keep, layer.invert)),
        )
        for layer in row.layers
    )
    headers = ("layer", "shape", "weights", "remaining %", "keep %", "invert %")
    return Grid(f"{name}: layers, mean over {row.n} run{'s' * (row.n != 1)}", headers, tuple(lines))


def _failed(failures: Sequence[Failure]) -> Grid:
    """One line an error, with the runs that ended in it."""
    groups: dict[str, list[Failure]] = {}
    for failure in failures:
        groups.setdefault(" ".join(failure["error"].split()), []).append(failure)
    lines = tuple((*_runs_of(group), error) for error, group in groups.items())
    return Grid(f"Failed runs: {len(failures)}", ("run", "label", "seed", "error"), lines, frozenset({0, 1, 3}))


def _runs_of(failures: Sequence[Failure]) -> tuple[str, str, str]:
    """Run, labels and seeds; the seeds of each label unless all labels have the same."""
    seeds: dict[str, list[str]] = {}
    for failure in failures:
        seed = UNKNOWN if failure["seed"] is None else str(failure["seed"])
        seeds.setdefault(failure["label"] or UNKNOWN, []).append(seed)
    of_each = [", ".join(found) for found in seeds.values()]
    more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    together = of_each[:1] if len(set(of_each)) == 1 else of_each
    return f"{failures[0]['run']}{more}", "; ".join(seeds), "; ".join(together)


def _join(tables: list[str], notes: str) -> str:
    return "\n\n".join([*tables, notes] if notes else tables) + "\n"
