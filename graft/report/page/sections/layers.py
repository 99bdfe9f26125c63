"""Where the entries of the first seed's patch lie."""

from __future__ import annotations

from graft.report.page.document import section
from graft.report.page.markup import Html
from graft.report.page.run_page import RunPage
from graft.report.plots.layer_map import count_entries, plot_layer_map


def build_section(page: RunPage) -> Html | None:
    """Draw where the entries of the first seed's patch lie."""
    run = page.run
    patch = page.patch
    if patch is None:
        return None
    seed, mask = run.seeds[0].seed, patch.mask
    of = f", the first of {len(run.seeds)} seeds" if len(run.seeds) > 1 else ""
    layers, modules, counts = count_entries(mask)
    i, j = divmod(int(counts.argmax()), counts.shape[1])
    title = f"{run.name}: where the {len(mask):,} entries lie ({run.method}, seed {seed})"
    figure = page.plots.add(
        f"{run.name}-layers",
        lambda path: plot_layer_map(mask, path, title=title),
        alt=f"Map of layers by modules. The most entries, {counts[i, j]:,}, lie in {layers[i]}, {modules[j]}.",
        caption=f"Entries of the patch in each layer and module (weight and bias together), seed {seed}{of}; "
        "darker is more, on a logarithmic scale.",
    )
    return section(None, "Where does it live?", figure)
