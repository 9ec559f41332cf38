"""Puts figures, a link and the best weights where optuna-dashboard shows them. Opt-in."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import plotly.graph_objects as go
from optuna.artifacts import get_all_artifact_meta, upload_artifact

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.store.opening import open_results
from optuna_esgd.visualization.figures import FIGURES
from optuna_esgd.visualization.history import History, read_history
from optuna_esgd.visualization.key_numbers import KeyNumbers, key_numbers
from optuna_esgd.visualization.style import GREY, fade

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

# Each poll of the dashboard sends all saved figures again: few, and none above 100 kB.
PUBLISHED = ("fitness-by-generation", "population-raster", "genealogy", "founder-share")
_CLEAR = "rgba(0,0,0,0)"
_MOST_BYTES = 100_000
_WEIGHTS = "esgd-best.safetensors"
# Link definitions that nothing links to: Markdown shows nothing of them.
_BEGIN, _END = "[//]: # (esgd: begin)", "[//]: # (esgd: end)"
_SECTION = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)


def publish(
    study: optuna.Study,
    *,
    url: str | None = None,
    artifact_store: ArtifactStore | None = None,
    store: str | None = None,
) -> list[str]:
    """Save figures, and a note with the key numbers, in a study, for optuna-dashboard to show.

    Four figures are saved, as they are now, readable in light and dark mode. Publishing again
    replaces them and the part of the note that is ours; the rest of the note stays.

    Args:
        study: One whose population trains weights.
        url: Address of the study's live page, for a link in the note.
        artifact_store: Where to put the best weights, as ``esgd-best.safetensors``, for download;
            give optuna-dashboard the same one. Nowhere if None.
        store: URL of the database for weights, if it is not the study's own.

    Returns:
        The ids of the saved figures: ``esgd-`` and the name.

    Raises:
        ImportError: optuna-dashboard is not installed (``pip install optuna_esgd[dashboard]``).
        StudyError: The study has no population.
        ConfigurationError: ``url`` is not an address a browser can open.
    """
    try:
        import optuna_dashboard  # noqa: PLC0415  (optional)
    except ImportError:
        raise ImportError(
            "publish needs optuna-dashboard: pip install 'optuna_esgd[dashboard]'."
        ) from None

    link = None if url is None else _check_url(url)
    history = read_history(study, store=store)
    saved = []
    for name in PUBLISHED:
        figure = _saved_figure(history, name)
        saved.append(
            optuna_dashboard.save_plotly_graph_object(
                study, figure, graph_object_id=f"esgd-{name}"
            )
        )
    if artifact_store is not None:
        _upload_best(study, artifact_store, store)
    section = _write_section(key_numbers(history), link)
    note = optuna_dashboard.get_note(study)
    rest = _SECTION.sub("", note).strip()
    optuna_dashboard.save_note(study, f"{rest}\n\n{section}" if rest else section)
    return saved


def suit_any_theme(figure: go.Figure) -> go.Figure:
    """Make a figure readable on white and on black, in place; returns it.

    Without a template and with transparent backgrounds it takes the page's; what is left to
    colour is grey.
    """
    figure.update_layout(
        template=go.layout.Template(),
        paper_bgcolor=_CLEAR,
        plot_bgcolor=_CLEAR,
        font={"color": GREY},
        legend={"bgcolor": _CLEAR},
        modebar={"bgcolor": _CLEAR, "color": fade(GREY, 0.6), "activecolor": GREY},
        height=None,
    )
    grid = fade(GREY, 0.25)
    figure.update_xaxes(gridcolor=grid, zerolinecolor=grid)
    figure.update_yaxes(gridcolor=grid, zerolinecolor=grid)
    return figure


def _saved_figure(history: History, name: str) -> go.Figure:
    """The figure as it is saved; words in its place where it would be too large."""
    collect, draw = FIGURES[name]
    figure = suit_any_theme(draw(collect(history)))
    if len(figure.to_json()) < _MOST_BYTES:
        return figure
    words = go.Figure()
    words.update_layout(title={"text": figure.layout.title.text})
    words.add_annotation(text="Too large to be saved: see the live page.", showarrow=False)
    return suit_any_theme(words)


def _check_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s<>()\[\]\\\"']+", url):
        raise ConfigurationError(
            f"url must be an address like http://127.0.0.1:8080/esgd/name, got {url!r}."
        )
    return url


def _write_section(numbers: KeyNumbers, link: str | None) -> str:
    """Our part of the note: Markdown that does not depend on names."""
    lines = [_BEGIN, "", "### Population", ""]
    if link is not None:
        lines += [f"[Live page]({link})", ""]
    lines += [f"- {line}" for line in _describe(numbers)]
    return "\n".join([*lines, "", _END])


def _describe(numbers: KeyNumbers) -> list[str]:
    if numbers.generation is None:
        return ["No individual has finished yet."]
    described = [f"{numbers.n_individuals} individuals, up to generation {numbers.generation}"]
    if numbers.best_value is not None:
        described.append(f"best value {numbers.best_value:.6g}")
    if numbers.common_ancestor is not None:
        described.append(f"common ancestor in generation {numbers.common_ancestor.generation}")
    if numbers.effective_founders is not None:
        described.append(f"effective number of founders {numbers.effective_founders:.2f}")
    if numbers.back_off_rate is not None:
        described.append(f"back-off rate {numbers.back_off_rate:.0%}")
    return described


def _upload_best(study: optuna.Study, artifact_store: ArtifactStore, store: str | None) -> None:
    """Store the best weights as an artifact of the study, in place of earlier ones."""
    population = open_results(study, store)
    best = population.best()
    if best is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _WEIGHTS
        with path.open("wb") as file:
            file.writelines(population.read_weights(best.reference).cut_file())
        metas = get_all_artifact_meta(study)
        known = [meta.artifact_id for meta in metas if meta.filename == _WEIGHTS]
        if not known:
            upload_artifact(
                study_or_trial=study, file_path=str(path), artifact_store=artifact_store
            )
            return
        with path.open("rb") as file:
            artifact_store.write(known[0], file)
