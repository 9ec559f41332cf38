"""Studies find their populations, whatever happens to the studies."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from optuna_esgd.engine.configuration import Settings
from optuna_esgd.errors import ConfigurationError, StorageError, StudyError
from optuna_esgd.store import POPULATION_ATTRIBUTE, identity, tables
from optuna_esgd.store.engines import open_database
from optuna_esgd.store.identity import StudyPlace, create_row
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.store.opening import find_population, open_population
from optuna_esgd.store.schema import ensure_schema
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.store.storages import create_storage
from optuna_esgd.store.transactions import write
from tests.store.studies import SMALL, open_small, start


def _delete(study: optuna.Study) -> None:
    optuna.delete_study(study_name=study.study_name, storage=study._storage)


class TestOnEveryDatabase:
    def test_population_lives_beside_its_study(self, database_url: str) -> None:
        study = optuna.create_study(storage=create_storage(database_url))
        assert find_population(study) is None
        population = open_small(study)
        assert isinstance(population, SqlPopulation)
        assert str(population.database) == str(open_database(database_url))
        assert open_small(study) is population
        again = optuna.load_study(study_name=study.study_name, storage=database_url)
        assert study.user_attrs[POPULATION_ATTRIBUTE] == population.uuid
        assert open_small(again).uuid == population.uuid
        found = find_population(again)
        assert found is not None
        assert found.uuid == population.uuid

    def test_deleted_study_leaves_nothing_to_its_successor(self, database_url: str) -> None:
        """SQLite gives the deleted study's id to the next one."""
        storage = create_storage(database_url)
        first = optuna.create_study(storage=storage, study_name="digits")
        old = open_small(first)
        start(old)
        _delete(first)
        assert not optuna.get_all_study_names(storage)
        second = optuna.create_study(storage=storage, study_name="digits")
        new = open_small(second)
        assert new.uuid != old.uuid
        assert new.facts().generation == -1
        if database_url.startswith("sqlite"):
            assert second._study_id == first._study_id

    def test_renamed_study_keeps_its_population(self, database_url: str) -> None:
        """Optuna's dashboard renames by copying and deleting."""
        storage = create_storage(database_url)
        first = optuna.create_study(storage=storage, study_name="before")
        population = open_small(first)
        start(population)
        copy_study(storage, "before", "after")
        _delete(first)
        renamed = optuna.load_study(study_name="after", storage=storage)
        assert open_small(renamed).uuid == population.uuid
        assert open_small(optuna.load_study(study_name="after", storage=database_url)).facts()

    def test_copied_study_is_refused(self, database_url: str) -> None:
        storage = create_storage(database_url)
        start(open_small(optuna.create_study(storage=storage, study_name="original")))
        copy_study(storage, "original", "copy")
        copied = optuna.load_study(study_name="copy", storage=storage)
        with pytest.raises(StudyError, match="'copy' is a copy of study 'original'"):
            open_small(copied)
        with pytest.raises(StudyError, match="copy"):
            find_population(copied)
        assert open_small(optuna.load_study(study_name="original", storage=storage))

    def test_study_copied_to_another_database_is_refused(
        self, database_url: str, tmp_path: Path
    ) -> None:
        storage = create_storage(database_url)
        study = optuna.create_study(storage=storage, study_name="digits")
        start(open_small(study))
        elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
        optuna.copy_study(
            from_study_name="digits", from_storage=storage, to_storage=create_storage(elsewhere)
        )
        copied = optuna.load_study(study_name="digits", storage=elsewhere)
        with pytest.raises(StudyError, match="pruned, or live in another database"):
            open_small(copied)

    def test_workers_starting_together_share_one_population(self, database_url: str) -> None:
        create_storage(database_url)
        optuna.create_study(storage=database_url, study_name="digits")
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(3) as pool:
            uuids = pool.map(_open_in_process, [database_url] * 3)
        assert len(set(uuids)) == 1


