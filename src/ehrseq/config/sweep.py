"""Hydra's multirun: one command, many configurations."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ehrseq.config.load import CONFIG_NAME, check, compose, conf_dir
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError, EhrseqError


def run_sweep(task: Callable[[Settings], None], overrides: Sequence[str], extra: Path | None = None) -> list[str]:
    """Run a task for each configuration of a sweep; a failing one does not stop the others.

    Args:
        task: What to do with each configuration.
        overrides: Hydra override words, some with several values.
        extra: A folder of the user's own with more options for the groups.

    Returns:
        A line on each configuration that failed.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    failures: list[str] = []

    def job(config: DictConfig) -> None:
        words = HydraConfig.get().overrides.task
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        plain.pop("experiment", None)
        try:
            task(check({str(key): value for key, value in plain.items()}))
        except EhrseqError as error:
            failures.append(f"{' '.join(words)}: {error}")

    quiet = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    folder = ["hydra.sweep.dir=.", "hydra.sweep.subdir=."]
    search = [f"hydra.searchpath=[file://{extra.resolve()}]"] if extra else []
    argv = sys.argv
    sys.argv = ["ehrseq", "--multirun", *quiet, *folder, *search, *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=CONFIG_NAME)(job)()
    finally:
        sys.argv = argv
    return failures


def check_sweep(overrides: Sequence[str], extra: Path | None = None) -> None:
    """Check every value of every override before the first run starts, each with the others at their first value.

    Raises:
        ConfigError: If any is wrong.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    choices: list[list[str]] = []
    for word in overrides:
        try:
            override = parser.parse_override(word)
        except HydraException:
            choices.append([word])  # refused by compose below, with a message
            continue
        if override.is_choice_sweep() or override.is_range_sweep():
            values = override.sweep_string_iterator()
            choices.append([f"{override.get_key_element()}={value}" for value in values])
        elif override.is_sweep_override():
            raise ConfigError(f"'{word}' needs a sweeper that samples; give the values, for example key=1,2,3")
        else:
            choices.append([word])
    firsts = [options[0] for options in choices]
    for index, options in enumerate(choices):
        for option in options if len(options) > 1 else options[:1]:
            check(compose([*firsts[:index], option, *firsts[index + 1 :]], extra))
            if len(options) == 1:
                break
