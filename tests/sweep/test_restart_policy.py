"""Which of Ray's exceptions count as a lost process, and that Ray Tune still asks the trial about each error."""

import ray.cloudpickle
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.tune.experiment import Experiment
from ray.tune.search import Searcher

from toprung.cluster import Node
from toprung.search.generator import SweepTrialGenerator
from toprung.sweep.restart_policy import MAX_NODE_RESTARTS, RestartPolicy

HERE = [Node("here", "a", {"CPU": 1}, {})]


class Policy(RestartPolicy):
    def __init__(self, *, its_nodes=("here",), nodes=HERE):
        self.epochs, self.reasons = 0, []
        super().__init__(
            get_epochs=lambda trial_id: self.epochs,
            get_nodes=lambda trial_id: its_nodes,
            list_nodes=lambda: nodes,
            on_restart=lambda trial_id, reason: self.reasons.append(reason),
        )


def _raised(error):
    return RayTaskError("run_trial", "traceback", error)


def _preempted():
    error = ActorDiedError()
    error._preempted = True
    assert error.preempted
    return error


def test_an_exception_of_the_loop_fails_the_trial_at_once():
    policy = Policy()
    assert not policy("a", _raised(ValueError("the loop's own")))
    assert not policy("a", RuntimeError("Tune's own"))
    assert policy.reasons == []


def test_a_trial_whose_process_died_restarts_once_per_epoch():
    policy = Policy()
    assert policy("a", ActorDiedError())
    assert not policy("a", ActorDiedError())
    policy.epochs = 1
    assert policy("a", ActorDiedError())
    assert policy("b", ActorDiedError())
    assert set(policy.reasons) == {"its process died"}


def test_a_death_that_is_reported_by_several_calls_counts_once():
    policy, death = Policy(), ActorDiedError()
    death.actor_id = "1f"
    assert [policy("a", death) for _ in range(3)] == [True] * 3
    assert policy.reasons == ["its process died"]
    next_death = ActorDiedError()
    next_death.actor_id = "2f"
    assert [policy("a", next_death) for _ in range(2)] == [False] * 2


def test_a_lost_node_is_recognised_by_being_unreachable_preempted_or_not_listed():
    lost = Policy(its_nodes=("there",))
    assert lost("a", ActorDiedError())
    lost_with_another_rank = Policy(its_nodes=("here", "there"))
    assert lost_with_another_rank("a", ActorDiedError())
    unreachable = Policy()
    assert unreachable("a", ActorUnavailableError("socket closed", None))
    preempted = Policy()
    assert preempted("a", _preempted())
    reasons = [policy.reasons for policy in (lost, lost_with_another_rank, unreachable, preempted)]
    assert reasons == [["its node was lost"]] * 4


def test_a_trial_restarts_often_but_not_forever_after_lost_nodes():
    policy = Policy(its_nodes=("there",))
    again = [policy("a", ActorDiedError()) for _ in range(MAX_NODE_RESTARTS + 1)]
    assert again == [True] * MAX_NODE_RESTARTS + [False]


def test_a_worker_process_that_died_counts_as_lost_too():
    assert Policy()("a", _raised(ActorDiedError()))


def test_an_actor_that_could_not_be_created_is_a_failure():
    assert not Policy()("a", ActorDiedError(_raised(ImportError("no such module"))))


class OneTrial(Searcher):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.requeued, self.completed = [], []

    def suggest(self, trial_id):
        return {"lr": 0.1}

    def original_id(self, drawn):
        return drawn

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.completed.append((trial_id, error))

    def requeue(self, trial_id):
        self.requeued.append(trial_id)


def test_tune_asks_the_trial_itself_about_each_error(tmp_path, monkeypatch):
    """`handle_error` and `should_recover` are Ray Tune's; this test fails if a new Ray stops using them."""
    generator = SweepTrialGenerator(OneTrial(metric="m", mode="max"), should_restart=Policy())
    generator.add_configurations([Experiment("tune", run=lambda config: None, storage_path=str(tmp_path))])
    trial = generator.next_trial()
    monkeypatch.setattr(
        type(trial), "local_path", None
    )  # otherwise it writes the error to a file, which needs a running Ray
    trial.handle_error(ActorDiedError())
    assert trial.should_recover()
    trial.handle_error(_raised(ValueError("the loop's own")))
    assert not trial.should_recover()
    assert trial.get_json_state() == ("{}", "{}")  # neither the restart policy nor anything else is pickled


def test_a_trial_that_tune_ends_although_it_is_to_restart_is_created_again(tmp_path, monkeypatch):
    searcher = OneTrial(metric="m", mode="max")
    generator = SweepTrialGenerator(searcher, should_restart=Policy())
    generator.add_configurations([Experiment("tune", run=lambda config: None, storage_path=str(tmp_path))])
    trial = generator.next_trial()
    monkeypatch.setattr(type(trial), "local_path", None)
    assert generator.is_finished()
    trial.handle_error(ActorDiedError())
    generator.on_trial_complete(trial.trial_id, error=True)
    assert (searcher.requeued, searcher.completed) == ([trial.trial_id], [])
    again = generator.next_trial()
    again.handle_error(_raised(ValueError("the loop's own")))
    generator.on_trial_complete(again.trial_id, error=True)
    assert (searcher.requeued, searcher.completed) == ([trial.trial_id], [(again.trial_id, True)])
    assert generator.is_finished()


def test_what_tune_pickles_of_a_sweep_does_not_contain_the_policy():
    policy = Policy()
    policy.reasons.append(open)  # cannot be pickled by value
    assert vars(ray.cloudpickle.loads(ray.cloudpickle.dumps(policy))) == {}
