"""The losses of all families have their names in one list."""

import importlib
import pkgutil

import torch_mlcalc as mlc


def test_every_name_of_a_family_is_public() -> None:
    for family in pkgutil.iter_modules(mlc.losses.__path__):
        if family.ispkg:
            module = importlib.import_module(f"torch_mlcalc.losses.{family.name}")
            assert set(module.__all__) <= set(mlc.losses.__all__), family.name


def test_no_name_is_there_twice() -> None:
    assert sorted(set(mlc.__all__)) == sorted(mlc.__all__)
