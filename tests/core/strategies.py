"""Topic names and filters of few words, so that they meet often."""

from __future__ import annotations

from hypothesis import strategies as st

_words = st.sampled_from(["a", "b", "", "$SYS", "$x"])
names = st.lists(_words, min_size=1, max_size=4).map("/".join).filter(bool)
"""Valid topic names, also with empty levels and ``$`` in any place."""

_levels = st.lists(st.one_of(_words, st.just("+")), min_size=0, max_size=3)
filters = st.one_of(
    st.lists(st.one_of(_words, st.just("+")), min_size=1, max_size=4).map("/".join).filter(bool),
    _levels.map(lambda levels: "/".join([*levels, "#"])),
)
"""Valid topic filters."""