class TestConfiguration:
    def test_seed_is_drawn_once_and_kept(self, tmp_path: Path) -> None:
        study = _new_study(tmp_path)
        _, first = open_population(study, SMALL, cohort_size=2)
        _, again = open_population(_reload(study, tmp_path), SMALL, cohort_size=2)
        assert first.seed == again.seed
        _, other = open_population(_new_study(tmp_path), SMALL, cohort_size=2)
        assert other.seed != first.seed

    def test_given_seed_must_be_the_stored_one(self, tmp_path: Path) -> None:
        study = _new_study(tmp_path)
        open_population(study, replace(SMALL, seed=7), cohort_size=2)
        _, unseeded = open_population(_reload(study, tmp_path), SMALL, cohort_size=2)
        assert unseeded.seed == 7
        with pytest.raises(ConfigurationError, match="seed is 7 in the study and 8 here"):
            open_population(_reload(study, tmp_path), replace(SMALL, seed=8), cohort_size=2)

    def test_cohort_size_is_the_stored_one_where_none_is_given(self, tmp_path: Path) -> None:
        study = _new_study(tmp_path)
        assert open_population(study, SMALL, cohort_size=2)[1].cohort_size == 2
        again = _reload(study, tmp_path)
        assert open_population(again, SMALL, cohort_size=None)[1].cohort_size == 2
        with pytest.raises(ConfigurationError, match="cohort_size is 2"):
            open_population(again, SMALL, cohort_size=3)
        fresh = _new_study(tmp_path)
        assert open_population(fresh, SMALL, cohort_size=None)[1].cohort_size == 4

    @pytest.mark.parametrize("changed", [{"population_size": 6}, {"preset": "paper"}])
    def test_other_settings_are_refused_each_time(
        self, tmp_path: Path, changed: dict[str, int]
    ) -> None:
        """Also where the population is open already."""
        study = _new_study(tmp_path)
        open_small(study)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="another configuration"):
                open_population(study, replace(SMALL, **changed), cohort_size=2)

    def test_what_may_differ_is_taken_as_given(self, tmp_path: Path) -> None:
        study = _new_study(tmp_path)
        open_small(study)
        _, longer = open_population(study, replace(SMALL, n_generations=99), cohort_size=2)
        assert longer.n_generations == 99

    def test_direction_is_the_studys(self, tmp_path: Path) -> None:
        study = optuna.create_study(storage=_url(tmp_path), direction="maximize")
        assert open_population(study, SMALL, cohort_size=2)[1].maximize

    def test_impossible_settings_make_nothing(self, tmp_path: Path) -> None:
        study = _new_study(tmp_path)
        with pytest.raises(ConfigurationError, match="population_size"):
            open_population(study, Settings(population_size=1), cohort_size=1)
        assert find_population(study) is None

    def test_several_objectives_are_refused(self) -> None:
        study = optuna.create_study(directions=["minimize", "maximize"])
        with pytest.raises(StudyError, match="needs one objective"):
            open_small(study)


class TestInMemory:
    @pytest.mark.parametrize("url", [None, "sqlite://", "sqlite:///:memory:"])
    def test_study_in_memory_has_its_population_there(self, url: str | None) -> None:
        study = optuna.create_study(storage=url)
        assert find_population(study) is None
        population = open_small(study)
        assert isinstance(population, MemoryPopulation)
        start(population)
        other = optuna.load_study(study_name=study.study_name, storage=study._storage)
        assert open_small(other) is population
        assert find_population(other) is population

    def test_cached_and_bare_storage_are_the_same(self) -> None:
        """Optuna wraps a storage anew for every study."""
        storage = create_storage("sqlite://")
        study = optuna.create_study(storage=storage)
        again = optuna.load_study(study_name=study.study_name, storage=storage)
        assert open_small(study) is open_small(again)

    def test_threads_share_one_population(self) -> None:
        storage = optuna.storages.InMemoryStorage()
        optuna.create_study(storage=storage, study_name="digits")
        barrier = threading.Barrier(4)

        def open_one(_: int) -> str:
            study = optuna.load_study(study_name="digits", storage=storage)
            barrier.wait()
            return open_small(study).uuid

        with ThreadPoolExecutor(4) as threads:
            assert len(set(threads.map(open_one, range(4)))) == 1

    def test_copied_and_renamed_studies(self) -> None:
        storage = optuna.storages.InMemoryStorage()
        first = optuna.create_study(storage=storage, study_name="before")
        population = open_small(first)
        copy_study(storage, "before", "after")
        with pytest.raises(StudyError, match="copy of study 'before'"):
            open_small(optuna.load_study(study_name="after", storage=storage))
        _delete(first)
        after = optuna.load_study(study_name="after", storage=storage)
        assert open_small(after) is population

    def test_study_copied_from_a_file_is_refused(self, tmp_path: Path) -> None:
        study = optuna.create_study(storage=_url(tmp_path), study_name="digits")
        open_small(study)
        memory = optuna.storages.InMemoryStorage()
        optuna.copy_study(from_study_name="digits", from_storage=study._storage, to_storage=memory)
        with pytest.raises(StudyError, match="process's memory"):
            open_small(optuna.load_study(study_name="digits", storage=memory))

    def test_population_goes_with_its_storage(self) -> None:
        import gc
        import weakref

        study = optuna.create_study()
        population = weakref.ref(open_small(study))
        del study
        gc.collect()
        assert population() is None


