"""The SQLite file that keeps what was measured, for later runs and for other machines like this."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.records import Decision, Figure, Ratio

_APPLICATION = int.from_bytes(b"advc", "big")
"""SQLite's application_id, which tells our files from those of other programs."""

_VERSION = 1
"""Of the table below; older files are emptied, since what they hold can be measured again."""

_PATIENCE = 5.0
"""Seconds to wait for another process that is writing."""

_TABLE = """CREATE TABLE decisions (
    situation TEXT, window TEXT, form TEXT,
    median REAL, low REAL, high REAL, ms REAL, failure TEXT,
    PRIMARY KEY (situation, window, form)) WITHOUT ROWID"""
_INSERT = "INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


def default_path() -> Path | None:
    """The file that ADVCONV_CACHE names, else one in the user's cache folder.

    Returns:
        None if ADVCONV_CACHE is empty or "off": nothing is kept then.
    """
    wanted = os.environ.get("ADVCONV_CACHE")
    if wanted in ("", "off"):
        return None
    usual = platformdirs.user_cache_path("advconv-onnx") / "decisions.sqlite"
    return Path(wanted) if wanted else usual


class Decisions:
    """An open file of decisions; several processes may have it open.

    Each ``put`` is on disk when it returns. A file that cannot be used is never changed. Every
    method raises ``InputError`` where the file cannot be read or written. Whoever makes one must
    ``close`` it, for example with ``contextlib.closing``.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """Open a file of decisions.

        Args:
            path: the file.
            writable: make it where it is missing, and empty it where it is of an older version.
        """
        self.path = path
        mode = "rwc" if writable else "ro"
        with self._explained():
            if writable:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=_PATIENCE,
                isolation_level=None,  # what is not in a transaction is committed at once
            )
        try:
            with self._explained():
                if self._stamp() != (_APPLICATION, _VERSION):
                    self._prepare(writable)
        except InputError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def get(self, situation: str, window: str, form: str) -> Figure | None:
        """Return what is known of a form in a window, None for nothing."""
        query = "SELECT * FROM decisions WHERE situation = ? AND window = ? AND form = ?"
        with self._explained():
            row = self._connection.execute(query, (situation, window, form)).fetchone()
            return None if row is None else _decision(*row).figure

    def put(self, decision: Decision) -> None:
        """Keep a decision, in place of an earlier one on the same."""
        with self._explained():
            self._connection.execute(f"REPLACE {_INSERT}", _row(decision))

    def entries(self) -> Iterator[Decision]:
        """All decisions, ordered by situation, window and form."""
        with self._explained():
            for row in self._connection.execute("SELECT * FROM decisions ORDER BY 1, 2, 3"):
                yield _decision(*row)

    def export(self, path: Path) -> None:
        """Write a copy, whole or not at all."""
        with self._explained():
            content = self._connection.serialize()
        files.write_bytes(path, content)

    def merge(self, other: Decisions) -> int:
        """Add what another file knows and this one does not; return how many that were."""
        rows = map(_row, list(other.entries()))
        with self._explained(), self._transaction():
            return self._connection.executemany(f"INSERT OR IGNORE {_INSERT}", rows).rowcount

    def clear(self) -> int:
        """Forget everything; return how many decisions that were."""
        with self._explained():
            return self._connection.execute("DELETE FROM decisions").rowcount

    def _prepare(self, writable: bool) -> None:
        """Make the table in a new file or one of an older version; refuse any other file."""
        with self._transaction() if writable else contextlib.nullcontext():
            application, version = self._stamp()  # another process may have been faster
            tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if (application, version, tables) != (0, 0, 0) and application != _APPLICATION:
                raise InputError(self._problem("it is no file of decisions"))
            if version > _VERSION:
                raise InputError(self._problem("a newer advconv-onnx wrote it"))
            if version < _VERSION:
                if not writable:
                    raise InputError(self._problem("it is empty or an older advconv-onnx wrote it"))
                self._connection.execute("DROP TABLE IF EXISTS decisions")
                self._connection.execute(_TABLE)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _stamp(self) -> tuple[int, int]:
        [application] = self._connection.execute("PRAGMA application_id").fetchone()
        [version] = self._connection.execute("PRAGMA user_version").fetchone()
        return application, version

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, TypeError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            raise InputError(self._problem(reason)) from error

    def _problem(self, reason: str) -> str:
        return f"cannot use the cache '{self.path}': {reason}; move it away, or set ADVCONV_CACHE"


def _row(decision: Decision) -> tuple[str | float | None, ...]:
    figure = decision.figure
    ratio = figure.ratio
    bounds = (None, None, None) if ratio is None else (ratio.median, ratio.low, ratio.high)
    return (
        decision.situation, decision.window, decision.form, *bounds, figure.ms, figure.failure,
    )  # fmt: skip


def _decision(
    situation: str, window: str, form: str, median: Any, low: Any, high: Any, ms: Any, failure: str
) -> Decision:
    """Read a row; raises TypeError or ValueError where somebody else wrote it."""
    ratio = None if median is None else Ratio(float(median), float(low), float(high))
    return Decision(situation, window, form, Figure(ratio, float(ms), failure))
