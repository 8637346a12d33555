"""What a panel may use: widget classes of ipywidgets 7.7.1 and the traits they have there too."""

from __future__ import annotations

from typing import Any

_BOX = {"children", "layout"}
_DESCRIBED = {"description", "description_tooltip", "tooltip", "style", "layout", "value"}
_SLIDER = _DESCRIBED | {"min", "max", "step", "base", "continuous_update", "readout_format"}
_CHOICE = _DESCRIBED | {"_options_labels", "index", "continuous_update"}
SHARED = {
    "VBox": _BOX,
    "HBox": _BOX,
    "HTML": _DESCRIBED,
    "Button": _DESCRIBED | {"button_style"},
    "IntSlider": _SLIDER,
    "FloatSlider": _SLIDER,
    "FloatLogSlider": _SLIDER,
    "SelectionSlider": _CHOICE,
    "Dropdown": _CHOICE,
    "Checkbox": _DESCRIBED | {"indent"},
    "Text": _DESCRIBED | {"placeholder"},
    "IntText": _DESCRIBED,
    "Layout": {"width", "max_width", "min_width", "flex", "flex_flow", "margin"},
}


def check_shared(root: Any) -> set[str]:
    """The classes in a tree of widgets; AssertionError for a trait that is not shared."""
    seen, waiting = set(), [root]
    while waiting:
        widget = waiting.pop()
        name = type(widget).__name__
        seen.add(name)
        fresh = type(widget)(options=[0]) if name == "SelectionSlider" else type(widget)()
        changed = {
            key
            for key in widget.keys
            if not key.startswith("_") and key not in ("layout", "style", "tabbable")
            and getattr(widget, key) != getattr(fresh, key)
        }  # fmt: skip
        assert changed <= SHARED[name], f"{name}: {changed - SHARED[name]}"
        waiting += getattr(widget, "children", ())
        waiting += [] if name == "Layout" else [widget.layout]
    return seen
