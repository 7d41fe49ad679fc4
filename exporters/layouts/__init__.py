"""Where the weights of a graph lie: one file and one line here for each layout."""

from __future__ import annotations

from maskpack.exporters.layouts.base import GraphLayout
from maskpack.formats.lazy import LazyTable, find_entry

LAYOUTS: LazyTable[GraphLayout] = LazyTable(
    folded="maskpack.exporters.layouts.folded:FOLDED",
    shared="maskpack.exporters.layouts.shared:SHARED",
    swap="maskpack.exporters.layouts.swap:SWAP",
    trunk="maskpack.exporters.layouts.trunk:TRUNK_LAYOUT",
)
"""Name -> layout; an entry is loaded when it is asked for."""


def find_layout(name: str) -> GraphLayout:
    """The layout of that name.

    Raises:
        ConfigError: there is none.
    """
    return find_entry(LAYOUTS, name, "layout")
