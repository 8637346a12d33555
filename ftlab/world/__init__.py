"""The small world: a fictional bilingual town, its texts and datasets, and its tiny base model."""
