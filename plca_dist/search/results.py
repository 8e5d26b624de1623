"""The results of a search: the best recipe, the table of trials, and the page."""

from typing import Any

from plca_dist.report.facts import loss_in_words
from plca_dist.run_files import BEST, PAGE, TABLE
from plca_dist.search.ablation import ablation_table
from plca_dist.search.directory import Search
from plca_dist.search.page import search_page
from plca_dist.search.trials import best, trials_csv, trials_table


def leave_results(search: Search) -> str:
    """Write `best.yaml`, `trials.csv` and `index.html`. Returns the text to print: the table, and where they are."""
    trials, criterion = search.read(), search.space.metric
    store = search.store
    store.write(TABLE, trials_csv(trials).encode())
    facts = {
        "space": search.space.about.summary,
        "recipe": search.base.about.summary,
        "loss of the recipe": loss_in_words(search.base.objective),
        "algorithm": search.space.algorithm,
        "scheduler": _in_words(search.space.model_dump(mode="json")["scheduler"]),
        "steps of a trial": str(search.config(search.any_values()).schedule.steps),
        "seed of the draws": str(search.space.seed),
    }
    page = search_page(
        f"search {search.name}",
        trials=trials,
        criterion=criterion,
        facts=facts,
        logarithmic=[key for key, d in search.space.search.items() if d.name == "loguniform"],
    )
    store.write(PAGE, page.encode())
    lines = [trials_table(trials, criterion)]
    if search.space.variants:
        lines.append(ablation_table(trials).as_text())
    if leader := best(trials, criterion):
        store.write(BEST, search.best_recipe(leader).to_yaml().encode())
        lines.append(f"best    {leader.name}: plca train {store.uri}/{BEST} --name NAME\n")
    lines.append(f"trials  {store.uri}/{TABLE}\npage    {store.uri}/{PAGE}\n")
    return "\n".join(lines)


def _in_words(scheduler: str | dict[str, dict[str, Any]]) -> str:
    """`none`, or `asha, grace 0.125, reduction 3`."""
    if isinstance(scheduler, str):
        return scheduler
    [(name, settings)] = scheduler.items()
    return ", ".join([name, *(f"{key} {value:g}" for key, value in settings.items())])
