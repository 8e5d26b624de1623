"""`plca recipes`."""

from argparse import Namespace

from plca_dist.cli.options import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "recipes",
        run,
        "list the shipped recipes and search spaces, with their cost",
        """
plca recipes
plca recipes --keys""",
        """A recipe is what `plca train` takes; a space says what `plca tune` varies in one. Recipes are listed with the
        score to expect.""",
    )
    parser.add_argument("--keys", action="store_true", help="list every key that --set can change, and its default")


def run(parsed: Namespace) -> None:
    if parsed.keys:
        _print_keys()
        return
    from plca_dist.methods import PAPER, methods
    from plca_dist.recipe import load, recipes
    from plca_dist.search.space import load_space, spaces

    print("recipes, for `plca train RECIPE`:")
    for name in recipes():
        recipe = load(name).about
        print(f"\n{name}: {recipe.summary}")
        print(f"  command  {recipe.command}\n  cost     {recipe.cost}\n  score    {recipe.score}")
    print("\nmethods, for `plca train RECIPE/METHOD`:")
    for chosen in methods().values():
        print(f"\n{chosen.name}: {chosen.summary}")
        if chosen.needs_source:
            print("  begins with source-only weights: --set model.weights=RUN")
        for name in PAPER:
            about = load(f"{name}/{chosen.name}").about
            print(f"  command  {about.command}\n  score    {about.score}")
    print("\nspaces, for `plca tune SPACE --recipe RECIPE`:")
    for name in spaces():
        space = load_space(name).about
        print(f"\n{name}: {space.summary}\n  cost     {space.cost}")


def _print_keys() -> None:
    from plca_dist.recipe import documented_keys

    for key, description, default in documented_keys():
        print(f"{key:32s} {description}{'' if default in (None, '', {}) else f' Default: {_text(default)}'}")


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
