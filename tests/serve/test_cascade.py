"""Cascades, against one image after the other and against every threshold."""

import itertools

import numpy as np
import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant import runtime
from rsquant.errors import ConfigError, ModelError, PackedFileError
from rsquant.packed.cascade import StageSpec, fingerprint
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed
from rsquant.serve import Cascade, Predictor, cascade

SIZES = (32, 48, 64)
COST = {32: 1.0, 48: 2.25, 64: 4.0}


def images(count=60, seed=0):
    rng = np.random.default_rng(seed)
    confidence = {size: rng.uniform(0.2, 1, count) for size in SIZES}
    correct = {size: rng.uniform(0, 1, count) < confidence[size] ** 0.5 for size in SIZES}
    return confidence, correct


def one_by_one(stages, confidence, correct):
    right, spent = [], []
    for i in range(len(correct[SIZES[0]])):
        cost = 0.0
        for stage in stages:
            cost += COST[stage.resolution]
            if stage.threshold is None or confidence[stage.resolution][i] >= stage.threshold:
                right.append(correct[stage.resolution][i])
                break
        spent.append(cost)
    return np.array(right), np.array(spent)


def test_run_is_what_one_image_after_the_other_gives():
    confidence, correct = images()
    stages = (StageSpec(32, 0.8), StageSpec(48, 0.6), StageSpec(64, None))
    right, spent, decided = cascade.run(stages, confidence, correct, COST)
    expected = one_by_one(stages, confidence, correct)
    np.testing.assert_array_equal(right, expected[0])
    np.testing.assert_allclose(spent, expected[1])
    assert set(decided) <= set(SIZES)


def test_points_are_what_their_stages_give_and_none_beats_another():
    confidence, correct = images()
    points = cascade.fit(confidence, correct, COST)
    for point in points:
        right, spent = one_by_one(point.stages, confidence, correct)
        assert point.top1 == pytest.approx(right.mean())
        assert point.cost == pytest.approx(spent.mean())
    costs, tops = [p.cost for p in points], [p.top1 for p in points]
    assert costs == sorted(costs) and tops == sorted(set(tops))


def test_no_threshold_beats_the_fitted_front():
    confidence, correct = images(30)
    points = cascade.fit(confidence, correct, COST)
    for size, last in itertools.combinations(SIZES, 2):
        for threshold in confidence[size]:
            stages = (StageSpec(size, float(threshold)), StageSpec(last, None))
            right, spent = one_by_one(stages, confidence, correct)
            assert any(
                p.cost <= spent.mean() + 1e-9 and p.top1 >= right.mean() - 1e-9 for p in points
            )


