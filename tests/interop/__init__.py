"""Other people's clients, driven as processes against a broker process; run by `make interop`."""

import pytest

pytest.register_assert_rewrite("tests.interop.promises")
