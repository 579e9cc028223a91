"""Score a shipped part of streamface on labelled data: a table for people, JSON for scripts.

python tools/evaluate.py emotion --data fer2013_ferplus_mosaic.npz --split private --json -
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, cast

from rich.console import Console
from rich.table import Table

from streamface.errors import StreamfaceError, UsageError

Report: TypeAlias = dict[str, object]
_WIDEST_TABLE = 8
Run: TypeAlias = Callable[[argparse.Namespace], Report]


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; ``run`` in the result does what it asks for."""
    # Each task brings what it needs; a missing extra of one must not stop the others.
    from streamface.evaluation import classifiers, detection, flicker, leak, resynth, tracking

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    fronts: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Run]] = {
        "emotion": (classifiers.add_emotion_arguments, classifiers.run_emotion),
        "gender": (classifiers.add_gender_arguments, classifiers.run_gender),
        "detection": (detection.add_arguments, detection.run),
        "tracking": (tracking.add_arguments, tracking.run),
        "leak": (leak.add_arguments, leak.run),
        "resynth": (resynth.add_arguments, resynth.run),
        "flicker": (flicker.add_arguments, flicker.run),
    }
    for name, (add_arguments, run) in fronts.items():
        sub = tasks.add_parser(name, help=f"score {name}")
        add_arguments(sub)
        if not any(action.dest in {"data", "clip"} for action in sub._actions):  # noqa: SLF001
            sub.add_argument("--data", type=Path, required=True, help="the labelled data")
        sub.add_argument("--json", metavar="PATH|-", help="write the report as JSON; - is stdout")
        sub.set_defaults(run=run)
    return parser.parse_args(words)


def show(report: Report, console: Console) -> None:
    """Print a report: single figures in one table, one more table for each nested one."""
    flat = Table("figure", "value", title=str(report.get("task", "")))
    for name, value in report.items():
        if not isinstance(value, dict):
            flat.add_row(name, str(value))
    console.print(flat)
    for name, value in report.items():
        if isinstance(value, dict):
            console.print(_nested(name, cast("Report", value)))


def _nested(name: str, rows: Report) -> Table:
    inner = [row for row in rows.values() if isinstance(row, dict)]
    columns = list(dict.fromkeys(key for row in inner for key in row)) or ["value"]
    if len(columns) > max(len(rows), _WIDEST_TABLE):
        rows, columns = _turned(rows, columns), list(rows)
    table = Table("", *columns, title=name)
    for key, row in rows.items():
        cells = [row.get(column, "") for column in columns] if isinstance(row, dict) else [row]
        table.add_row(key, *map(str, cells))
    return table


def _turned(rows: Report, columns: list[str]) -> Report:
    """Swap rows and columns, for what is too wide for a terminal."""
    full = {key: row for key, row in rows.items() if isinstance(row, dict)}
    return {column: {key: row.get(column, "") for key, row in full.items()} for column in columns}


def main(words: list[str] | None = None) -> int:
    """Run one evaluation and hand out its report."""
    args = parse(words)
    try:
        report: Report = args.run(args)
        text = json.dumps(report, indent=1) + "\n"
        if args.json == "-":
            sys.stdout.write(text)
            return 0
        show(report, Console())
        if args.json:
            _write(Path(args.json), text)
    except StreamfaceError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as exc:
        raise UsageError(f"--json {path}: {exc.strerror or exc}") from exc


if __name__ == "__main__":
    raise SystemExit(main())
