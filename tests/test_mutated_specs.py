"""Two thousand damaged specs: each compiles, or is refused with a place and a sentence; none ends in a traceback.

The mutants are those of fixed seeds. What a seed found once stands in the tables of regressions, where it stays when
the mutations change.
"""

# ruff: noqa: E501 (a row is a line, and messages are whole sentences)

import math
import re
import resource
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest

from netc.commands.common import compile_spec, summarize_spec
from netc.errors import Diagnostic, SpecError
from netc.layers.base import LAYERS
from netc.schema import language
from netc.spec.blocks import expand_blocks
from netc.spec.load import load
from netc.spec.text import parse_tree
from tests.mutations import Mutant, Mutator
from tests.mutations.bases import BASES
from tests.mutations.text import flow
from tests.mutations.trees import EXPRESSIONS, layers_of
from tests.zoo import DIGITS, SPECS

FIRST_SEED, COUNT = 20_000_000, 800
SCHEMA_COUNT = 400
COMPILED = 8  # of so many mutants one is compiled to the end, if it passes the checks
SECONDS = 10.0  # of processor time
MEMORY = 2 << 30  # bytes that one mutant may take beyond what the process has
SMALL = 1_000_000  # values of the state, up to which its first values are drawn as well

# What stands in no sentence for users: words of Python and of the libraries beneath.
INTERNAL = re.compile(
    r"Traceback|Node\(|Position\(|pydantic|Input should|object at 0x|Error\(|<class|ir\.Value|ir\.Node|None(?!\w)|\n"
)
PLACE = re.compile(r"[^:]+:(?P<line>\d+):\d+: \S.*")
NO_PLACE = re.compile(r"[^:]+: the (byte|file|spec) .*")  # of a file that is no text at all


class TooSlow(BaseException):
    """Not an Exception, so that nothing on the way can swallow it."""


@contextmanager
def limits() -> Iterator[None]:
    """Interrupt what takes 10 s of processor time; refuse more memory than a small network needs.

    Time on the wall would count what else the machine does.
    """

    def interrupt(*_: object) -> None:
        raise TooSlow

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, interrupt)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


def check(path: Path) -> None:
    """Do what `netc check` does but for printing."""
    summarize_spec(str(path), []).as_dict()


def compile_all(path: Path) -> None:
    """Do what `netc compile` does but for writing; the first state is drawn of small networks only."""
    artifact = compile_spec(str(path), [], need_data=False)
    artifact.models()
    artifact.manifest()
    if sum(math.prod(tensor.shape) for tensor in artifact.state) <= SMALL:
        artifact.initial_state()


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: the mistakes that were reported, and what must not happen (empty: nothing did)."""

    mistakes: tuple[Diagnostic, ...] = ()
    wrong: str = ""


def outcome(mutant: Mutant, folder: Path, whole: bool) -> Outcome:
    """Check a mutant and, with `whole`, compile it."""
    path = folder / "spec.yaml"
    path.write_text(mutant.text, encoding="utf-8", errors="surrogatepass")
    start = time.process_time()
    result = Outcome()
    try:
        with limits():
            check(path)
            if whole:
                compile_all(path)
    except SpecError as error:
        result = Outcome(tuple(error.diagnostics), bad_sentence(error, path))
    except (TooSlow, Exception):  # noqa: BLE001 (whatever it is, it is the finding)
        result = Outcome(wrong="".join(traceback.format_exc(limit=-8)))
    seconds = time.process_time() - start
    return result if seconds <= SECONDS or result.wrong else Outcome(wrong=f"took {seconds:.1f} s")


def bad_sentence(error: SpecError, path: Path) -> str:
    """Return what is wrong with what the user reads, nothing if all is well."""
    lines = path.read_bytes().count(b"\n") + 2
    for diagnostic in error.diagnostics:
        text = str(diagnostic)
        match = PLACE.fullmatch(text)
        if match is None and not NO_PLACE.fullmatch(text):
            return f"no place and sentence: {text!r}"
        if match is not None and diagnostic.position.file == str(path) and int(match["line"]) > lines:
            return f"a place behind the end: {text!r}"
        if INTERNAL.search(text) or len(text) > 1500:
            return f"no sentence for users: {text!r}"
    return "" if error.exit_code == 2 and error.diagnostics else "no mistake or another exit code"


@pytest.fixture(scope="module")
def mutator() -> Mutator:
    return Mutator({**BASES, **{name: (SPECS / f"{name}.yaml").read_text() for name in DIGITS}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which specs find the blocks of the zoo, and a link to itself."""
    shutil.copytree(SPECS / "blocks", tmp_path / "blocks")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    return tmp_path


@pytest.mark.parametrize("name", BASES)
def test_bases_compile(folder: Path, name: str) -> None:
    (folder / "spec.yaml").write_text(BASES[name])
    compile_all(folder / "spec.yaml")


