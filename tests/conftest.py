"""What holds for all tests: none reads or changes the cache of whoever runs them."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        file = tmp_path_factory.mktemp("cache") / "decisions.sqlite"
        patch.setenv("ADVCONV_CACHE", str(file))
        yield


# A shell that runs the tests in the background lets them ignore Ctrl-C, which their children
# would inherit; those of some tests have to feel it.
signal.signal(signal.SIGINT, signal.default_int_handler)
