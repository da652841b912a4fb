"""Regularized evolution (Real et al. 2019, arXiv 1802.01548), and NSGA-II by Optuna, over the chain space."""

from __future__ import annotations

import json
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from datasets.checks import check_choice, check_positive
from datasets.progress import track
from methods.compression.files import write_json
from methods.compression.nas.chain_space import ChainSpace, seeded_network
from methods.compression.nas.latency_table import LatencyTable, additivity, table_for
from methods.compression.optional import import_optional
from methods.compression.stage import BUILT, Context, Stage
from methods.compression.training import Recipe

log = logging.getLogger(__name__)
A = TypeVar("A")
History = list[tuple[A, float]]


def regularized_evolution(
    draw: Callable[[random.Random], A],
    mutate: Callable[[A, random.Random], A],
    fitness: Callable[[A], float],
    *,
    budget: int,
    population: int = 100,
    sample: int = 25,
    allowed: Callable[[A], bool] = lambda _: True,
    seed: int = 0,
    attempts: int = 1000,
) -> History:
    """Evolve a population whose oldest member dies in every cycle, and return all that was evaluated, in order.

    In a cycle the best of a random sample (with replacement) has a child by one mutation.

    Args:
        draw: returns a random architecture.
        mutate: returns a mutated copy.
        fitness: returns the value of an architecture, larger being better.
        budget: number of evaluations.
        population: size of the population.
        sample: size of a sample.
        allowed: whether an architecture meets the constraint; others are drawn anew.
        seed: seed.
        attempts: draws for one architecture after which the constraint is said to be out of reach.

    Raises:
        ValueError: no architecture meets the constraint.
    """
    rng = random.Random(seed)
    members: deque[tuple[A, float]] = deque()
    history: History = []

    def admitted(make: Callable[[], A]) -> A:
        for _ in range(attempts):
            candidate = make()
            if allowed(candidate):
                return candidate
        raise ValueError(f"none of {attempts} architectures meets the constraint; loosen it")

    for done in track(range(budget), "evaluated architectures"):
        if done < population:
            child = admitted(lambda: draw(rng))
        else:
            parent = max((members[rng.randrange(len(members))] for _ in range(sample)), key=lambda member: member[1])
            child = admitted(lambda parent=parent: mutate(parent[0], rng))  # type: ignore[misc]
        members.append((child, fitness(child)))
        history.append(members[-1])
        if len(members) > population:
            members.popleft()
    return history


def nsga2(
    space: ChainSpace,
    image_size: int,
    evaluate: Callable[[tuple[str, ...]], tuple[float, float]],
    budget: int,
    population: int = 50,
    seed: int = 0,
) -> list[tuple[tuple[str, ...], float, float]]:
    """Search by Optuna's NSGA-II for high accuracy and low latency; return the Pareto front.

    Args:
        space: space.
        image_size: side of the images.
        evaluate: returns accuracy and latency of an architecture.
        budget: number of evaluations.
        population: size of a generation.
        seed: seed.

    Returns:
        Architecture, accuracy, latency of each member of the front.
    """
    optuna = import_optional("optuna", "optuna", "nas_evo with engine=nsga2")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    places = space.places(image_size)
    for _ in track(range(budget), "evaluated architectures"):
        trial = study.ask()
        architecture = tuple(trial.suggest_categorical(f"block{i}", space.choices(p)) for i, p in enumerate(places))
        study.tell(trial, evaluate(architecture))
    return [
        (tuple(t.params[f"block{i}"] for i in range(len(places))), t.values[0], t.values[1]) for t in study.best_trials
    ]


