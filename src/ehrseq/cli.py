"""The command line: thin, and quick to answer, since heavy libraries are imported only where they are needed."""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click

from ehrseq import __version__
from ehrseq.errors import EhrseqError

_OVERRIDES = """
Settings are given as Hydra overrides: `group=option` (model=gru), `key=value` (optim.optimizer.lr=3e-4). `ehrseq
config` prints the composed settings, `ehrseq config --groups` every group with its options.
"""


def _complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completion of override words: groups and their options, then keys."""
    from ehrseq.config.load import groups, override_keys

    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={option}" for option in groups().get(key, []) if option.startswith(value)]
    return [f"{name}=" for name in override_keys() if name.startswith(incomplete)]


def _command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every command with settings has, and one clear message for every error a user can mend."""

    @click.argument("overrides", nargs=-1, shell_complete=_complete)
    @click.option(
        "--config-dir", type=click.Path(path_type=Path), help="A folder of your own with more config options."
    )
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @wraps(function)
    def wrapped(debug: bool, **arguments: Any) -> Any:
        try:
            return function(**arguments)
        except EhrseqError as error:
            if debug:
                raise
            _fail(f"error: {error}", error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted", 130)

    return wrapped


def _fail(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ehrseq")
def main() -> None:
    r"""Experiments on clinical event sequences: recurrent nets, honest metrics, explained attention, tracked in MLflow.

    \b
    Start here:
      ehrseq train                                          the embedded synthetic data
      ehrseq train source=physionet2012 source.path=set-a.tar.gz
      ehrseq train -m model=lstm,gru seed=1,2,3             six runs
      ehrseq compare experiment=ehrseq                      which of them can be told apart
      ehrseq reproduce runs/...                             the same run again, somewhere else
      ehrseq predict run=runs/... source=physionet2012 source.path=new-stays/
      ehrseq report runs/...                                one HTML file that can be mailed
      ehrseq ui                                             look at the results

    \b
    Change anything with Hydra overrides:
      ehrseq config --groups                                every group and its options
      ehrseq config model=gru                               what a run would use
      ehrseq train model=gru model.encoder.num_layers=2 optim.optimizer.lr=3e-4

    Shell completion: ehrseq completion bash|zsh|fish
    """
    # A kill must end a run as killed, not leave it running; SystemExit lets every `finally` do its work.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@main.command(epilog=_OVERRIDES)
@_command
def prepare(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    """Turn raw files into a MEDS dataset and a store, once; every run shares them."""
    from ehrseq.config.load import load_settings
    from ehrseq.workflows import prepare as workflow

    prepared = workflow.run(load_settings(overrides, config_dir))
    click.echo(f"dataset: {prepared.dataset}\nstore:   {prepared.store}")


@main.command(epilog=_OVERRIDES)
@click.option("-m", "--multirun", is_flag=True, help="Sweep: every combination of values, or a search.")
@_command
def train(overrides: tuple[str, ...], config_dir: Path | None, multirun: bool) -> None:
    r"""Prepare the data where needed, then train, evaluate, explain and track one model, or with -m many.

    A run that is there already is not made again (force=true does). A sweep that was interrupted goes on when the same
    command is given again.

    \b
    ehrseq train -m model=lstm,gru seed=1,2,3
    ehrseq train -m sweep=optuna model=lstm,gru 'optim.optimizer.lr=tag(log,interval(1e-4,1e-2))' sweep.trials=30
    """
    if multirun:
        from ehrseq.config.sweep import read_plan

        plan = read_plan(overrides, config_dir)

        from ehrseq.workflows import sweep

        result = sweep.run(plan)
        for line in sweep.tell(result, plan):
            click.echo(line)
        if result.failed:
            _fail("\n".join(sweep.tell_failed(result)), 1)
        return
    from ehrseq.config.load import load_settings

    # A misspelt word is told at once, before anything heavy is imported.
    settings = load_settings(overrides, config_dir)
    if settings.resume is not None:
        from ehrseq.workflows.checkpoints import resumed

        settings = resumed(settings, list(overrides), config_dir)

    from ehrseq.workflows.summary import train_and_tell

    train_and_tell(settings)


@main.group()
def store() -> None:
    """Look after prepared data."""


@store.command(epilog=_OVERRIDES)
@_command
def verify(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    """Check every prepared dataset and store against the digests in its manifest."""
    from ehrseq.config.load import load_settings
    from ehrseq.errors import DataError
    from ehrseq.workflows import verify as workflow

    result = workflow.run(load_settings(overrides, config_dir))
    for fault in result.faults:
        click.echo(fault)
    if result.faults:
        raise DataError(
            f"{len(result.faults)} faults in {len(result.folders)} folders; delete what is damaged and prepare again"
        )
    click.echo(f"{len(result.folders)} datasets and stores are what was written")


@main.group()
def tracking() -> None:
    """Look after what MLflow knows."""


@tracking.command(epilog=_OVERRIDES)
@_command
def sync(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    """Send to MLflow what it did not take while it was away; twice sends nothing twice."""
    from ehrseq.config.load import load_settings
    from ehrseq.workflows import sync as workflow

    count = workflow.run(load_settings(overrides, config_dir))
    click.echo(f"{count} runs sent" if count else "MLflow has everything")


@main.command(epilog=_OVERRIDES)
@_command
def evaluate(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    """Score a trained run on held-out subjects: metrics with intervals, predictions, figures.

    Name the run with run=<run folder or MLflow run id>, or give the overrides that it was trained with.
    """
    from ehrseq.workflows.summary import evaluate_and_tell

    evaluate_and_tell(overrides, config_dir)


@main.command(epilog=_OVERRIDES)
@_command
def explain(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    """Explain a trained run: what each event contributes, what matters in the cohort, and how far to believe it.

    Name the run with run=<run folder or MLflow run id>, or give the overrides that it was trained with.
    """
    from ehrseq.workflows.summary import explain_and_tell

    explain_and_tell(overrides, config_dir)


@main.command(epilog=_OVERRIDES)
@_command
def report(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    r"""Write one HTML file of a run that can be mailed, a model card and the TRIPOD+AI checklist.

    \b
    ehrseq report runs/...                    into report/ in the run folder
    ehrseq report runs/... output=folder/
    """
    from ehrseq.workflows.summary import report_and_tell

    report_and_tell(overrides, config_dir)


@main.command(epilog=_OVERRIDES)
@_command
def predict(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    r"""Score new subjects with a trained run; no labels needed, nothing is fitted anew.

    \b
    ehrseq predict run=runs/... source=physionet2012 source.path=new-stays/ output=predictions.parquet
    """
    from ehrseq.workflows.summary import predict_and_tell

    predict_and_tell(overrides, config_dir)


@main.command(epilog=_OVERRIDES)
@_command
def compare(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    r"""Say which of several runs can be told apart, on the same held-out examples.

    \b
    ehrseq compare runs/...-lstm-... runs/...-gru-...     run folders or MLflow run ids
    ehrseq compare sweep=ID                               all finished runs of a sweep
    ehrseq compare experiment=NAME                        all finished runs of an MLflow experiment
    """
    from ehrseq.workflows.summary import compare_and_tell

    compare_and_tell(overrides, config_dir)


@main.command(epilog=_OVERRIDES)
@_command
def choose(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    r"""Choose the configuration that is best on `tuning`, and score it on `held_out`, once.

    \b
    ehrseq train -m model=lstm,gru seed=1,2 evaluate.split=tuning tracking.experiment=mine
    ehrseq choose experiment=mine                         or run folders, MLflow run ids, sweep=ID
    """
    from ehrseq.workflows.summary import choose_and_tell

    choose_and_tell(overrides, config_dir)


@store.command(epilog=_OVERRIDES)
@_command
def ledger(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    """Tell how often the held-out examples of each task and split have been looked at."""
    from ehrseq.config.load import load_settings
    from ehrseq.workflows.ledger import ledgers

    for item in ledgers(Path(load_settings(overrides, config_dir).paths.data)):
        click.echo(f"{item.path.stem}: {item.tell()}")


@main.command(epilog=_OVERRIDES)
@_command
def reproduce(overrides: tuple[str, ...], config_dir: Path | None) -> None:
    r"""Make a run again in another folder, and say whether it is the same, or what is different.

    \b
    ehrseq reproduce RUN                                  a run folder or an MLflow run id
    ehrseq reproduce RUN source.path=...                  where its data lie now

    Exit code: 0 the predictions are identical, 3 they are within reproduce.tolerance, 4 they are different.
    """
    from ehrseq.workflows.summary import reproduce_and_tell

    sys.exit(reproduce_and_tell(overrides, config_dir))


@main.command(epilog=_OVERRIDES)
@click.argument("what", type=click.Choice(["learning-rate", "batch-size"]))
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the losses of the learning rates there (PNG).")
@_command
def find(what: Any, overrides: tuple[str, ...], config_dir: Path | None, picture: Path | None) -> None:
    """Try learning rates or batch sizes for a few steps, and say which to take."""
    from ehrseq.config.load import load_settings
    from ehrseq.workflows import find as workflow

    for line in workflow.run(load_settings(overrides, config_dir), what, picture):
        click.echo(line)


@main.command(epilog=_OVERRIDES)
@click.option("--groups", "list_groups", is_flag=True, help="List every config group with its options.")
@_command
def config(overrides: tuple[str, ...], config_dir: Path | None, list_groups: bool) -> None:
    """Print the composed settings, after checking them; params.yaml is made with this."""
    from ehrseq.config.load import dump_settings, groups, load_settings

    if list_groups:
        for group, options in groups(config_dir).items():
            click.echo(f"{group}: {', '.join(options)}")
    else:
        click.echo(dump_settings(load_settings(overrides, config_dir)), nl=False)


@main.command(epilog=_OVERRIDES)
@click.option("--port", default=5000, show_default=True, help="Where to listen.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The default is reachable from this machine only.")
@_command
def ui(overrides: tuple[str, ...], config_dir: Path | None, port: int, host: str) -> None:
    """Open the MLflow UI on the runs of this folder (or of tracking.uri=...); of a server, tell its pages."""
    from ehrseq.config.load import load_settings
    from ehrseq.tracking.server import has_pages, pages, ui_command, ui_environment

    uri, server = load_settings(overrides, config_dir).tracking.uri, f"http://{host}:{port}"
    if has_pages(uri):
        for name, page in pages(uri, uri.rstrip("/")).items():
            click.echo(f"{name}: {page}")
        return
    command = ui_command(uri, host, port)
    for name, page in pages(uri, server).items():
        click.echo(f"{name}: {page}", err=True)
    click.echo(f"MLflow UI: {server}  (Ctrl-C ends it)", err=True)
    os.execve(command[0], command, ui_environment())


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    r"""Print the completion script of a shell.

    \b
    bash:  echo 'eval "$(ehrseq completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(ehrseq completion zsh)"' >> ~/.zshrc
    fish:  ehrseq completion fish > ~/.config/fish/completions/ehrseq.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "ehrseq", "_EHRSEQ_COMPLETE").source())


if __name__ == "__main__":
    main()