def test_the_cheapest_of_a_top1_and_the_best_of_a_cost_are_chosen():
    points = cascade.fit(*images(), COST)
    wanted = points[len(points) // 2]
    assert cascade.choose(points, top1=wanted.top1) == wanted
    assert cascade.choose(points, cost=wanted.cost) == wanted
    with pytest.raises(ModelError, match=r"none reaches at most 0\.00 M"):
        cascade.choose(points, cost=0.5)


@pytest.fixture
def stored(packed, tmp_path):
    path = tmp_path / "net.rsq"
    path.write_bytes(packed.read_bytes())
    point = cascade.Point((StageSpec(32, 0.5), StageSpec(64, None)), 0.75, 1e6)
    cascade.store(path, point, [point], "pictures", 40)
    return path


def test_a_stored_cascade_is_read_again_and_changes_nothing_else(packed, stored):
    before, after = open_packed(packed), open_packed(stored)
    assert after.plan.format_version == 6 and before.plan.cascade is None
    spec = after.plan.cascade
    assert spec.stages == (StageSpec(32, 0.5), StageSpec(64, None))
    assert (spec.top1, spec.madds, spec.images, spec.data) == (0.75, 1e6, 40, "pictures")
    assert spec.curve == ((1e6, 0.75),)
    assert fingerprint(before.tensors) == fingerprint(after.tensors) == spec.model
    assert before.plan.steps == after.plan.steps


def test_a_predictor_goes_up_only_where_it_is_unsure(stored):
    rng = np.random.default_rng(0)
    predictor = Predictor(stored, cascade=True, threads=1)
    small, large = Predictor(stored, resolution=32), Predictor(stored, resolution=64)
    tried = set()
    for _ in range(30):
        picture = rng.integers(0, 256, (70, 90, 3), np.uint8)
        first = small(picture)
        sure = first.probabilities[0] >= 0.5
        said = predictor(picture)
        assert said.tried == ((32,) if sure else (32, 64))
        expected = first if sure else large(picture)
        assert (said.labels, said.probabilities) == (expected.labels, expected.probabilities)
        tried.add(said.tried)
    assert tried


@pytest.mark.parametrize(
    "change,what",
    [
        (lambda c: c["stages"].reverse(), "must ascend"),
        (lambda c: c["stages"][0].update(resolution=33), "has no size 33"),
        (lambda c: c["stages"][0].update(threshold=None), "must have a threshold"),
        (lambda c: c["stages"][1].update(threshold=0.5), "must have a threshold"),
        (lambda c: c.update(model=-1), "'model'"),
        (lambda c: c.update(extra=1), "unknown field 'extra'"),
        (lambda c: c.pop("curve"), "lacks 'curve'"),
        (lambda c: c["stages"].clear(), "'stages'"),
        (lambda c: c["curve"].append([1.0]), "'point'"),
        (lambda c: c["curve"].append([1.0, 0.5]), "'curve' ascends"),
        (lambda c: c.update(top1=9), "share of 0 to 1"),
    ],
)
def test_a_wrong_cascade_in_a_file_is_refused(stored, change, what):
    tensors, metadata = read_packed(stored)
    change(metadata["cascade"])
    write_packed(stored, tensors, metadata)
    with pytest.raises(PackedFileError, match=what):
        open_packed(stored)


def test_older_versions_have_no_cascade(stored):
    tensors, metadata = read_packed(stored)
    metadata["version"] = 5
    write_packed(stored, tensors, metadata)
    with pytest.raises(PackedFileError, match="'cascade' is known from version 6"):
        open_packed(stored)


def test_a_cascade_of_another_model_is_refused(stored, packed):
    tensors, metadata = read_packed(stored)
    metadata["cascade"]["model"] ^= 1
    write_packed(stored, tensors, metadata)
    with pytest.raises(ConfigError, match="fitted for another network"):
        Predictor(stored, cascade=True)
    spec = open_packed(stored).plan.cascade
    with pytest.raises(ConfigError, match="fitted for another network"):
        Predictor(packed, cascade=Cascade(spec))
    with pytest.raises(ConfigError, match="has none"):
        Predictor(packed, cascade=True)


def test_costs_are_the_multiply_adds_of_the_checkpoint(model, session):
    from rsquant.evaluate.complexity import madds

    assert cascade.costs(session) == {size: madds(model, size) for size in (64, 48, 32)}


def test_a_file_that_was_replaced_meanwhile_gets_no_cascade(stored):
    point = cascade.Point((StageSpec(64, None),), 0.5, 1.0)
    with pytest.raises(ModelError, match="was replaced while it was measured"):
        cascade.store(stored, point, [], "none", 1, fitted_for=1)


def test_a_file_of_several_settings_of_bits_holds_a_cascade(tmp_path):
    torch.manual_seed(0)
    made = rsquant.create(RESNET10, 2, 2, (48, 32), 3, width=8, bits=("2/2", "1/2"))
    path = tmp_path / "bits.rsq"
    rsquant.pack(made, path)
    point = cascade.Point((StageSpec(32, 0.1), StageSpec(48, None)), 0.5, 1.0)
    cascade.store(path, point, [point], "none", 1)
    picture = np.zeros((50, 50, 3), np.uint8)
    assert Predictor(path, cascade=True, threads=1)(picture).tried == (32,)


def test_kept_sessions_of_a_file_are_not_changed_by_storing(packed, tmp_path):
    path = tmp_path / "net.rsq"
    path.write_bytes(packed.read_bytes())
    session = runtime.load(path, threads=1, tune=False)
    picture = np.full((1, 3, 32, 32), 99, np.uint8)
    before = session(picture)
    point = cascade.Point((StageSpec(64, None),), 0.5, 1.0)
    cascade.store(path, point, [], "none", 1)
    np.testing.assert_array_equal(session(picture), before)
