"""Command line: python main.py STAGE --config configs/X.py --workdir DIR [--config.a.b=value ...]"""

import argparse
import runpy
import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from configs.presets import PRESETS
from sgg_jax import stopping
from sgg_jax.data_stages import DATA_STAGES
from sgg_jax.data_stages import main as run_data_stage
from sgg_jax.errors import InputError
from sgg_jax.ranges import check_numbers
from sgg_jax.roles import check_apart, open_roles

STAGES = {
    "run": "all stages that follow, in order",
    "train_denoiser": "train the diffusion model of the target domain",
    "train_segmenter": "train the source segmenter (the first guide) and the judge",
    "adapt": "progressive translation learning: translate deeper and deeper, adapting the guide",
    "translate": "export the labelled translations",
    "train_student": "train a fresh segmenter on the translations",
    "compare": "compare methods by the students they train, over several seeds; runs what it needs first",
    "evaluate": "score all networks on the target and the translations' agreement with their labels",
    "report": "draw the pictures and the summary page",
    "plan": "print what a run will cost, from a short calibration",
    "check_data": "look at every file of the data sets and name those in error; exit code 1 if there are any",
    "prepare_data": "resize the data sets once and pack them, with train ids, for fast reading (TFDS, ArrayRecord)",
    "export_streets": "write the data sets as folders of PNG files",
}
NETWORK_STAGES = {  # sgg_jax/network_stages.py, with flags of their own: main.py STAGE --help
    "import_weights": "read published weights (--kind, --file) into a directory that configs can name (--out)",
    "export_weights": "write a network of such a directory, or of a run, under its published names",
    "describe": "print layers, parameters and FLOPs of a published network or of one in a directory",
}


def directory(name: str) -> Path:
    if not name:  # of a variable that is not set: it would be this directory
        raise argparse.ArgumentTypeError("it is empty; name a directory")
    return Path(name)


def parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:16} {text}" for name, text in (STAGES | NETWORK_STAGES).items())
    found = argparse.ArgumentParser(
        prog="main.py",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python main.py STAGE --config FILE --workdir DIR [--config.FIELD=VALUE ...]",
        description="Translate labelled source images into a target domain and train on them.\n\nstages:\n" + listed,
        epilog="Every field is listed in configs/default.py; set one as in --config.translate.depth=400. The same "
        "command again resumes.",
    )
    found.add_argument("stage", metavar="STAGE", choices=STAGES, help="one of the above")
    found.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a file of configs/, or FILE:PRESET: paper, balanced or fast sampling",
    )
    found.add_argument("--workdir", required=True, type=directory, metavar="DIR", help="the run's directory")
    hosts = found.add_argument_group("several hosts (found by themselves on Cloud TPU, Slurm, MPI and Kubernetes)")
    hosts.add_argument("--coordinator", default="", metavar="ADDRESS:PORT", help="of host 0, the same on all hosts")
    hosts.add_argument("--hosts", default=0, type=int, metavar="N", help="how many there are; 1: this one alone")
    hosts.add_argument("--host", default=-1, type=int, metavar="I", help="which one this is, from 0")
    return found


def load_config(path: str, overrides: list[str]) -> ConfigDict:
    """The config of a file, FILE or FILE:PRESET, with fields set from the command line; InputError in a sentence."""
    preset = ""
    if not Path(path).is_file():
        path, _, preset = path.rpartition(":")
        if not Path(path).is_file():
            raise InputError(f"--config {path or preset}: there is no such file")
        if preset not in PRESETS:
            raise InputError(f"--config {path}:{preset}: choose one of the presets {', '.join(PRESETS)}")
    try:
        config: ConfigDict = runpy.run_path(path)["get_config"]()
        if preset:
            config.translate.update(PRESETS[preset])
    except Exception as error:  # whatever a user's file may do
        raise InputError(f"--config {path} does not give a config: {type(error).__name__}: {error}") from error
    # of a field that is set twice, as --field=value or --field value, the last one counts; absl would append to a tuple
    given: list[str] = []
    for text in overrides:
        if given and given[-1].startswith("--") and "=" not in given[-1] and not text.startswith("--"):
            given[-1] += f"={text}"
        else:
            given.append(text)
    last = {text.partition("=")[0]: place for place, text in enumerate(given)}
    overrides = [text for place, text in enumerate(given) if last[text.partition("=")[0]] == place]
    values = flags.FlagValues()
    try:
        argv = ["main.py", *overrides]
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, SyntaxError) as error:
        reason = str(error).replace("\\n", " ").replace("\\'", "'")  # some show the repr of their text
        reason = " ".join(reason.removeprefix("'").removesuffix("'").split())
        raise InputError(f"in the settings {' '.join(overrides)}: {reason}") from error
    if rest:
        raise InputError(f"do not know what to do with {' '.join(rest)}")
    return config


def main() -> int:
    try:
        if sys.argv[1:2] and sys.argv[1] in NETWORK_STAGES:
            from sgg_jax.network_stages import main as run_network_stage

            return run_network_stage(sys.argv[1], sys.argv[2:])
        arguments, overrides = parser().parse_known_args()
        stopping.listen()
        config = load_config(arguments.config, overrides)
        check_numbers(config)
        check_apart(config.data, arguments.workdir)
        if arguments.workdir.exists() and not arguments.workdir.is_dir():
            raise InputError(f"--workdir {arguments.workdir} is a file: name a directory")
        if arguments.stage in DATA_STAGES:
            return run_data_stage(arguments.stage, config, arguments.workdir)
        datasets = open_roles(config.data)  # a wrong path is told before jax is imported, which takes seconds
        from sgg_jax.devices import check_there
        from sgg_jax.hosts import connect

        connect(arguments.coordinator, arguments.hosts, arguments.host)
        check_there()
        from sgg_jax.pipeline import main as run

        command = shlex.join(["python", "main.py", *sys.argv[1:]])
        run(arguments.stage, config, arguments.workdir, command, datasets)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # stopping.Stopped is one
        print("stopped; the same command goes on", file=sys.stderr)
        return stopping.EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
