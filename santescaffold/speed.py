"""Copier, spared what it would do again and again: an update renders up to four times, each time from a new clone.

Nothing here decides what is rendered. Each part remembers the answer to a question that Copier asks many times and that
cannot have changed since; tests/update/test_speed.py compares what comes out, byte for byte, with Copier left alone.
"""

from __future__ import annotations

import contextlib
import copy
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment


@contextlib.contextmanager
def work_done_once() -> Iterator[None]:
    """Run Copier in this context, and it does each thing once."""
    with contextlib.ExitStack() as spared:
        for part in (_cloned_once, _configured_once, _compiled_once, _answers_gathered_once, _file_mode_asked_once):
            # These are Copier's own insides: a version that keeps them elsewhere does the work again, which is slower, not wrong.
            with contextlib.suppress(ImportError, AttributeError, KeyError):
                spared.enter_context(part())
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    real = owner.__dict__[name]
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, real)


@contextlib.contextmanager
def _cloned_once() -> Iterator[None]:
    """Clone each version of a template once. The same place also means the same names of files to compile."""
    import copier._template as copier_template

    real = vars(copier_template)["clone"]
    known: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory(prefix="santescaffold-clones-") as clones:

        def clone(url: str, ref: str = "HEAD", location: str | None = None) -> str:
            if (url, ref) not in known:
                # Not in the location Copier offers: it clears that away after each rendering.
                place = Path(clones) / str(len(known))
                place.mkdir()
                known[url, ref] = real(url, ref, str(place))
            return known[url, ref]

        with _replaced(copier_template, "clone", clone):
            yield


@contextlib.contextmanager
def _configured_once() -> Iterator[None]:
    """Read copier.yml, and the questions it includes, once for each clone."""
    import copier._template as copier_template

    real = copier_template.load_template_config
    known: dict[Path, Any] = {}

    def load(conf_path: Path, quiet: bool = False) -> Any:
        if conf_path not in known:
            known[conf_path] = real(conf_path, quiet)
        return copy.deepcopy(known[conf_path])

    with _replaced(copier_template, "load_template_config", load):
        yield


@contextlib.contextmanager
def _answers_gathered_once() -> Iterator[None]:
    """Gather the answers to remember once for each rendering, not twice for each part of each path.

    When files are rendered, every answer has been given; before, what is gathered changes with each of them.
    """
    from copier._main import Worker

    render, gather = Worker._render_template, Worker._answers_to_remember
    known: dict[int, Any] = {}

    def render_template(self: Worker) -> None:
        known[id(self)] = gather(self)
        try:
            render(self)
        finally:
            del known[id(self)]

    def answers_to_remember(self: Worker) -> Any:
        return dict(known[id(self)]) if id(self) in known else gather(self)

    with (
        _replaced(Worker, "_render_template", render_template),
        _replaced(Worker, "_answers_to_remember", answers_to_remember),
    ):
        yield


@contextlib.contextmanager
def _file_mode_asked_once() -> Iterator[None]:
    """Ask git once for each directory whether it heeds the executable bit, not for every file that is written."""
    from copier._main import Worker

    real = Worker._sync_git_index_executable_bit
    known: dict[Path, bool] = {}

    def sync(self: Worker, dst_relpath: Path, src_mode: int) -> None:
        root = self.subproject.local_abspath
        if root not in known:
            asked = subprocess.run(
                ["git", "config", "--type=bool", "--get", "core.fileMode"],
                cwd=root, check=False, capture_output=True, text=True,
            )  # fmt: skip
            known[root] = asked.stdout.strip() != "false"
        if not known[root]:
            real(self, dst_relpath, src_mode)

    with _replaced(Worker, "_sync_git_index_executable_bit", sync):
        yield


@contextlib.contextmanager
def _compiled_once() -> Iterator[None]:
    """Have Jinja compile each text once.

    Copier compiles every part of every path and every answer's expressions again for each file and each rendering. Code
    depends on the text and on the settings of the environment alone, as long as nothing is folded into constants.
    """
    real = Environment.compile
    known: dict[tuple[Any, ...], Any] = {}

    def compile(
        self: Environment, source: Any, name: Any = None, filename: Any = None, *more: Any, **options: Any
    ) -> Any:
        # Copier learns the loop of a `yield` while it is parsed, so that one has to be parsed each time.
        if more or options or self.optimized or not isinstance(source, str) or "yield" in source:
            return real(self, source, name, filename, *more, **options)
        lexical = (
            self.block_start_string, self.block_end_string, self.variable_start_string, self.variable_end_string,
            self.comment_start_string, self.comment_end_string, self.line_statement_prefix, self.line_comment_prefix,
            self.trim_blocks, self.lstrip_blocks, self.newline_sequence, self.keep_trailing_newline,
        )  # fmt: skip
        key = (source, name, filename, type(self), lexical, *sorted(self.extensions), str(self.autoescape))
        if key in known:
            self.preprocess(source, name, filename)  # Copier forgets the loop of the path before at this moment
        else:
            known[key] = real(self, source, name, filename)
        return known[key]

    with _replaced(Environment, "compile", compile):
        yield
