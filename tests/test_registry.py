from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facezoo.registry import DuplicateNameError, Registry, UnknownNameError, natural_key, unknown_name_message

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_.\-]{0,11}", fullmatch=True)


def some_registry(*names: str) -> Registry[object]:
    registry: Registry[object] = Registry("model", listed_by="facezoo.list_models()")
    for name in names:
        registry.register(name, object())
    return registry


# --- natural order


@given(st.text("ab_", min_size=1, max_size=4), st.lists(st.integers(0, 10**6), unique=True, max_size=8))
def test_numbers_sort_as_numbers(stem: str, numbers: list[int]) -> None:
    names = [f"{stem}{number}" for number in numbers]
    random.Random(0).shuffle(names)
    assert sorted(names, key=natural_key) == [f"{stem}{number}" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=6), max_size=6))
@example(["²", "٣", "2"])  # a digit that is no decimal one, and one that is
def test_any_texts_can_be_ordered(texts: list[str]) -> None:
    keys = [natural_key(text) for text in texts]
    for one, other in itertools.combinations(keys, 2):
        assert (one < other) or (other < one) or one == other


@given(st.lists(NAMES, unique=True, max_size=10))
def test_list_is_complete_and_sorted(names: list[str]) -> None:
    listed = some_registry(*names).list()
    assert sorted(listed) == sorted(names)
    assert [natural_key(name) for name in listed] == sorted(natural_key(name) for name in names)


def test_order_of_real_names() -> None:
    registry = some_registry("resnet101", "resnet18", "se_resnet50", "resnet50", "convnext_tiny")
    assert registry.list() == ["convnext_tiny", "resnet18", "resnet50", "resnet101", "se_resnet50"]
    assert list(registry) == registry.list()
    assert len(registry) == 5


def test_wildcards() -> None:
    registry = some_registry("resnet18", "resnet50", "iresnet50", "convnext_tiny")
    assert registry.list("resnet*") == ["resnet18", "resnet50"]
    assert registry.list("*resnet*", exclude="i*") == ["resnet18", "resnet50"]
    assert registry.list(["conv*", "*18"]) == ["convnext_tiny", "resnet18"]
    assert registry.list("*", exclude=("*res*", "conv*")) == []
    assert registry.list("RESNET*") == []


# --- registration


def test_call_and_decorator() -> None:
    registry: Registry[object] = Registry("block", listed_by="BLOCKS.list()")

    @registry.register("mine")
    class Mine:
        """A block of mine.

        More of it.
        """

    entry = object()
    assert registry.register("other", entry) is entry
    assert registry["mine"] is Mine
    assert registry["other"] is entry
    assert "mine" in registry
    assert "absent" not in registry
    assert registry.describe("mine") == "A block of mine."


def test_description_goes_before_the_docstring() -> None:
    class Spec:
        """Not this."""

        description = "  one line\nand another"

    registry: Registry[object] = Registry("model", listed_by="list_models()")
    registry.register("spec", Spec())
    assert registry.describe("spec") == "one line"


@given(NAMES)
def test_duplicates_are_refused_and_the_first_stays(name: str) -> None:
    registry = some_registry(name)
    first = registry[name]
    registry.register(name, first)  # the same object again, as when a module is reloaded
    with pytest.raises(DuplicateNameError, match="registered already"):
        registry.register(name, object())
    assert registry[name] is first
    assert len(registry) == 1


def test_duplicate_says_where_the_first_one_is_from() -> None:
    registry: Registry[object] = Registry("block", listed_by="BLOCKS.list()")
    registry.register("mine")(Registry)
    with pytest.raises(DuplicateNameError, match=r"block 'mine'.*Registry of facezoo\.registry.*unregister\('mine'\)"):
        registry.register("mine")(natural_key)


@pytest.mark.parametrize("name", ["", "ResNet", "a b", "_a", "-a", "é", "a/b", "a*", 3, None])
def test_names_of_other_letters_are_refused(name: object) -> None:
    registry = some_registry()
    with pytest.raises(ValueError, match="lower-case letters"):
        registry.register(name, object())  # type: ignore[call-overload]
    assert len(registry) == 0


def test_unregister() -> None:
    registry = some_registry("a", "b")
    entry = registry["a"]
    assert registry.unregister("a") is entry
    assert registry.list() == ["b"]
    with pytest.raises(UnknownNameError):
        registry.unregister("a")
    registry.register("a", object())
    assert "a" in registry


# --- unknown names


def test_did_you_mean() -> None:
    registry = some_registry("resnet18", "resnet50", "se_resnet50", "mobilefacenet", *(f"other{i}" for i in range(20)))
    with pytest.raises(UnknownNameError) as caught:
        registry["resnet5O"]
    message = str(caught.value)
    assert message.startswith("unknown model 'resnet5O'; did you mean 'resnet50'")
    assert message.endswith("(facezoo.list_models() lists all)")
    with pytest.raises(UnknownNameError, match=r"did you mean 'mobilefacenet'\?"):
        registry["MobileFaceNet"]


def test_nothing_close_lists_a_short_catalog_and_not_a_long_one() -> None:
    assert "known: a, b" in unknown_name_message("loss", "zzzzzz", ["a", "b"])
    assert "known:" not in unknown_name_message("loss", "zzzzzz", [str(i) for i in range(13)])


@pytest.mark.parametrize("error", [KeyError, ValueError])
def test_an_unknown_name_is_both_errors(error: type[Exception]) -> None:
    with pytest.raises(error):
        some_registry("a")["b"]


@pytest.mark.parametrize("name", [3, None, [], {}])
def test_what_is_no_name_is_unknown(name: object) -> None:
    with pytest.raises(UnknownNameError, match="unknown model"):
        some_registry("a")[name]  # type: ignore[index]


@given(st.lists(NAMES, unique=True, max_size=6), NAMES)
def test_membership_and_lookup_agree(names: list[str], wanted: str) -> None:
    registry = some_registry(*names)
    assert (wanted in registry) == (wanted in names)
    if wanted not in names:
        with pytest.raises(UnknownNameError, match="facezoo"):
            registry[wanted]


def test_repr() -> None:
    assert repr(some_registry("a")) == "Registry('model', 1 entries)"


def test_the_registries_of_facezoo_take_third_party_entries() -> None:
    import facezoo
    from facezoo.blocks import BLOCKS

    @facezoo.register_block("third_party_block")
    class ThirdParty:
        """Somebody else's."""

    try:
        assert BLOCKS["third_party_block"] is ThirdParty
    finally:
        BLOCKS.unregister("third_party_block")
