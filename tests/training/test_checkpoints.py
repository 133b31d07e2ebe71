"""Checkpoints: the same numbers to the bit, or a refusal that changes nothing on disk."""

import json
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow.training import Checkpoints, Training, checkpoints

from .problems import (
    ADAM,
    KEY,
    OPTIMISERS,
    PER_EPOCH,
    fingerprint,
    least_squares,
    points,
    same,
    start,
    training,
)


def saved_steps(folder):
    return sorted(int(path.name) for path in Path(folder).iterdir() if path.name.isdigit())


def run(folder, epochs=3, *, loop=ADAM, state=None, configuration=None, keep=2, **options):
    """A run in a folder, opened and closed as a process would do."""
    opened = Checkpoints(folder, configuration, seconds=0, keep=keep)
    try:
        begin = loop.init(KEY, start()) if state is None else state
        return loop.run(begin, points(), epochs, checkpoints=opened, **options)
    finally:
        opened.close()


def restored(folder, template=None):
    opened = Checkpoints(folder)
    try:
        return opened.restore(ADAM.init(KEY, start()) if template is None else template)
    finally:
        opened.close()


class PulledPlugError(Exception):
    """The end of a process."""


class Interrupted(Checkpoints):
    """The process ends before or after its save number ``at``."""

    def __init__(self, folder, at, after):
        super().__init__(folder, seconds=0)
        self.left, self.after = at, after

    def save(self, *args, **options):
        self.left -= 1
        if self.left < 0 and not self.after:
            raise PulledPlugError
        done = super().save(*args, **options)
        if self.left < 0:
            raise PulledPlugError
        return done


# --- round trips


def moved(state, seed=0):
    """Every number of a state replaced by another one."""
    rng = np.random.default_rng(seed)

    def other(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            numbers = rng.integers(0, 2**32, jax.random.key_data(x).shape, "uint32")
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(x))
        if x.dtype == bool:
            return jnp.array(rng.integers(0, 2, x.shape), bool)
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.array(rng.integers(1, 100, x.shape), x.dtype)
        return jnp.array(rng.normal(size=x.shape), x.dtype)

    return jax.tree.map(other, state)


def check_round_trip(folder, template):
    state = moved(template)
    history = [{"epoch": 1, "loss": 0.1 + 0.2, "validation": {"loss": float("inf")}}]
    partial = [{"steps": 2, "loss": 1 / 3, "terms": {}}]
    opened = Checkpoints(folder, {"rate": 0.1, "layers": (3, 4)}, seconds=0)
    assert opened.save(state, history, partial)
    opened.close()
    opened = Checkpoints(folder, {"rate": 0.1, "layers": [3, 4]})
    found = opened.restore(template)
    opened.close()
    assert same(found[0], state)
    assert found[1:] == (history, partial)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_comes_back_to_the_bit(name, tmp_path, dtype):
    check_round_trip(tmp_path / "run", training(name).init(KEY, start(dtype)))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "complex64", "complex128"])
def test_other_types_come_back_to_the_bit(kind, tmp_path):
    check_round_trip(tmp_path / "run", training().init(KEY, start(kind)))


@pytest.mark.parametrize("kind", ["rbg", "threefry2x32"])
@pytest.mark.parametrize("seeds", [None, 1, 3])
def test_keys_of_several_seeds_come_back(kind, seeds, tmp_path):
    key = jax.random.key(3, impl=kind)
    if seeds is None:
        template = ADAM.init(key, start())
    else:
        starts = jax.tree.map(lambda x: jnp.stack([x] * seeds), start())
        template = ADAM.init(jax.random.split(key, seeds), starts)
    check_round_trip(tmp_path / "run", template)


def test_numbers_at_the_edges_come_back(tmp_path):
    edges = jnp.array([0.0, -0.0, 5e-324, 1.7976931348623157e308, 1 + 2**-52, np.pi])
    state = ADAM.init(KEY, {"w": edges})
    opened = Checkpoints(tmp_path / "run", seconds=0)
    opened.save(state._replace(step=jnp.array(2**31 - 1, jnp.int32)), [], [])
    found, _, _ = opened.restore(ADAM.init(KEY, {"w": jnp.ones(6)}))
    opened.close()
    assert same(found.parameters, state.parameters)
    assert int(found.step) == 2**31 - 1