def test_mutants_compile_or_are_refused(mutator: Mutator, folder: Path) -> None:
    failures: list[str] = []
    ends: Counter[str] = Counter()
    sentences: set[str] = set()
    tried: set[str] = set()
    for seed in range(FIRST_SEED, FIRST_SEED + COUNT):
        mutant = mutator.mutant(seed)
        result = outcome(mutant, folder, whole=seed % COMPILED == 0)
        tried |= set(re.findall(r"type: (\w+)", mutant.text))
        sentences |= {plain_sentence(mistake.message) for mistake in result.mistakes}
        ends[f"{mutant.kind}: {'refused' if result.mistakes else 'accepted'}"] += 1
        if result.wrong:
            failures.append(f"{result.wrong}\n{mutant}")
    assert not failures, f"{len(failures)} mutants\n" + "\n".join(failures[:5])
    # The test would be blind if all mutants died young, of the same mistakes, or lived.
    print(dict(ends), len(sentences))
    assert ends["values: accepted"] > COUNT // 20
    assert ends["values: refused"] > COUNT // 20
    assert len(sentences) >= 150
    assert tried >= LAYERS.members.keys()


def plain_sentence(message: str) -> str:
    """Return a message without names, values and numbers."""
    message = re.sub(r'"[^"]*"|\'[^\']*\'|\S*\d\S*', "#", message)
    return re.sub(r"^[\w/#-]+: |known: .*", "", message)


# ---------------------------------------------------------------------------- what mutants have found before

SPEC = """\
netc: 1
name: small
inputs:
  image: {shape: [4, 8, 8]}
  label: {classes: 2}
data: {source: digits, batch_size: 2}
blocks:
  own:
    parameters: {n: 1}
    layers:
      - {name: power, type: Power, scale: $n}
layers:
  - {name: conv, type: Convolution, num_output: 4, kernel_size: 1}
  - {name: use, block: own}
  - {name: ip, type: InnerProduct, num_output: 2}
  - {name: loss, type: SoftmaxWithLoss}
solver: {type: SGD, base_lr: 0.01, max_epochs: 1}
"""
USE = "{name: use, block: own}"
POWER = "scale: $n}"

# An edit of the spec above, and its one message without the file.
REFUSED: list[tuple[str, str, str]] = [
    (USE, "{type: Silence, loss_weight: 1}", "14:34: silence1: Silence has no top whose values loss_weight could weigh; give it to a layer above"),
    (USE, "{name: use, block: null}", "14:24: block: expected the name of a block, got nothing"),
    (USE, "{name: use, block: [own]}", "14:24: block: expected the name of a block, got a list of 1"),
    (USE, "{name: use, block: {type: own}}", "14:24: block: expected the name of a block, got a mapping"),
    (USE, '{name: use, block: "o\\nwn"}', '14:24: unknown block "o\\nwn"; did you mean "own"?'),
    (USE, '{type: "Re\\nLU"}', '14:12: unknown layer type "Re\\nLU"; did you mean "ReLU"?'),
    (USE, '{type: "Re\\u2028LU"}', '14:12: unknown layer type "Re\\u2028LU"; did you mean "ReLU"?'),
    (USE, '{type: ReLU, bottom: "c\\e[2Jonv"}', '14:26: relu1: unknown bottom "c\\x1b[2Jonv"; did you mean "conv"?'),
    (USE, "{name: use, block: own, repeat: 1000000000}", "11:9: blocks expand to more than 20,000 layers; repeat them less often (in a block used at spec.yaml:14:5)"),
    ("name: small", 'name: small\nuse: ["a\\0b"]', '3:7: "a\\x00b" cannot be the path of a file; check its spelling'),
    ("name: small", "name: small\nuse: [loop.yaml]", '3:7: "loop.yaml" cannot be the path of a file; check its spelling'),
    (USE, "{type: Pooling, pool: average, kernel_size: 8001, pad: 4000, stride: 4000}", "14:49: pooling1: kernel_size 8001 averages 64,016,001 numbers, more than 16,777,216; use a smaller one, or global_pooling"),
    ("{name: loss, type: SoftmaxWithLoss}", "{name: loss, type: InfogainLoss, matrix: [[1, 0], [0, 1e300]]}", "16:46: matrix: 1e+300 is larger than 1e+30 in size, beyond what a 32-bit float computes with"),
    (USE, "{type: Embed, input_dim: 500000000, num_output: 1}", "14:30: embed1: input_dim 500,000,000 is more than the 16,777,216 whole numbers that a 32-bit float tells apart; lower it"),
    (USE, "{type: Upsample, mode: bilinear, scale: 2000}", "14:45: upsample1: scale 2000 makes mode: bilinear a kernel of 64,000,000 numbers for 4 channels, more than 16,777,216; lower it, or use mode: nearest"),
]  # fmt: skip

# Edits that leave a spec sound, and once did not compile.
ACCEPTED: list[tuple[str, str]] = [
    (USE, "{type: ArgMax, top_k: 2}"),
    (USE, "{type: ArgMax, top_k: 2, out_max_val: true}"),
    (USE, "{type: LRN, local_size: 2147483647}"),
    (USE, "{type: LRN, local_size: 9223372036854775807, norm_region: within_channel}"),
]