class EvolutionarySearch(Stage):
    """Search the chain space by evolution under a bound of the predicted latency, then train the best architecture.

    The fitness of an architecture is its accuracy on held-out (else training) images after a short training.

    Args:
        engine: regularized (evolution by age), nsga2 (Optuna, accuracy against latency), or random (a control).
        budget: number of architectures that are trained shortly.
        population: size of the population.
        sample: size of a sample of the regularized evolution.
        latency_bound_ms: largest latency; None: no bound.
        latency_share: bound as a share of the latency of the slowest architecture, in place of milliseconds.
        lut: file of the latency table; None: measured in the run.
        space: search space.
        proxy_recipe: short training of each architecture.
        recipe: training of the best one.
    """

    first_only = True
    result = BUILT

    def __init__(
        self,
        engine: str = "regularized",
        budget: int = 200,
        population: int = 20,
        sample: int = 5,
        latency_bound_ms: float | None = None,
        latency_share: float | None = None,
        lut: str | None = None,
        space: ChainSpace | None = None,
        proxy_recipe: Recipe | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        check_choice("engine", engine, ("regularized", "nsga2", "random"))
        check_positive("stage", budget=budget, population=population, sample=sample, latency_bound_ms=latency_bound_ms)
        check_positive("stage", latency_share=latency_share)
        self.engine, self.budget, self.population, self.sample = engine, budget, population, sample
        self.latency_bound_ms, self.latency_share, self.lut = latency_bound_ms, latency_share, lut
        self.space, self.proxy_recipe = space or ChainSpace(), proxy_recipe or Recipe(3, 0.05)
        self.recipe = recipe or Recipe(160, 0.1, schedule="step")

    def check(self, network: nn.Module, data: Any) -> None:
        """Check the library that the engine needs."""
        if self.engine == "nsga2":
            import_optional("optuna", "optuna", "nas_evo with engine=nsga2")

    def bound(self, table: LatencyTable, size: int) -> float:
        """Return the largest allowed latency in milliseconds."""
        if self.latency_bound_ms is not None:
            return self.latency_bound_ms
        if self.latency_share is None:
            return float("inf")
        slowest = [max(self.space.operations, key=lambda o: int(o[1:].replace("e", "")))] * len(self.space.places(size))
        return self.latency_share * table.predict(self.space, tuple(slowest), size)

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Search and train."""
        size = context.dims["image_size"]
        table = table_for(self.space, context, self.lut)
        context.numbers |= additivity(table, self.space, context.dims)
        bound = self.bound(table, size)
        file = context.folder / "seen.json" if context.folder else None
        seen: dict[str, float] = json.loads(file.read_text()) if file and file.exists() else {}

        def fitness(architecture: tuple[str, ...]) -> float:
            key = " ".join(architecture)
            if key not in seen:
                proxy = seeded_network(self.space, architecture, context.seed, context.dims).to(context.device)
                context.train(
                    proxy, self.proxy_recipe, label=f"{context.label}, candidate {len(seen) + 1}", checkpoint=None
                )
                seen[key] = context.accuracy(proxy)
                if file is not None:
                    write_json(file, seen)  # the search is drawn by the seed: a resumed one finds its candidates here
            return seen[key]

        best = self._best(fitness, lambda a: table.predict(self.space, a, size), bound, size, context)
        latency = table.predict(self.space, best, size)
        context.numbers |= {"evaluated": len(seen), "predicted_ms": latency, "bound_ms": min(bound, 1e9)}
        log.info("%s: %s, predicted %.3f ms", context.label, " ".join(best), latency)
        final = seeded_network(self.space, best, context.seed, context.dims).to(context.device)
        return context.train(final, self.recipe)

    def _best(
        self,
        fitness: Callable[[tuple[str, ...]], float],
        latency: Callable[[tuple[str, ...]], float],
        bound: float,
        size: int,
        context: Context,
    ) -> tuple[str, ...]:
        if self.engine == "nsga2":
            front = nsga2(
                self.space, size, lambda a: (fitness(a), latency(a)), self.budget, self.population, context.seed
            )
            allowed = [member for member in front if member[2] <= bound]
            if not allowed:
                raise ValueError(
                    f"no member of the Pareto front has a latency of at most {bound:.3f} ms; loosen the bound"
                )
            return max(allowed, key=lambda member: member[1])[0]
        population = self.budget if self.engine == "random" else self.population
        history = regularized_evolution(
            lambda rng: self.space.random(rng, size),
            lambda a, rng: self.space.mutate(a, rng, size),
            fitness,
            budget=self.budget,
            population=population,
            sample=self.sample,
            allowed=lambda a: latency(a) <= bound,
            seed=context.seed,
        )
        return max(history, key=lambda member: member[1])[0]