def test_an_empty_folder_gives_the_template(tmp_path):
    template = ADAM.init(KEY, start())
    opened = Checkpoints(tmp_path / "new" / "run")
    state, history, partial = opened.restore(template)
    assert opened.latest() is None
    opened.close()
    assert same(state, template)
    assert (history, partial) == ([], [])


def test_nested_trees_come_back(tmp_path):
    tree = {"b": [jnp.ones(2), (jnp.zeros((2, 1)),)], "a": {"c": None, "d": jnp.arange(3.0)}}
    check_round_trip(tmp_path / "run", ADAM.init(KEY, tree))


# --- interruption

EPOCHS, STEPS = 3, 3
CALLS = EPOCHS * -(-PER_EPOCH // STEPS)


def uninterrupted(loop=ADAM):
    return loop.run(loop.init(KEY, start()), points(), EPOCHS, steps_a_call=STEPS)


@pytest.mark.parametrize("after", [False, True])
def test_a_run_interrupted_at_any_call_gives_the_same_numbers(tmp_path, after):
    whole = uninterrupted()
    for at in range(CALLS):
        folder = tmp_path / f"{at}"
        opened = Interrupted(folder, at, after)
        with pytest.raises(PulledPlugError):
            ADAM.run(
                ADAM.init(KEY, start()), points(), EPOCHS, checkpoints=opened, steps_a_call=STEPS
            )
        opened.close()
        assert len(saved_steps(folder)) == min(at + after, 2)
        state, history = run(folder, EPOCHS, steps_a_call=STEPS)
        assert same(state, whole[0])
        assert history == whole[1]


@pytest.mark.parametrize("name", ["adam", "schedule", "several_steps", "plateau", "noise"])
def test_a_run_interrupted_at_every_call_gives_the_same_numbers(name, tmp_path):
    loop = training(name)
    whole = uninterrupted(loop)
    for _ in range(CALLS):
        opened = Interrupted(tmp_path / "run", 0, True)
        with pytest.raises(PulledPlugError):
            loop.run(
                loop.init(KEY, start()), points(), EPOCHS, checkpoints=opened, steps_a_call=STEPS
            )
        opened.close()
    state, history = run(tmp_path / "run", EPOCHS, loop=loop, steps_a_call=STEPS)
    assert same(state, whole[0])
    assert history == whole[1]


def test_several_seeds_are_resumed_to_the_bit(tmp_path):
    keys = jax.random.split(KEY, 3)
    starts = jax.tree.map(lambda x: jnp.stack([x, 2 * x + 1, -x]), start())

    def validate(parameters):
        return {"loss": least_squares(parameters, points())[0]}

    state = ADAM.init(keys, starts)
    options = {"steps_a_call": STEPS, "validate": validate, "patience": 20}
    whole = ADAM.run(state, points(), EPOCHS, **options)
    for epochs in range(1, EPOCHS + 1):
        found = run(tmp_path / "run", epochs, state=state, **options)
    assert same(found[0], whole[0])
    assert found[1] == whole[1]


def test_the_template_only_says_what_the_numbers_are_of(tmp_path):
    run(tmp_path / "run", 2)
    other = jax.tree.map(lambda x: x + 7, start())
    state, _ = run(tmp_path / "run", EPOCHS, state=ADAM.init(jax.random.key(77), other))
    assert same(state, ADAM.run(ADAM.init(KEY, start()), points(), EPOCHS)[0])


# --- when and how many


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_at_most_so_many_checkpoints_stay(tmp_path, keep):
    run(tmp_path / "run", 5, keep=keep)
    assert saved_steps(tmp_path / "run") == [PER_EPOCH * e for e in range(6 - keep, 6)]


def test_a_resumed_run_does_not_pile_up_checkpoints(tmp_path):
    for epochs in range(1, 6):
        run(tmp_path / "run", epochs)
        assert len(saved_steps(tmp_path / "run")) == min(epochs, 2)


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(tmp_path / "run", keep=0)


class Clock:
    """A clock that a test moves by hand."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(checkpoints, "time", types.SimpleNamespace(monotonic=lambda: self.now))


def test_states_are_saved_not_more_often_than_asked(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    opened = Checkpoints(tmp_path / "run", seconds=10)
    state, answers = ADAM.init(KEY, start()), []
    for second in [1, 9, 10, 11, 19, 20, 25, 60, 69, 70]:
        clock.now = 1000.0 + second
        state = state._replace(step=jnp.array(second, jnp.int32))
        if opened.save(state, [], []):
            answers.append(second)
    opened.close()
    assert answers == [10, 20, 60, 70]
    assert saved_steps(tmp_path / "run") == [60, 70]


def test_a_forced_save_does_not_wait(tmp_path, monkeypatch):
    Clock(monkeypatch)
    opened = Checkpoints(tmp_path / "run", seconds=10)
    state = ADAM.init(KEY, start())._replace(step=jnp.array(3, jnp.int32))
    assert not opened.save(state, [], [])
    assert opened.save(state, [], [], force=True)
    assert not opened.save(state, [], [], force=True)
    opened.close()
    assert saved_steps(tmp_path / "run") == [3]


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({}, 5),
        ({"callback": lambda row, state: row["epoch"] == 2}, 2),
        ({"validate": lambda p: {"loss": jnp.ones(())}, "patience": 2}, 3),
    ],
    ids=["epochs", "callback", "patience"],
)
def test_the_end_is_saved_whatever_the_clock_says(tmp_path, monkeypatch, options, epochs):
    Clock(monkeypatch)
    opened = Checkpoints(tmp_path / "run", seconds=1e9)
    state, history = ADAM.run(
        ADAM.init(KEY, start()), points(), 5, checkpoints=opened, steps_a_call=1, **options
    )
    opened.close()
    assert saved_steps(tmp_path / "run") == [PER_EPOCH * epochs]
    found = restored(tmp_path / "run")
    assert same(found[0], state)
    assert found[1:] == (history, [])


# --- another run


def in_float32():
    with jax.enable_x64(False):
        return ADAM.init(jax.random.key(4), jax.tree.map(lambda x: x.astype("float32"), start()))


OTHERS = {
    "wider": (lambda: ADAM.init(KEY, {**start(), "w": jnp.zeros(4)}), r"parameters\['w'\]"),
    "deeper": (lambda: ADAM.init(KEY, {**start(), "v": jnp.zeros(4)}), r"parameters\['v'\]"),
    "optimiser": (lambda: training("sgd").init(KEY, start()), "optimiser"),
    "schedule": (lambda: training("schedule").init(KEY, start()), "optimiser"),
    "float32": (lambda: ADAM.init(KEY, start("float32")), "float64.*float32.*jax_enable_x64"),
    "x64 off": (in_float32, "float64.*float32.*jax_enable_x64"),
    "keys": (lambda: ADAM.init(jax.random.key(4, impl="rbg"), start()), "key"),
    "seeds": (
        lambda: ADAM.init(
            jax.random.split(KEY, 2), jax.tree.map(lambda x: jnp.stack([x, x]), start())
        ),
        r"float\d\d\[\] in it and float\d\d\[2\] in this run",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_other_arrays_is_refused(tmp_path, name):
    make, wanted = OTHERS[name]
    run(tmp_path / "run", 2)
    before = fingerprint(tmp_path)
    with jax.enable_x64(name != "x64 off"), pytest.raises(ValueError, match=wanted) as caught:
        run(tmp_path / "run", 3, state=make())
    assert f"the checkpoint of step {2 * PER_EPOCH} does not fit" in str(caught.value)
    assert "another folder" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"rate": 0.2, "width": 3}, "other rate"),
        ({"rate": 0.1}, "other width"),
        ({"rate": 0.1, "width": 3, "depth": 2}, "other depth"),
        ({"rate": 0.2, "width": 4}, "other rate, width"),
        ({}, "other rate, width"),
        (None, "other rate, width"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, other, named):
    run(tmp_path / "run", 2, configuration={"rate": 0.1, "width": 3})
    before = fingerprint(tmp_path)
    with pytest.raises(ValueError, match=rf"another configuration \({named}\)"):
        run(tmp_path / "run", 3, configuration=other)
    assert fingerprint(tmp_path) == before


def test_a_configuration_equals_itself(tmp_path):
    configuration = {"a": float("nan"), "b": (1, 2), "c": {"d": None}, "e": 0.1 + 0.2}
    for epochs in (1, 2):
        _, history = run(tmp_path / "run", epochs, configuration=configuration)
    assert len(history) == 2


def test_batches_of_another_size_are_refused(tmp_path):
    run(tmp_path / "run", 2, steps_a_call=3)
    before = fingerprint(tmp_path)
    with pytest.raises(ValueError, match="batch"):
        run(tmp_path / "run", 3, loop=training("adam", 4))
    assert fingerprint(tmp_path) == before


def edit_record(folder, **changes):
    path = folder / str(saved_steps(folder)[-1]) / "record" / "metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_later_format_is_refused(tmp_path):
    run(tmp_path / "run", 2)
    edit_record(tmp_path / "run", format=2)
    before = fingerprint(tmp_path)
    with pytest.raises(ValueError, match="format 2, this version reads 1"):
        run(tmp_path / "run", 3)
    assert fingerprint(tmp_path) == before


# --- damage

# orbax leaves unfinished reads of other arrays behind when one of them fails
noisy = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with two checkpoints, the last one inside an epoch, and what it holds."""
    folder = tmp_path_factory.mktemp("good") / "run"
    opened = Interrupted(folder, 4, True)
    with pytest.raises(PulledPlugError):
        ADAM.run(ADAM.init(KEY, start()), points(), EPOCHS, checkpoints=opened, steps_a_call=STEPS)
    opened.close()
    found = restored(folder)
    assert (len(found[1]), len(found[2])) == (2, 1)
    return folder, found


DAMAGES = {
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "flip 1": lambda content: flipped(content, len(content) // 2, 1),
    "flip 255": lambda content: flipped(content, len(content) // 2, 255),
    "flip first": lambda content: flipped(content, 0, 4),
    "flip last": lambda content: flipped(content, len(content) - 1, 4),
}


def flipped(content, place, mask):
    changed = bytearray(content)
    if changed:
        changed[place] ^= mask
    return bytes(changed)


def complaint(folder, found):
    """None if a damaged folder gives the right numbers or a ValueError, and stays as it is."""
    before = fingerprint(folder)
    try:
        again = restored(folder)
    except ValueError as error:
        if "\n" in str(error):
            return f"ValueError of several lines: {error}"
        if str(folder) not in str(error):
            return f"ValueError without the folder: {error}"
    except Exception as error:  # what must not reach a user
        return f"{type(error).__name__}: {error}"
    else:
        if not (same(again[0], found[0]) and again[1:] == found[1:]):
            return "other numbers"
    return None if fingerprint(folder) == before else "changed on disk"


def files(folder):
    return sorted(str(x.relative_to(folder)) for x in folder.rglob("*") if x.is_file())


@noisy
@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_a_damaged_file_gives_the_right_numbers_or_a_refusal(good, tmp_path, damage):
    source, found = good
    complaints, folder = {}, tmp_path / "run"
    for name in files(source):
        shutil.copytree(source, folder)
        if damage == "missing":
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
        complaints[name] = complaint(folder, found)
        shutil.rmtree(folder)
    assert len(complaints) >= 10
    assert {name: what for name, what in complaints.items() if what} == {}


@noisy
def test_a_missing_folder_gives_the_right_numbers_or_a_refusal(good, tmp_path):
    source, found = good
    complaints, folder = {}, tmp_path / "run"
    below = [path.relative_to(source) for path in source.rglob("*") if path.is_dir()]
    for name in [path for path in below if len(path.parts) > 1]:
        shutil.copytree(source, folder)
        shutil.rmtree(folder / name)
        complaints[str(name)] = complaint(folder, found)
        shutil.rmtree(folder)
    assert len(complaints) >= 6
    assert {name: what for name, what in complaints.items() if what} == {}


@noisy
@pytest.mark.parametrize("mask", [1, 2, 32])
def test_any_changed_byte_of_the_record_is_refused_or_harmless(good, tmp_path, mask):
    source, found = good
    folder, complaints = tmp_path / "run", {}
    shutil.copytree(source, folder)
    record = folder / str(saved_steps(source)[-1]) / "record" / "metadata"
    content = record.read_bytes()
    for place in range(mask, len(content), 7):
        record.write_bytes(flipped(content, place, mask))
        what = complaint(folder, found)
        if what:
            complaints[content[max(0, place - 12) : place + 12].decode()] = what
    assert complaints == {}


@noisy
@pytest.mark.parametrize("mask", [1, 128])
def test_any_changed_byte_of_the_numbers_is_refused_or_harmless(good, tmp_path, mask):
    source, found = good
    folder, complaints = tmp_path / "run", {}
    shutil.copytree(source, folder)
    for path in sorted((folder / str(saved_steps(source)[-1]) / "state").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            for place in range(7 * mask % 31, len(content), 31):
                path.write_bytes(flipped(content, place, mask))
                what = complaint(folder, found)
                if what:
                    complaints[f"{path.relative_to(folder)} {place}"] = what
            path.write_bytes(content)
    assert complaints == {}


@noisy
def test_numbers_of_another_checkpoint_are_refused(good, tmp_path):
    source, _ = good
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    older, newer = saved_steps(folder)
    shutil.rmtree(folder / str(newer) / "state")
    shutil.copytree(folder / str(older) / "state", folder / str(newer) / "state")
    before = fingerprint(folder)
    with pytest.raises(ValueError, match=r"damaged.*checksum"):
        restored(folder)
    assert fingerprint(folder) == before


@noisy
def test_a_damaged_run_does_not_start_again(good, tmp_path):
    source, _ = good
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    for path in (folder / str(saved_steps(folder)[-1]) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:20])
    before = fingerprint(folder)
    with pytest.raises(ValueError, match="is damaged"):
        run(folder, EPOCHS)
    assert fingerprint(folder) == before


@noisy
def test_without_a_damaged_checkpoint_the_run_goes_on_from_the_one_before(good, tmp_path):
    source, _ = good
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    older, newer = saved_steps(folder)
    (folder / str(newer) / "record" / "metadata").write_text("{")
    advice = f"delete {folder / str(newer)} to go on from the one before"
    with pytest.raises(ValueError, match="is damaged") as caught:
        run(folder, EPOCHS, steps_a_call=STEPS)
    assert advice in str(caught.value)
    shutil.rmtree(folder / str(newer))
    assert restored(folder)[0].step == older
    state, history = run(folder, EPOCHS, steps_a_call=STEPS)
    whole = uninterrupted()
    assert same(state, whole[0])
    assert history == whole[1]


# --- what a killed save leaves


def leave(folder, step, newest):
    """An unfinished save of a step, with parts of a finished one inside."""
    target = folder / f"{step}.orbax-checkpoint-tmp"
    shutil.copytree(folder / str(newest), target)
    shutil.rmtree(target / "record")
    (target / "record.orbax-checkpoint-tmp").mkdir()
    (target / "_CHECKPOINT_METADATA").write_text("{")


@pytest.mark.parametrize("ahead", [0, 2, 3, 1000])
def test_leftovers_of_a_killed_save_are_ignored(good, tmp_path, ahead):
    source, found = good
    newest = saved_steps(source)[-1]
    for name in ("read", "run"):
        shutil.copytree(source, tmp_path / name)
        leave(tmp_path / name, newest + ahead, newest)
    again = restored(tmp_path / "read")
    assert same(again[0], found[0])
    assert again[1:] == found[1:]
    state, history = run(tmp_path / "run", EPOCHS, steps_a_call=STEPS)
    whole = uninterrupted()
    assert same(state, whole[0])
    assert history == whole[1]
    assert [path.name for path in sorted((tmp_path / "run").iterdir())] == ["11", "12"]


def test_a_killed_first_save_starts_from_the_beginning(good, tmp_path):
    source, _ = good
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    for step in saved_steps(folder):
        (folder / str(step)).rename(folder / f"{step}.orbax-checkpoint-tmp")
    state, history = run(folder, EPOCHS, steps_a_call=STEPS)
    whole = uninterrupted()
    assert same(state, whole[0])
    assert history == whole[1]


def test_files_of_others_are_left_alone(good, tmp_path):
    source, found = good
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "figures").mkdir()
    (folder / "figures" / "a.txt").write_text("mine too")
    assert same(restored(folder)[0], found[0])
    run(folder, EPOCHS, steps_a_call=STEPS)
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "figures" / "a.txt").read_text() == "mine too"


# --- arrays that make trouble


def test_an_array_without_entries_is_saved(tmp_path):
    template = ADAM.init(KEY, {**start(), "none": jnp.zeros((0, 2))})
    check_round_trip(tmp_path / "run", template)


def test_a_resumed_state_is_on_the_device_of_jax(tmp_path):
    run(tmp_path / "run", 1)
    state, _, _ = restored(tmp_path / "run")
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    assert not any(x.weak_type for x in jax.tree.leaves(state) if hasattr(x, "weak_type"))


def test_another_loss_with_the_same_arrays_is_the_users_choice(tmp_path):
    run(tmp_path / "run", 2)
    other = Training(lambda p, b: (least_squares(p, b)[0], {}), optax.adam(0.01), 5)
    _, history = run(tmp_path / "run", 3, loop=other)
    assert [set(row["terms"]) for row in history] == [{"fit", "ridge"}, {"fit", "ridge"}, set()]
