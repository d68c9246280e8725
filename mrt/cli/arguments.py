"""The arguments of every subcommand."""

import argparse
import math

PROBES = ("gold", "sampled", "greedy", "shrunk")


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mrt train`."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file, or the name of a packaged recipe (countdown/mrt)"
    )
    parser.add_argument("--fresh", action="store_true", help="move an earlier run in output_dir aside and start over")
    parser.add_argument(
        "--seeds",
        type=_positive,
        metavar="N",
        help="train N seeds and report their interquartile mean with its interval",
    )
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="with --seeds: N of them at a time, each in a process of its own"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="with --workers: processes of a Ray cluster (auto: that of this machine; local: one that is started)",
    )
    parser.add_argument(
        "--slurm",
        metavar="nodes=N,vllm=M,...",
        action="append",
        default=[],
        help="submit a job for several nodes, the last M of them for vLLM (docs/multi-node.md); may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --slurm: print the job's script, write nothing")
    _allow_code(parser)


def _allow_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-code", action="store_true", help="run code from outside mrt and classic_metarl")


def eval_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mrt eval`."""
    parser.add_argument("model", metavar="MODEL", help="a model directory, a hub name, or a suite (control/bandits)")
    parser.add_argument(
        "--policy",
        metavar="[NAME=]RUN",
        action="append",
        default=[],
        help="a policy for a control suite to measure; may be repeated",
    )
    parser.add_argument(
        "--sampled", action="store_true", help="policies sample their actions instead of taking the most likely one"
    )
    parser.add_argument(
        "--problems", metavar="NAME", help="the problem set; key=value sets its options (default: as trained on)"
    )
    parser.add_argument("--n", type=_positive, default=4, help="samples per problem (default: 4)")
    parser.add_argument("--budgets", metavar="0,10,20", help="thinking tokens after which an answer is forced")
    parser.add_argument("--out", metavar="DIR", help="folder of samples and results; finished samples are kept")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N problems or tasks")
    parser.add_argument(
        "--probe",
        choices=("auto", *PROBES),
        default="auto",
        help="how J after each episode is measured (default: auto)",
    )
    parser.add_argument("--split", default="test", help="split of the problem set (default: test)")
    parser.add_argument("--name", help="name in tables and reports (default: the name of DIR)")
    _allow_code(parser)
    _temperature(parser)
    _seed(parser)
    from mrt.reasoning.evaluation.command import add_arguments

    add_arguments(parser, _positive)


def _temperature(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--temperature",
        type=_temperature_value,
        default=1.0,
        metavar="T",
        help="sampling temperature, above 0 (default: 1)",
    )


def _seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_not_negative, default=0, metavar="N", help="random seed (default: 0)")


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mrt report`."""
    parser.add_argument("evals", nargs="*", metavar="DIR", help="evaluation directories")
    parser.add_argument("--out", metavar="FILE", default="report.html", help="the page (default: report.html)")
    parser.add_argument("--runs", nargs="+", default=[], metavar="RUN_DIR", help="training runs whose curves to show")
    parser.add_argument(
        "--baseline", metavar="NAME", help="the evaluation that the others are compared with (default: the first)"
    )
    parser.add_argument("--title", default="Evaluation report", help="title of the page")
    parser.add_argument("--note", metavar="TEXT", default="", help="what stands below the title")


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mrt compare`."""
    parser.add_argument("a", metavar="A", help="an evaluation directory")
    parser.add_argument("b", metavar="B", help="the evaluation to compare it with")


def probe_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mrt probe`."""
    parser.add_argument("traces", metavar="TRACES.jsonl", help="one trace per line: prompt and thought")
    parser.add_argument("--model", metavar="M", required=True, help="the model that is made to answer at each boundary")
    parser.add_argument("--probe", choices=PROBES, default="sampled", help="how J is measured (default: sampled)")
    parser.add_argument(
        "--samples", type=_positive, default=4, help="forced answers per boundary (sampled, shrunk; default: 4)"
    )
    parser.add_argument("--segmenter", choices=("cues", "paragraphs", "blocks"), default="cues")
    parser.add_argument("--out", metavar="FILE", help="file for the curves, one JSON object per line")
    parser.add_argument("--columns", metavar="prompt=A,thought=B,gold=C", default="", help="columns of other names")
    parser.add_argument("--boxes", choices=("last", "all"), default="last", help="which boxes count (docs/grading.md)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N traces")
    _seed(parser)


def merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mrt merge`."""
    parser.add_argument("run", metavar="RUN", help="a run directory, or a folder that holds an adapter")
    parser.add_argument("--out", metavar="DIR", help="where the merged model goes (default: RUN/merged)")


def grade_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mrt grade`."""
    parser.add_argument("file", metavar="FILE", help="a JSONL, CSV or parquet file of answers and gold answers")
    parser.add_argument(
        "--columns",
        metavar="gold=A,answer=B,other=C",
        default="",
        help="without `answer` the golds are graded against themselves; `other`: another grader's verdicts",
    )
    parser.add_argument("--answer-after", metavar="MARK", help="the gold is what follows this mark (#### for GSM8K)")
    parser.add_argument("--boxes", choices=("last", "all"), default="last", help="which boxes count (docs/grading.md)")
    parser.add_argument("--workers", type=_positive, default=1, help="comparisons at once (default 1)")
    parser.add_argument("--out", metavar="FILE", help="a verdict with its reason for each answer, a JSON object a line")


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mrt generate`."""
    parser.add_argument("--model", metavar="M", required=True, help="a model directory or a hub name")
    parser.add_argument("--budget", type=_not_negative, metavar="N", help="at most N thinking tokens")
    parser.add_argument("--prompt", metavar="TEXT", help="the prompt (default: standard input)")
    parser.add_argument("--flat", type=float, metavar="EPS", help="stop thinking once J rises by no more than EPS")
    _temperature(parser)
    _seed(parser)


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mrt doctor`."""
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a recipe to check as well: memory, time and cost")
    parser.add_argument(
        "--price", type=float, metavar="P", help="price of this machine per hour, for the cost of the run"
    )
    _allow_code(parser)


def quickstart_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mrt quickstart`."""
    parser.add_argument("--out", metavar="DIR", default="runs/quickstart", help="folder (default: runs/quickstart)")
    parser.add_argument(
        "--family",
        choices=("habits", "three"),
        default="habits",
        help="habits: attempts build on each other or get nowhere (default); three: they are independent",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps of each part: checks the wiring, learns nothing"
    )
    _seed(parser)


def _positive(text: str) -> int:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _temperature_value(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' must be a number above 0")
    return value


def _not_negative(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"'{text}' must be a whole number, 0 or more")
    return int(text)
