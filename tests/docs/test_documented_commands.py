"""Every command and snippet of README and docs is run, or, where it needs what is elsewhere, is one that could be."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest

from cli.test_protos import GENERATED
from support.documented import DOCUMENTS, PAGES_OF_EXAMPLES, ROOT, Block, blocks, without_blocks
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
from support.running import System, running_system
from taskgate.base.settings import Settings, load_settings
from taskgate.commands.cli import main
from taskgate.commands.exposure import check_exposure
from taskgate.stores import check_store

HOW_TO_RUN = {"console", "python", "sh", "sql", "redis", "text", "xml"}

OUTPUTS = {
    "curl http://127.0.0.1:8080/api/tasks/": DOCUMENTED_COMPACT.decode(),
    "curl http://127.0.0.1:8080/healthz": '{"healthy":true}',
    "OrkesClients": "COMPLETED\n",
    "print(client.get_task(": f'task_id: "{DOCUMENTED_ID}"',
    "client.get_task_json": "bytes, as Conductor returns them",
    "AsyncClient": DOCUMENTED_ID,
    f"taskgate get {DOCUMENTED_ID}": "COMPLETED",
    f"taskgate get --json {DOCUMENTED_ID}": DOCUMENTED_COMPACT.decode(),
    "taskgate import server/taskgate/demo/task.json": "sqlite:///tasks.db: 0 added, 0 replaced, 1 unchanged",
    "taskgate protos taskgate-protos": "taskgate-protos",
    "taskgate up --help": "Times and limits",
    "taskgate settings": "sqlite:///tasks.db",
    "taskgate gateway\n": "taskgate.processes.embedded_app:app",
    "taskgate gateway --mode proxied": "port_value: 50054",
    "taskgate gateway --validate": "Envoy accepts the configuration.",
}
"""What a block prints, by what it holds."""

CURL = f"""#!{sys.executable}
import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())
"""
"""As much of curl as the blocks need, for a machine without it."""

ASSIGNMENT = re.compile(r"(\w+)=(.*)")
SEPARATORS = {"|", "||", "&", "&&", ";", "(", ")"}
SHELL = "/bin/sh"

OF_OTHERS = {"grpc/task_service.proto", "google/rpc/error_details.proto"}
"""Files that are spoken of, and not ours."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a user has it, but for the files that commands write there."""
    folder = tmp_path_factory.mktemp("checkout")
    for entry in ROOT.iterdir():
        if not entry.name.startswith((".", "tasks.db")):  # the store of `make up` is its user's
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def system(checkout: Path) -> Iterator[System]:
    with running_system(checkout / "tasks.db", "--demo", workers=1) as running:
        yield running