class TestOtherPlaces:
    def test_journal_needs_a_store(self, tmp_path: Path) -> None:
        study = optuna.create_study(storage=_journal(tmp_path), study_name="digits")
        with pytest.raises(StudyError, match="store="):
            open_small(study)
        store = f"sqlite:///{tmp_path / 'weights.db'}"
        population = open_small(study, store=store)
        start(population)
        again = optuna.load_study(study_name="digits", storage=_journal(tmp_path))
        assert open_small(again, store=store).uuid == population.uuid
        found = find_population(again, store)
        assert found is not None
        assert found.uuid == population.uuid

    def test_study_in_memory_may_keep_its_weights_in_a_file(self, tmp_path: Path) -> None:
        store = f"sqlite:///{tmp_path / 'weights.db'}"
        population = open_small(optuna.create_study(), store=store)
        assert isinstance(population, SqlPopulation)
        assert open_small(optuna.create_study(), store=store).uuid != population.uuid

    def test_studies_of_two_storages_share_a_store_but_no_population(self, tmp_path: Path) -> None:
        """Their ids are the same, their names as well."""
        store = f"sqlite:///{tmp_path / 'weights.db'}"
        places = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")]
        populations = [
            open_small(optuna.create_study(storage=place, study_name="digits"), store=store)
            for place in places
        ]
        assert populations[0].uuid != populations[1].uuid
        start(populations[0])
        assert populations[1].facts().generation == -1

    def test_store_may_name_the_studys_own_database(self, tmp_path: Path) -> None:
        study = _new_study(tmp_path)
        population = open_small(study, store=_url(tmp_path))
        assert open_small(_reload(study, tmp_path)).uuid == population.uuid

    def test_wrong_store_is_refused(self, tmp_path: Path) -> None:
        study = _new_study(tmp_path)
        open_small(study)
        other = f"sqlite:///{tmp_path / 'other.db'}"
        with pytest.raises(StorageError, match="no database file"):
            open_small(_reload(study, tmp_path), store=other)
        create_storage(other)
        with pytest.raises(StudyError, match="live in another database"):
            open_small(_reload(study, tmp_path), store=other)

    def test_file_made_by_optuna_alone_is_as_good(self, tmp_path: Path) -> None:
        study = optuna.create_study(storage=optuna.storages.RDBStorage(_url(tmp_path)))
        start(open_small(study))
        assert study.trials == []

    def test_process_that_changes_its_folder_finds_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        study = optuna.create_study(storage="sqlite:///here.db")
        (tmp_path / "below").mkdir()
        monkeypatch.chdir(tmp_path / "below")
        population = open_small(study)
        assert isinstance(population, SqlPopulation)
        assert population.database.url.database == str(tmp_path / "here.db")
        assert not list((tmp_path / "below").iterdir())


