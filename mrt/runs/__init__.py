"""From a recipe to a run folder: recipes, their fields and YAML, the folder, its seeds, steps and logs."""