@pytest.fixture(scope="module")
def environment(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As after activating ``.venv``; without proxies, which curl and SDKs would take for what is on this machine."""
    paths = [str(checkout / ".venv" / "bin"), os.environ["PATH"]]
    if shutil.which("curl") is None:
        folder = tmp_path_factory.mktemp("curl")
        (folder / "curl").write_text(CURL)
        (folder / "curl").chmod(0o755)
        paths.append(str(folder))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKGATE_")}
    kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    return {**kept, "PATH": os.pathsep.join(paths)}


def on_free_ports(text: str, system: System) -> str:
    """``text`` with the ports of ``system`` in place of the documented ones, which another process may use."""
    text = text.replace("127.0.0.1:8080", system.http).replace("127.0.0.1:50051", system.grpc)
    return text.replace("taskgate get ", f"taskgate get --server {system.grpc} ")


def test_every_block_says_how_to_run_it() -> None:
    """By one of the languages that docs/development.md explains; ``text`` and ``xml`` are no commands."""
    fences = [line for document in DOCUMENTS for line in document.read_text().splitlines() if line.strip()[:3] == "```"]
    assert {fence.strip()[3:] for fence in fences} - {""} <= HOW_TO_RUN
    assert len(fences) == 2 * len(blocks(*HOW_TO_RUN))


ELSEWHERE = "tasks.internal"
"""A server that a block of Python asks with TLS and a key; tests/client/test_client.py runs it."""


@pytest.mark.parametrize("block", [b for b in blocks("console", "python") if ELSEWHERE not in b.text], ids=str)
def test_block_runs_as_it_stands(block: Block, checkout: Path, system: System, environment: dict[str, str]) -> None:
    """Beside ``taskgate up --demo``, and prints what is said of it."""
    text = on_free_ports(block.text, system)
    command = [sys.executable, "-c", text] if block.language == "python" else [SHELL, "-e", "-c", text]
    done = subprocess.run(command, cwd=checkout, env=environment, input="", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = [output for command, output in OUTPUTS.items() if command in block.text]
    assert expected, "add what it prints to OUTPUTS"
    for output in expected:
        assert output in done.stdout + done.stderr


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_block_that_needs_what_is_elsewhere_could_be_run(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its commands is there and takes these arguments."""
    subprocess.run([SHELL, "-n", "-c", block.text], check=True)
    commands = list(commands_of(block.text))
    assert commands
    for command in commands:
        check_command(command, monkeypatch)


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each simple command, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if word not in SEPARATORS:
                command.append(word)
            elif command:
                yield command
                command = []


def check_command(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        while assignment := ASSIGNMENT.fullmatch(command[0]):
            patch.setenv(*assignment.groups())
            command = command[1:]
        program, *arguments = command
        if Path(program).name == "taskgate":
            check_taskgate(arguments)
        elif program == "make":
            check_make(arguments)
        elif Path(program).name == "python":
            check_python(arguments)
        elif program == "protoc":
            check_protoc(arguments)
        elif program == "buf":
            assert arguments == ["generate", "--output", "stubs"], "tests/cli/test_stubs.py runs this"
        else:
            assert program == "curl", f"say here how {program} is checked"


def check_taskgate(arguments: list[str]) -> None:
    """All that is found out before anything starts: flags, arguments, settings, the store's URL."""
    name, *rest = arguments
    context = main.commands[name].make_context(name, rest)
    flags = {key: value for key, value in context.params.items() if key in Settings.model_fields and value is not None}
    settings = load_settings(None, flags)
    if "store" in {parameter.name for parameter in main.commands[name].params}:
        check_store(settings.store, settings.layout)
    if name in {"up", "serve"}:
        check_exposure(settings, http=settings.http, grpc=settings.grpc)


def check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {argument for argument in arguments if "=" not in argument} <= set(targets)


def check_python(arguments: list[str]) -> None:
    """A module or a file of the repository, with files that are there and options that it has."""
    if arguments[0] == "-m":
        _, module, *rest = arguments
    else:
        module, *rest = arguments
    options = {word for word in rest if word.startswith("--")}
    if module == "bench":
        source = (ROOT / "bench" / "__main__.py").read_text()
        assert {option for option in options if f'"{option}"' not in source} == set()
    elif module == "grpc_tools.protoc":
        check_protoc(rest)
    elif module == "pip":
        assert rest[0] == "install"
    else:
        assert module == "pytest" or (ROOT / module).is_file()
    for word in rest:
        if word.startswith("tests/") or word == "constraints.txt":
            assert (ROOT / word).exists(), word


def check_protoc(arguments: list[str]) -> None:
    """On the folder that the same page writes, or in a clone, for languages that tests/cli/test_protos.py makes."""
    languages = {found[1] for argument in arguments if (found := re.fullmatch(r"--(\w+)_out", argument))}
    assert languages
    assert languages <= {*GENERATED, "pyi", "grpc_python"}  # these two in tests/cli/test_stubs.py
    paths = [path for option, path in pairwise(arguments) if option == "-I"]
    assert paths in (["taskgate-protos"], ["protos", "third_party/googleapis"])
    assert arguments[-1] == f"{paths[0]}/taskgate/v1/*.proto"


def test_commands_of_the_stores_table_could_be_run() -> None:
    commands = re.findall(r"^\| .+ \| `(taskgate up .+)` \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        check_taskgate(shlex.split(command)[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_files_within_sentences_are_there(document: Path) -> None:
    """Commands with their flags, targets of make, files."""
    for code in re.findall(r"`([^`]+)`", " ".join(without_blocks(document).split())):
        words = code.split()
        if words[0] in {"taskgate", ".venv/bin/taskgate"} and len(words) > 1:
            check_mentioned(words[1:])
        elif words[0] == "make" and len(words) > 1:
            check_make(words[1:])
        elif re.fullmatch(r"[\w.][\w./-]*\.(py|md|proto|toml|txt|json|ndjson|yaml|binpb)", code) and not re.search(
            "NAME|VERSION", code
        ):
            assert code in OF_OTHERS or is_there(code), code


def test_names_that_development_md_tells_to_edit_are_there() -> None:
    """Each name in code style, such as ``response_headers_to_add``, stands in some file that is not a document."""
    names = set(re.findall(r"`(\w+_\w+|[A-Z]\w+)`", without_blocks(ROOT / "docs" / "development.md")))
    files = [ROOT / "pyproject.toml", ROOT / "Makefile"]
    for folder in ("server", "gateway", "protos", "tools", "tests"):
        files += [file for file in (ROOT / folder).rglob("*.*") if file.suffix in {".py", ".yaml", ".proto"}]
    there = {name for file in files if file != Path(__file__) for name in re.findall(r"\w+", file.read_text())}
    assert len(names) > 50
    assert names - there == set()


def check_mentioned(words: list[str]) -> None:
    """A command that is spoken of, perhaps without all that it needs."""
    if words[0].startswith("-"):
        options = {option for parameter in main.params for option in parameter.opts} | {"--help", "--version"}
    else:
        command = main.commands[words[0]]
        if isinstance(command, click.Group) and len(words) > 1:
            command = command.commands[words[1]]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= options, words


def is_there(name: str) -> bool:
    """From the root, or anywhere below the package or the tests where the sentence has said in which folder."""
    return any((ROOT / folder / name).exists() for folder in ("", "gateway")) or any(
        found for folder in ("server", "tests", "docs", "protos") for found in (ROOT / folder).rglob(name)
    )


def test_every_setting_has_its_row_in_operating_md() -> None:
    """And README's table names no other."""
    rows = {name: set(re.findall(r"`--([a-z-]+)`", table(name))) for name in ("README.md", "docs/operating.md")}
    flags = {name.replace("_", "-") for name in Settings.model_fields} - {"transport"}  # a former name
    assert rows["docs/operating.md"] == flags
    assert rows["README.md"] <= flags


def table(document: str) -> str:
    """The first column of the table of settings."""
    section = (ROOT / document).read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    return "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("document", [*DOCUMENTS, *PAGES_OF_EXAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """To files of the repository, and to headings in them."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(document)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
