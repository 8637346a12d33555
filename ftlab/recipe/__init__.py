"""Recipe: every parameter once; a recipe is a LLaMA-Factory YAML file.

``keys`` lists the parameters, ``knobs`` checks one value, ``rules`` says which keys go together,
``known`` what becomes of LLaMA-Factory's other keys. Taught in notebooks/07_sft.ipynb.
"""

from ftlab.recipe.keys import KNOBS, METHODS, Recipe
from ftlab.recipe.knobs import Knob
from ftlab.recipe.known import EXTENSIONS, NO_EFFECT

__all__ = ["EXTENSIONS", "KNOBS", "METHODS", "NO_EFFECT", "Knob", "Recipe"]
