"""A pytest plugin: Hypothesis is content with the first example that fails, and does not make it small, which takes minutes."""

from hypothesis import Phase, settings

settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None)
settings.load_profile("mutants")
