"""TD errors, and the doors to stable-baselines3 and TorchRL."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect.replay import TransitionRing, sb3, td_errors, td_targets
from recollect.replay import torchrl as torchrl_door


def test_td_errors_are_those_of_the_definition() -> None:
    ring = TransitionRing(7, (2,), gamma=0.9)
    rng = np.random.default_rng(0)
    for i in range(11):
        ring.add(rng.normal(size=2), i % 3, i / 3, rng.normal(size=2), i % 4 == 3, i % 5 == 4)
    online, target = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    online, target = online.requires_grad_(False), target.requires_grad_(False)
    batch = ring.gather(np.arange(7))
    for double in (False, True):
        found = td_errors(ring, online, target, double=double, chunk=3)
        for i in range(7):
            following = torch.from_numpy(batch.following[i])
            action = (online if double else target)(following).argmax()
            goal = batch.rewards[i] + batch.discounts[i] * float(target(following)[action])
            value = float(online(torch.from_numpy(batch.observations[i]))[batch.actions[i]])
            assert found[i] == pytest.approx(abs(goal - value), rel=1e-5)
    assert (td_targets(batch, target)[batch.discounts == 0].numpy() == batch.rewards[
        batch.discounts == 0
    ]).all()  # fmt: skip
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        td_errors(ring, online, target, chunk=0)
    with pytest.raises(ValueError, match="the ring is empty"):
        td_errors(TransitionRing(3, (2,)), online, target)


def stored(n_envs=1, size=12, count=20, **options):
    """A buffer of numbered transitions: observation = 100 * env + time."""
    gym = pytest.importorskip("gymnasium")
    pytest.importorskip("stable_baselines3")
    space = gym.spaces.Box(-1e6, 1e6, (1,), np.float32)
    buffer = sb3.IntrospectiveReplayBuffer(
        size * n_envs, space, gym.spaces.Discrete(2), "cpu", n_envs=n_envs, **options
    )
    for t in range(count):
        now = np.array([[100.0 * e + t] for e in range(n_envs)], np.float32)
        info = [{"TimeLimit.truncated": t % 7 == 6}] * n_envs
        done = np.full(n_envs, t % 7 == 6 or t % 5 == 4)
        buffer.add(now, now + 0.5, np.zeros(n_envs), np.ones(n_envs), done, info)
    return buffer


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("count", [9, 20])
def test_the_buffer_looks_back_in_one_environment(n_envs, count) -> None:
    buffer = stored(n_envs, count=count)
    n = buffer.size()
    surprise = np.random.default_rng(1).random((n, n_envs))
    buffer.begin_phase(surprise, 4, 5)
    order = np.argsort(-surprise.ravel())
    for pivot in order[:5]:
        time, env = divmod(int(pivot), n_envs)
        time = max(time, 3) + count - n
        found = buffer.sample(4)
        assert found.observations[:, 0].tolist() == [100.0 * env + time - k for k in range(4)]
        assert found.next_observations[0, 0] == 100.0 * env + time + 0.5
    everything = buffer.gather(np.arange(n), np.zeros(n, int))
    times = np.arange(count - n, count)
    terminal = (times % 5 == 4) & (times % 7 != 6)  # truncation bootstraps
    assert everything.dones[:, 0].tolist() == terminal.astype(float).tolist()


def test_the_buffer_refuses() -> None:
    buffer = stored()
    with pytest.raises(RuntimeError, match="callback=IntrospectionCallback"):
        buffer.sample(4)
    with pytest.raises(ValueError, match=r"surprise must have shape \(12, 1\), got \(5,\)"):
        buffer.begin_phase(np.ones(5), 4, 2)
    buffer.begin_phase(np.ones((12, 1)), 4, 2)
    with pytest.raises(RuntimeError, match="begun for batches of 4, got 5"):
        buffer.sample(5)
    with pytest.raises(ValueError, match="'per' needs a weighted loss"):
        stored(mode="per")
    with pytest.raises(ValueError, match="optimize_memory_usage must be off"):
        stored(optimize_memory_usage=True)
    with pytest.raises(ValueError, match="mode must be one of"):
        stored(mode="best")
    with pytest.raises(ValueError, match="num_pivots must be at least 1"):
        sb3.IntrospectionCallback(0)
    with pytest.raises(TypeError, match="TD error of object is not known"):
        sb3.model_surprise(object(), None)


def quiet(model):
    """The model with a logger that neither prints nor makes a folder."""
    model.set_logger(pytest.importorskip("stable_baselines3.common.logger").Logger(None, []))
    return model


@pytest.mark.filterwarnings("ignore")
def test_dqn_learns_through_the_callback() -> None:
    gym = pytest.importorskip("gymnasium")
    library = pytest.importorskip("stable_baselines3")

    def make(buffer):
        return quiet(library.DQN(
            "MlpPolicy", gym.make("CartPole-v1"), replay_buffer_class=buffer, seed=0,
            learning_starts=64, train_freq=16, gradient_steps=4, batch_size=8, device="cpu",
            policy_kwargs={"net_arch": [16]},
        ))  # fmt: skip

    model = make(sb3.IntrospectiveReplayBuffer)
    before = [p.clone() for p in model.q_net.parameters()]
    model.learn(400, callback=sb3.IntrospectionCallback(num_pivots=8))
    assert any((a != b).any() for a, b in zip(before, model.q_net.parameters(), strict=True))
    assert model.replay_buffer.phases == 11  # 21 trainings of 4 steps, 8 steps a phase
    with pytest.raises(TypeError, match="replay_buffer_class=IntrospectiveReplayBuffer"):
        make(None).learn(100, callback=sb3.IntrospectionCallback())


@pytest.mark.filterwarnings("ignore")
def test_td3_learns_through_the_callback() -> None:
    gym = pytest.importorskip("gymnasium")
    library = pytest.importorskip("stable_baselines3")
    model = quiet(library.TD3(
        "MlpPolicy", gym.make("Pendulum-v1"), seed=0, learning_starts=50, batch_size=8,
        replay_buffer_class=sb3.IntrospectiveReplayBuffer, device="cpu", train_freq=25,
        gradient_steps=-1, policy_kwargs={"net_arch": [8]},
    ))  # fmt: skip
    model.learn(150, callback=sb3.IntrospectionCallback())
    assert model.replay_buffer.phases == 4


@pytest.mark.filterwarnings("ignore")
def test_torchrl_looks_back_within_its_ring(tmp_path) -> None:
    data = pytest.importorskip("torchrl.data")
    sampler = torchrl_door.LookBackSampler(3)
    rb = data.ReplayBuffer(storage=data.LazyTensorStorage(10), sampler=sampler, batch_size=4)
    rb.extend(torch.arange(7))
    rb.extend(torch.arange(7, 14))  # the ring now holds 10 11 12 13 4 5 6 7 8 9
    rb.add(torch.tensor(14))  # and 14 in place of 4
    priority = torch.zeros(10)
    priority[torch.tensor([1, 6, 7])] = torch.tensor([3.0, 2.0, 1.0])  # 11, 6, 7
    rb.update_priority(torch.arange(10), priority)
    sampler.dumps(tmp_path / "saved")
    found = [rb.sample().tolist() for _ in range(3)]
    assert found == [[11, 10, 9, 8], [8, 7, 6, 5], [8, 7, 6, 5]]  # 5 is the oldest
    other = torchrl_door.LookBackSampler(3)
    other.loads(tmp_path / "saved")
    assert other.sample(rb._storage, 4)[0].tolist() == [1, 0, 9, 8]
    other.load_state_dict(sampler.state_dict())
    assert other.sample(rb._storage, 2)[0].tolist() == [1, 0]
    rb.extend(torch.arange(15, 18))  # three unknown ones: as surprising as the most surprising
    assert rb.sample()[0].item() in (11, 15, 16, 17)
    with pytest.raises(RuntimeError, match="the storage is empty"):
        torchrl_door.LookBackSampler(3).sample([], 4)


def test_missing_libraries_are_named(monkeypatch) -> None:
    monkeypatch.setattr(torchrl_door, "_found", None)
    with pytest.raises(ImportError, match=r"pip install \"recollect\[torchrl\]\""):
        torchrl_door.LookBackSampler(3)
    monkeypatch.setattr(sb3, "_samples", None)
    with pytest.raises(ImportError, match=r"pip install \"recollect\[rl\]\""):
        sb3.IntrospectionCallback()
