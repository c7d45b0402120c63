"""The benchmark of scale runs, and its figures are about what they say."""

from bench import scaling


def test_a_million_masked_forwards_take_less_room_than_was_aimed_at():
    """Also at a tenth of a million: what a record takes does not depend on how many there are."""
    assert 4 < scaling.store_size(tiny=True)["mb_per_million"] < scaling.STORE_AIM_MB


def test_a_store_is_opened_and_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = scaling.start_up(tiny=True)
    assert found["records"] == 20_000 and 5 < found["mb"] < 12
    assert not list(tmp_path.iterdir())
