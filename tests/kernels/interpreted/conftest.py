"""Every interpreted test fails when a kernel reads or writes outside the tensors it was given."""

import pytest


@pytest.fixture(autouse=True)
def _addresses_checked():
    from kernel_checks import addresses_checked

    with addresses_checked():
        yield
