"""Which errors of a trial are losses, on Ray's own exceptions; and that Tune still asks the trial about each error."""

import ray.cloudpickle
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.tune.experiment import Experiment
from ray.tune.search import Searcher

from toprung.cluster import Node
from toprung.search.generator import SweepTrialGenerator
from toprung.sweep.restart_policy import MAX_NODE_RESTARTS, RestartPolicy

HERE = [Node("here", "a", {"CPU": 1}, {})]


class Judge(RestartPolicy):
    def __init__(self, *, its_nodes=("here",), nodes=HERE):
        self.epochs, self.told = 0, []
        super().__init__(
            get_epochs=lambda trial_id: self.epochs,
            get_nodes=lambda trial_id: its_nodes,
            list_nodes=lambda: nodes,
            on_restart=lambda trial_id, what: self.told.append(what),
        )


def _raised(error):
    return RayTaskError("run_trial", "traceback", error)


def _preempted():
    error = ActorDiedError()
    error._preempted = True
    assert error.preempted
    return error


def test_an_exception_of_the_loop_is_a_failure_at_once():
    judge = Judge()
    assert not judge("a", _raised(ValueError("the loop's own")))
    assert not judge("a", RuntimeError("Tune's own"))
    assert judge.told == []


def test_a_process_that_died_is_given_one_more_chance_an_epoch():
    judge = Judge()
    assert judge("a", ActorDiedError())
    assert not judge("a", ActorDiedError())
    judge.epochs = 1
    assert judge("a", ActorDiedError())
    assert judge("b", ActorDiedError())
    assert set(judge.told) == {"its process died"}


def test_a_lost_node_is_told_by_what_cannot_be_reached_by_notice_or_by_the_list_of_nodes():
    gone = Judge(its_nodes=("there",))
    assert gone("a", ActorDiedError())
    gone_with_another_rank = Judge(its_nodes=("here", "there"))
    assert gone_with_another_rank("a", ActorDiedError())
    unreachable = Judge()
    assert unreachable("a", ActorUnavailableError("socket closed", None))
    noticed = Judge()
    assert noticed("a", _preempted())
    told = [each.told for each in (gone, gone_with_another_rank, unreachable, noticed)]
    assert told == [["its node was lost"]] * 4


def test_lost_nodes_are_forgiven_often_but_not_for_ever():
    judge = Judge(its_nodes=("there",))
    again = [judge("a", ActorDiedError()) for _ in range(MAX_NODE_RESTARTS + 1)]
    assert again == [True] * MAX_NODE_RESTARTS + [False]


def test_a_worker_that_died_below_a_trial_is_a_loss_too():
    assert Judge()("a", _raised(ActorDiedError()))


def test_an_actor_that_could_not_be_made_is_a_failure():
    assert not Judge()("a", ActorDiedError(_raised(ImportError("no such module"))))


class OneTrial(Searcher):
    def suggest(self, trial_id):
        return {"lr": 0.1}

    def original_id(self, drawn):
        return drawn

    def on_trial_complete(self, trial_id, result=None, error=False):
        pass


def test_tune_asks_the_trial_itself_about_each_error(tmp_path, monkeypatch):
    """`handle_error` and `should_recover` are Tune's; where a new Ray asks otherwise, it shows here."""
    generator = SweepTrialGenerator(OneTrial(metric="m", mode="max"), should_restart=Judge())
    generator.add_configurations([Experiment("tune", run=lambda config: None, storage_path=str(tmp_path))])
    trial = generator.next_trial()
    monkeypatch.setattr(type(trial), "local_path", None)  # a file for the error's text: Ray must run for it
    trial.handle_error(ActorDiedError())
    assert trial.should_recover()
    trial.handle_error(_raised(ValueError("the loop's own")))
    assert not trial.should_recover()
    assert "should_restart" not in str(trial.get_json_state())


def test_what_tune_writes_down_of_a_sweep_holds_no_judge():
    judge = Judge()
    judge.told.append(open)  # cannot be pickled by value
    assert vars(ray.cloudpickle.loads(ray.cloudpickle.dumps(judge))) == {}
