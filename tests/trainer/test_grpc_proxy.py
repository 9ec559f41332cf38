"""Studies behind Optuna's gRPC proxy, with their weights in a database beside it."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest
from optuna.storages import GrpcStorageProxy

import optuna_esgd as esgd
from optuna_esgd.errors import StudyError
from optuna_esgd.store.opening import find_population
from optuna_esgd.store.pruning import prune
from tests.faults.proxies import proxy
from tests.faults.small_run import STUDY, result, run
from tests.faults.workers import end, start
from tests.trainer.studies import make_task

pytest.importorskip("grpc")


def work(port: int, url: str) -> None:
    run(GrpcStorageProxy(host="127.0.0.1", port=port), store=url)


@pytest.fixture
def port(database_url: str) -> Iterator[int]:
    """Of a running proxy."""
    with proxy(database_url) as number:
        yield number


@pytest.mark.slow
def test_workers_share_a_study_through_a_proxy(
    port: int, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    undisturbed = result(run(f"sqlite:///{tmp_path_factory.mktemp('alone')}/a.db"))
    for worker in [start(work, port, database_url) for _ in range(2)]:
        end(worker)
    client = GrpcStorageProxy(host="127.0.0.1", port=port)
    study = optuna.load_study(study_name=STUDY, storage=client)
    assert result(study, database_url) == undisturbed
    with pytest.raises(StudyError, match="store="):
        find_population(study)
    assert prune(client, database_url) == 0
    direct = optuna.load_study(study_name=STUDY, storage=esgd.create_storage(database_url))
    assert result(direct) == undisturbed
    client.close()


@pytest.mark.slow
def test_a_study_that_gets_the_id_of_a_deleted_one_has_its_own_population(
    port: int, database_url: str
) -> None:
    client = GrpcStorageProxy(host="127.0.0.1", port=port)
    trainer = esgd.ESGDTrainer(make_task(), store=database_url)
    trained = []
    for seed in (0, 1):
        study = optuna.create_study(
            storage=client, study_name="again", sampler=esgd.ESGDSampler(4, seed=seed, n_epochs=1)
        )
        study.optimize(trainer, n_trials=4)
        population = find_population(study, database_url)
        assert population is not None
        everyone = population.individuals(generation=0)
        trained.append([one.fitness for one in everyone if one.reference.round == 0])
        optuna.delete_study(study_name="again", storage=client)
    assert all(len(fitness) == 4 and None not in fitness for fitness in trained)
    assert trained[0] != trained[1]
    client.close()
