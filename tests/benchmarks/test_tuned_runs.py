"""Equal tuning for every method, then the test with the best setting."""

import json

import pytest
from tuned_runs import SEEDS, TUNING_SEEDS, Cell, final_cells, missing_cells, read_results


@pytest.mark.parametrize("best", [(0.1, 1.0), (0.2, 1.0), (0.2, 0.5), (0.1, 2.0)])
def test_all_settings_are_tuned_and_the_best_one_is_tested(best, tmp_path):
    path = tmp_path / "results.jsonl"
    rounds = []
    while missing := missing_cells("level", 16, (0.1, 0.2), "r", read_results(path)):
        rounds.append(missing)
        with open(path, "a") as file:
            for cell in missing:
                distance = abs(cell.temperature - best[0]) + abs(cell.share - best[1]) / 9
                print(json.dumps({**vars(cell), "r": cell.seed / 1e6 - distance}), file=file)
    temperatures, rates, test = (
        {(cell.temperature, cell.share): cell.tuning for cell in cells} for cells in rounds
    )
    assert temperatures == {(0.1, 1.0): True, (0.2, 1.0): True}
    assert rates == {(best[0], 0.5): True, (best[0], 2.0): True}
    assert test == {best: False}
    assert [len(cells) for cells in rounds] == [6, 6, 3]
    assert {cell.seed for cell in rounds[2]} == set(SEEDS)
    assert {cell.seed for cell in rounds[0] + rounds[1]} == set(TUNING_SEEDS)


def test_a_broken_off_round_goes_on():
    first = missing_cells("dcl", 8, (0.1, 0.2), "r", {})
    done = {cell: {"r": 0.0} for cell in first[:4]}
    assert missing_cells("dcl", 8, (0.1, 0.2), "r", done) == first[4:]


def test_the_rate_follows_the_root_of_the_batch():
    one, four = (Cell("dcl", batch, 0.1, 1.0, 0).learning_rate for batch in (16, 64))
    assert four == pytest.approx(2 * one)


def test_a_grid_that_has_grown_shows_the_best_setting():
    tuned = {
        Cell("level", 16, tau, 1.0, seed): {"r": tau} for tau in (0.1, 0.2) for seed in (100, 101)
    }
    tested = {Cell("level", 16, tau, 1.0, seed): {"r": 0.0} for tau in (0.1, 0.2) for seed in SEEDS}
    found = final_cells("level", 16, "r", tuned | tested)
    assert [(cell.temperature, cell.seed) for cell in found] == [(0.2, seed) for seed in SEEDS]
    assert final_cells("dcl", 16, "r", tuned | tested) == []
