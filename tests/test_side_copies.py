"""Tensors that go to main memory and back beside the computation: in order, and never over what is still needed."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import fastnst
from fastnst.loss import content as tile_content
from fastnst.loss import tiled_objective
from fastnst.loss.content import OnHost
from fastnst.loss.side_copies import SideCopier, TileStore, in_main_memory
from fastnst.plan.plan import Plan
from fastnst.transfer import stylizer
from fastnst.transfer.best_image import BestAside, BestInPlace
from fastnst.transfer.stylizer import Stylizer
from tests.late_copies import LateCopier

CPU = torch.device("cpu")


@pytest.fixture(params=["at once", "late"])
def copier(request: pytest.FixtureRequest) -> Any:
    return SideCopier(CPU) if request.param == "at once" else LateCopier()


def tensors(value: float) -> list[Tensor]:
    return [torch.full((2, 3), value), torch.full((4,), value + 0.5)]


def test_tiles_come_back_as_they_went(copier: Any) -> None:
    store = TileStore(CPU, copier)
    for evaluation in (0.0, 10.0):
        for index in range(4):
            store.put(index, tensors(evaluation + index))
        for index in reversed(range(4)):
            found = store.fetch(index)
            if index:
                store.send(index - 1)
            assert [one.flatten()[0] for one in found] == [evaluation + index, evaluation + index + 0.5]


def test_what_leaves_may_be_written_over_when_the_next_leaves(copier: Any) -> None:
    store = TileStore(CPU, copier)
    before: list[Tensor] = []
    for index in range(3):
        found = tensors(index)
        store.put(index, found)
        for one in before:
            one.fill_(-1)
        before = found
    first = store.fetch(0)
    for one in before:
        one.fill_(-1)
    assert first[0][0, 0] == 0
    assert store.fetch(2)[0][0, 0] == 2


def test_what_has_come_back_is_not_written_over(copier: Any) -> None:
    store = TileStore(CPU, copier)
    for index in range(3):
        store.put(index, tensors(index))
    first = store.fetch(0)
    store.send(1)
    second = store.fetch(1)
    store.send(2)
    assert (first[0] == 0).all()
    assert (second[0] == 1).all()


def test_what_was_sent_for_in_vain(copier: Any) -> None:
    """After an evaluation that was broken off, tiles that were on their way are those of before."""
    store = TileStore(CPU, copier)
    for index in range(3):
        store.put(index, tensors(index))
    store.send(1)
    assert store.fetch(2)[0][0, 0] == 2
    store.send(0)
    for index in range(3):
        store.put(index, tensors(10 + index))
    assert store.fetch(0)[0][0, 0] == 10


def test_at_most_one_tile_goes_each_way() -> None:
    copier = LateCopier()
    store = TileStore(CPU, copier)
    for index in range(6):
        store.put(index, tensors(index))
    for index in reversed(range(6)):
        store.fetch(index)
        store.send(max(index - 1, 0))
    assert copier.most == 1


def test_main_memory_is_used_again() -> None:
    store = TileStore(CPU, SideCopier(CPU))
    places = []
    for value in (1.0, 2.0):
        store.put(0, tensors(value))
        places.append([one.data_ptr() for one in store._kept[0]])
    assert places[0] == places[1]


def test_memory_of_the_same_layout() -> None:
    like = torch.empty((1, 8, 4, 4), dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    found = in_main_memory(like)
    assert (found.shape, found.stride(), found.dtype) == (like.shape, like.stride(), like.dtype)


def test_content_on_the_host_goes_there_and_back() -> None:
    store = OnHost(CPU)
    for index in range(3):
        store.put(index, {"conv4_2": torch.full((1, 2, 3, 3), float(index))})
    order = (0, 1, 2, 2, 1, 0, 0, 1, 2, 0, 1)
    for index, following in zip(order, (*order[1:], 2), strict=True):
        assert (store.get(index, following)["conv4_2"] == index).all()
    assert (store.get(0, 1)["conv4_2"] == 0).all()


def test_the_best_image_aside(copier: Any) -> None:
    image = torch.zeros(1, 3, 2, 2)
    aside, beside = BestAside(image, copier), BestInPlace(image)
    for value, better in ((1.0, True), (2.0, False), (3.0, False), (4.0, True), (5.0, False)):
        for best in (aside, beside):
            best.settle()
        image.fill_(value)
        for best in (aside, beside):
            best.offer(image)
            best.decide(image, torch.tensor(better))
        assert torch.equal(aside.image, beside.image)
    assert (aside.image == 4).all()
    assert len({aside.image.data_ptr(), aside._spare.data_ptr()}) == 2


def test_an_offer_that_nobody_decides_on(copier: Any) -> None:
    """As after a checkpoint, whose image was decided on before: the next step may move it."""
    image = torch.ones(1, 3, 2, 2)
    best = BestAside(image, copier)
    best.offer(image)
    best.settle()
    image.fill_(7)
    best.offer(image)
    best.decide(image, torch.tensor(True))
    assert (best.image == 7).all()


def test_a_run_whose_copies_are_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept state, content and the best image in main memory: to the bit the run that has them on the device."""
    content, style = (torch.rand(3, 44, 60, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    given: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1"], "content_layers": "conv2_2", "tile": 16}
    given |= {"size": 60, "scales": [30, 60], "iterations": 3, "optimizer": "adam", "precision": "fp32"}
    plain = fastnst.stylize(content, style, weights="random", **given)
    planned, copiers = Stylizer.plan, []

    def aside(self: Stylizer, edge: int, size: tuple[int, int]) -> Plan:
        return replace(planned(self, edge, size), level="kept-host", content="host", best_aside=True)

    def late(device: torch.device) -> LateCopier:
        copiers.append(LateCopier())
        return copiers[-1]

    monkeypatch.setattr(Stylizer, "plan", aside)
    for module in (stylizer, tile_content, tiled_objective):
        monkeypatch.setattr(module, "SideCopier", late)
    found = fastnst.stylize(content, style, weights="random", **given)
    # Three for each scale.
    assert [copier.most for copier in copiers] == [1] * 6
    assert torch.equal(found.tensor, plain.tensor)
    assert [one.total for one in found.losses] == [one.total for one in plain.losses]
