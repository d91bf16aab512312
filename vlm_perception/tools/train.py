"""Render rooms and train the nano model on them, from nothing. Hours on two cores; it can be interrupted."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rooms", type=int, default=4200, help="rooms to render (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4000, help="training steps in all (default: %(default)s)")
    parser.add_argument(
        "--eyes-steps", type=int, default=2000, help="of these, steps for the vision tower alone (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images per step (default: %(default)s)")
    parser.add_argument(
        "--learning-rate", type=float, default=1e-3, help="highest learning rate (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and order (default: %(default)s)")
    parser.add_argument(
        "--start-from", type=Path, help="folder of a trained model to start from, instead of random weights"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("output/rooms"), help="folder of the rendered rooms (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output/nano"), help="folder of the model (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Render what is missing, train from the last checkpoint on, save the model; prints progress."""
    import mujoco  # noqa: F401 - its lack would show in the processes that render
    from tqdm import tqdm

    from vlm_perception.tools.output import check_output
    from vlm_perception.training.dataset import TRAIN_SEEDS, render, shard_paths
    from vlm_perception.training.loop import train

    say = tqdm.write  # above the bar

    if not 1 <= arguments.rooms <= len(TRAIN_SEEDS):
        print(f"vlm_perception train: {arguments.rooms} rooms, expected 1 to {len(TRAIN_SEEDS)}")
        return 2
    try:
        check_output(arguments.output)
    except OSError as error:
        print(f"vlm_perception train: {error}")
        return 1
    first = TRAIN_SEEDS[0]
    shards = [path for path, _ in shard_paths(arguments.data, first, arguments.rooms)]
    say(f"rendering {arguments.rooms} rooms into {arguments.data}")
    there = sum(path.exists() for path in shards)
    made = render(arguments.data, first, arguments.rooms)
    for _ in tqdm(made, "rendering", total=len(shards), initial=there, unit="shard", disable=None):
        pass
    train(
        shards,
        arguments.output,
        steps=arguments.steps,
        eyes_steps=arguments.eyes_steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        report=say,
        checkpoint=arguments.output.with_suffix(".checkpoint"),
        start_from=arguments.start_from,
    )
    say(f"saved {arguments.output}; `vlm_perception figures --model {arguments.output}` measures it")
    return 0