def mistakes(text: str, folder: Path) -> list[str]:
    """Compile a spec, and return its messages without the file."""
    path = folder / "spec.yaml"
    path.write_text(text)
    try:
        with limits():
            check(path)
            compile_all(path)
    except SpecError as error:
        if wrong := bad_sentence(error, path):
            pytest.fail(wrong)
        return [str(mistake).removeprefix(f"{path}:").replace(str(path), "spec.yaml") for mistake in error.diagnostics]
    return []


def edited(old: str, new: str) -> str:
    assert SPEC.count(old) == 1, f"{old!r} should occur once"
    return SPEC.replace(old, new)


@pytest.mark.parametrize(("old", "new", "message"), REFUSED)
def test_refused(folder: Path, old: str, new: str, message: str) -> None:
    assert mistakes(edited(old, new), folder) == [message]


@pytest.mark.parametrize(("old", "new"), ACCEPTED)
def test_accepted(folder: Path, old: str, new: str) -> None:
    assert mistakes(edited(old, new), folder) == []


@pytest.mark.parametrize("argument", ["2", "-1", "0.5", "x", "true", "null", "[1]", "{a: 1}", "9223372036854775807"])
def test_expressions(folder: Path, argument: str) -> None:
    for expression in EXPRESSIONS:
        written = flow(expression.replace("channels", "n").replace("kernel", "n"))
        text = edited(POWER, f"scale: {written}}}").replace("block: own", f"block: own, n: {argument}")
        assert all(message.count(":") > 1 for message in mistakes(text, folder))


def test_time_is_linear_in_layers(folder: Path) -> None:
    # Finding free names, and the ends of the network, once took the square of their number: minutes.
    layers = "  - {type: ReLU}\n" * 20_000
    text = edited(f"  - {USE}\n", layers)
    start, end = text.index("blocks:"), text.index("layers:\n  - {name: conv")
    (folder / "spec.yaml").write_text(text[:start] + text[end:])
    with limits():
        check(folder / "spec.yaml")


# --------------------------------------------------------------------------------------------- JSON Schema

# Mistakes in fields that a JSON Schema cannot describe, or would describe at greater length than it is worth.
BEYOND_THE_SCHEMA = re.compile(
    "|".join(
        [
            # of two fields at once
            r"solver needs exactly one of max_epochs and max_iter",
            r"min \S+ is larger than max",
            r"range: the lowest value, \S+, is not below the highest",
            r"an input needs a shape",
            r"k \S+ has no place within a channel",
            # of a value, by arithmetic or by what the class is
            r"is a metric, which is never minimised",
            r"local_size \d+ has no middle",
            r"base: no power of 1",
            r"is smaller than 1e-30 in size",
            # JSON has no NaN, and takes 2.0 for an integer
            r"expected a finite number, got nan",
            r"expected an integer, got [\d.e+-]+$",
        ]
    )
)


def from_argument(mistake: Diagnostic, text: str) -> bool:
    """Whether a mistake is in a value that a block's layer takes from a parameter."""
    position = mistake.position
    return position.used_at is not None and "$" in text.splitlines()[position.line - 1][position.column - 1 :][:2]


def test_the_schema_agrees_about_fields(mutator: Mutator) -> None:
    """What validation refuses for its fields the schema refuses as well, before blocks are expanded, and nothing else."""
    schema = jsonschema.Draft202012Validator(language())
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for seed in range(FIRST_SEED, FIRST_SEED + SCHEMA_COUNT):
        mutant = mutator.mutant(seed)
        if mutant.tree is None:
            continue
        try:
            tree = parse_tree(mutant.text, "spec.yaml")
            expand_blocks(tree, SPECS)
        except SpecError:
            continue  # no mistake in a field
        found = field_mistakes(mutant)
        accepted = schema.is_valid(tree.value)
        described = [m for m in found if not BEYOND_THE_SCHEMA.search(m.message) and not from_argument(m, mutant.text)]
        counts[f"{'refused' if described else 'excepted' if found else 'sound'}"] += 1
        if accepted and described:
            failures.append(f"the schema accepts\n{mutant}although: {described[0]}")
        unnamed = any(layer.get("name", "x") in ("", None) for layer in layers_of(tree.value))
        if not accepted and not found and not unnamed:  # an empty name is good enough for the loader
            errors = [f"{error.json_path}: {error.message[:200]}" for error in schema.iter_errors(tree.value)]
            failures.append(f"the schema refuses\n{mutant}with: {errors}")
    assert not failures, f"{len(failures)} mutants\n" + "\n".join(failures[:5])
    assert counts["refused"] > SCHEMA_COUNT // 10
    assert counts["sound"] > SCHEMA_COUNT // 10
    assert counts["excepted"] < SCHEMA_COUNT // 10


def field_mistakes(mutant: Mutant) -> list[Diagnostic]:
    """Return the mistakes that validation finds in fields, before anything is wired."""
    try:
        return list(load(parse_tree(mutant.text, "spec.yaml"), SPECS).diagnostics)
    except SpecError as error:
        return list(error.diagnostics)