class TestCreation:
    """The protocol step by step, as two workers may interleave."""

    def test_row_of_a_worker_that_died_is_adopted(self, tmp_path: Path) -> None:
        study, place = _place(tmp_path)
        database = open_database(_url(tmp_path))
        configuration = SMALL.configure(seed=1, cohort_size=2, maximize=False)
        uuid, _ = create_row(database, place, configuration.to_json())
        _remove_attribute(study)
        population, mine = open_population(study, SMALL, cohort_size=2)
        assert population.uuid == uuid == study.user_attrs[POPULATION_ATTRIBUTE]
        assert mine.seed == 1

    def test_row_of_a_deleted_study_is_not(self, tmp_path: Path) -> None:
        """It has a plan, or a layout, and no study says it is its own."""
        for use in (start, lambda population: population.check_layout("{}")):
            study, place = _place(tmp_path)
            database = open_database(_url(tmp_path))
            configuration = SMALL.configure(seed=1, cohort_size=2, maximize=False)
            uuid, stored = create_row(database, place, configuration.to_json())
            use(SqlPopulation(database, uuid, stored))
            _remove_attribute(study)
            assert open_small(study).uuid != uuid
            assert study.user_attrs[POPULATION_ATTRIBUTE] != uuid

    def test_unused_row_with_other_settings_is_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody would have said by now that it is theirs."""
        monkeypatch.setattr(identity, "_ADOPTION_SECONDS", 0.1)
        study, place = _place(tmp_path)
        database = open_database(_url(tmp_path))
        other = replace(SMALL, population_size=8).configure(seed=1, cohort_size=2, maximize=False)
        uuid, _ = create_row(database, place, other.to_json())
        _remove_attribute(study)
        assert open_small(study).uuid != uuid

    def test_worker_with_other_settings_is_waited_for(self, tmp_path: Path) -> None:
        """It has made its row and is just about to say so."""
        study, place = _place(tmp_path)
        database = open_database(_url(tmp_path))
        other = replace(SMALL, population_size=8).configure(seed=1, cohort_size=2, maximize=False)
        uuid, _ = create_row(database, place, other.to_json())
        _remove_attribute(study)
        late = threading.Timer(0.5, place.set_uuid, [uuid])
        late.start()
        with pytest.raises(ConfigurationError, match="population_size is 8"):
            open_small(study)
        late.join()

    def test_renamed_study_takes_the_place_of_a_deleted_one(self, tmp_path: Path) -> None:
        """Its new id may be one that a forgotten row still holds."""
        storage = create_storage(_url(tmp_path))
        first = optuna.create_study(storage=storage, study_name="before")
        population = open_small(first)
        second = optuna.create_study(storage=storage, study_name="doomed")
        doomed = open_small(second)
        start(doomed)
        _delete(second)
        copy_study(storage, "before", "after")
        _delete(first)
        after = optuna.load_study(study_name="after", storage=storage)
        assert after._study_id == second._study_id
        assert open_small(after).uuid == population.uuid


def copy_study(storage: optuna.storages.BaseStorage, source: str, target: str) -> None:
    optuna.copy_study(
        from_study_name=source, from_storage=storage, to_storage=storage, to_study_name=target
    )


def _open_in_process(url: str) -> str:
    study = optuna.load_study(study_name="digits", storage=url)
    return open_small(study).uuid


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'esgd.db'}"


def _new_study(folder: Path) -> optuna.Study:
    return optuna.create_study(storage=create_storage(_url(folder)))


def _reload(study: optuna.Study, folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=study.study_name, storage=_url(folder))


def _journal(folder: Path) -> optuna.storages.JournalStorage:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    return optuna.storages.JournalStorage(backend)


def _place(folder: Path) -> tuple[optuna.Study, StudyPlace]:
    study = _new_study(folder)
    ensure_schema(open_database(_url(folder)))
    return study, StudyPlace(study._storage, study._study_id, study.study_name, "")


def _remove_attribute(study: optuna.Study) -> None:
    """As if the worker had died before it could set it."""
    backend = study._storage._backend  # type: ignore[attr-defined]
    with backend.engine.begin() as connection:
        connection.execute(
            sa.text("DELETE FROM study_user_attributes WHERE study_id = :study AND key = :key"),
            {"study": study._study_id, "key": POPULATION_ATTRIBUTE},
        )


def test_pruned_while_open_is_said_so(tmp_path: Path) -> None:
    population = open_small(_new_study(tmp_path))
    assert isinstance(population, SqlPopulation)
    write(population.database, lambda c: c.execute(sa.delete(tables.study)))
    with pytest.raises(StudyError, match="deleted while it was open"):
        start(population)
