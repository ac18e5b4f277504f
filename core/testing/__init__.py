"""For authors of plugins: what each kind of plugin owes its users, as a test, and fixtures.

    check_package("cnnkit-edges")            the installed package: what it promises, and what it imports
    check_operation(operation, **options)    an operation
    check_network(network)                   a network
    check_gradient_rule("Elu", elu, array)   a gradient rule
    check_loss(loss, array, equals=number)   a loss

pytest finds the fixtures `host` and `tiny_model` by itself once cnnkit is installed, so this module, which
every run of pytest then imports, loads the rest at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cnnkit import Host, Model
    from cnnkit.testing.gradient_rules import check_gradient_rule as check_gradient_rule
    from cnnkit.testing.losses import check_loss as check_loss
    from cnnkit.testing.networks import check_network as check_network
    from cnnkit.testing.networks import make_tiny_model as make_tiny_model
    from cnnkit.testing.operations import check_operation as check_operation
    from cnnkit.testing.packages import check_package as check_package

_HOMES = {
    "check_gradient_rule": "gradient_rules",
    "check_loss": "losses",
    "check_network": "networks",
    "check_operation": "operations",
    "check_package": "packages",
    "make_tiny_model": "networks",
}

__all__ = [*_HOMES, "host", "tiny_model"]


@pytest.fixture
def host() -> "Host":
    """A host without any plugin; give it entries of your own for more."""
    from cnnkit import Host

    return Host(entries=[])


@pytest.fixture
def tiny_model() -> "Model":
    """A classifier of three colours (red, green, blue): conv, relu, pool, flatten, dense, probabilities."""
    from cnnkit.testing.networks import make_tiny_model

    return make_tiny_model()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnkit.testing' has no attribute '{name}'")
    return getattr(import_module(f"cnnkit.testing.{_HOMES[name]}"), name)
