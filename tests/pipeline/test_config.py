"""What people write is taken as they mean it, and what cannot be is refused with file and line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_pipeline.config import AppConfig, Build, Health, Static, load
from penstock_pipeline.config.document import Document
from penstock_pipeline.errors import InvalidConfig


def write(tree: Path, **files: str | bytes) -> Path:
    names = {"yaml": "penstock.yaml", "yml": "penstock.yml", "procfile": "Procfile"}
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (tree / names[name]).write_bytes(data)
    return tree


def refusal(tree: Path) -> str:
    with pytest.raises(InvalidConfig) as caught:
        load(tree)
    return str(caught.value)


WHOLE = """\
web: python -m shop
processes:
  worker: [python, -m, shop.worker, ""]
test: python -m unittest
build: {base: python:3.13-slim, run: pip install -r requirements.txt}
static: {dir: public/}
health: {path: /healthz?full=1, within: 500ms}
"""


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    assert load(write(tmp_path, yaml=WHOLE)) == AppConfig(
        processes={"web": "python -m shop", "worker": ("python", "-m", "shop.worker", "")},
        test="python -m unittest",
        build=Build(base="python:3.13-slim", run="pip install -r requirements.txt"),
        static=Static(dir="public"),
        health=Health(path="/healthz?full=1", within=0.5),
    )


def test_what_a_release_keeps_reads_back_as_the_same(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    config = load(write(tmp_path, yaml=WHOLE))
    assert AppConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_short_forms_mean_the_long_ones(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    config = load(write(tmp_path, yaml="static: public\nhealth: /healthz\n"))
    assert config == AppConfig(static=Static(dir="public"), health=Health(path="/healthz"))


@pytest.mark.parametrize("written", ["true", "8080", "no", "1.10", "2001-01-01"])
def test_a_command_is_the_text_that_was_written(tmp_path: Path, written: str) -> None:
    assert load(write(tmp_path, yaml=f"web: serve\ntest: {written}\n")).test == written


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("20s", 20), ("500ms", 0.5), ("2m", 120), ("7", 7), ("1.5", 1.5), ("1.5 s", 1.5), ("60m", 3600)],
)
def test_durations_are_written_with_or_without_a_unit(tmp_path: Path, written: str, seconds: float) -> None:
    assert load(write(tmp_path, yaml=f"web: a\nhealth: {{within: {written}}}")).health.within == seconds


@pytest.mark.parametrize("written", ["0", "0s", "-1s", "61m", "3601", "nan", "inf", "1h", "s", "1e3", "[1]"])
def test_other_durations_are_refused(tmp_path: Path, written: str) -> None:
    told = refusal(write(tmp_path, yaml=f"web: a\nhealth: {{within: {written}}}"))
    assert told.startswith("penstock.yaml:2: `health.within` must be a duration such as 20s")


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        (
            "web: a\nwebb: b",
            "2: unknown key `webb` (did you mean `web`?); known: web, processes, test, build",
        ),
        (
            "web: a\nhealth:\n  pth: /",
            "3: unknown key `health.pth` (did you mean `path`?); known: path, within",
        ),
        ("web: a\n<<: {b: c}", "2: unknown key `<<`; known:"),
        ("web: a\ndatabase: {pool: shop-db}", "2: `database` is not supported by this version"),
        ("web: a\napprove: maybe", "2: `approve`"),
        ("web: a\ndatabase: {pool: b}", "2: `database` is not supported by this version"),
        ("web: a\nprocesses: {web: b}", "1: `web` is given twice"),
        ("web: a\n\nweb: b", "3: `web` is given twice, first on line 1"),
        ("web:\ntest: a", "1: `web` is empty"),
        ("web: ~", "1: `web` is empty"),
        ("web: ''", "1: `web` must not be empty"),
        ('web: "\\n "', "1: `web` must not be empty"),
        ("web: []", "1: `web` must not be empty"),
        ("web: [' ', a]", "1: `web` must not be empty"),
        ('web: "a\\0b"', "1: `web` must not hold a NUL"),
        ('web: [a, "\\0"]', "1: `web` must not hold a NUL"),
        ("web: {a: b}", "1: `web` must be a command line, or a list of words"),
        ("web: [[a]]", "1: `web` must be a command line, or a list of words"),
        ("processes:\n  Web: a", "2: `processes.Web` is no name for a process"),
        (f"processes: {{{'a' * 31}: a}}", f"1: `processes.{'a' * 31}` is no name for a process"),
        ("processes: a", "1: `processes` must have keys and values"),
        ("web: a\nprocesses: [b]", "2: `processes` must have keys and values"),
        ("web: a\nbuild: make", "2: `build` must have keys and values"),
        ("web: a\nbuild:\n  base: a b", "3: `build.base` must be the name of an image"),
        ("web: a\nbuild:\n  base: [a]", "3: `build.base` must be text"),
        ("web: a\nstatic: {}", "2: `static.dir` is missing"),
        ("web: a\nstatic: /etc", "2: `static.dir` must be a folder inside the repository"),
        ("web: a\nstatic:\n  dir: a/../../b", "3: `static.dir` must be a folder inside the repository"),
        ('web: a\nstatic: ""', "2: `static.dir` must be a folder inside the repository"),
        ("web: a\nstatic:\n  dir: nowhere", "3: `static`: there is no folder nowhere in the repository"),
        ("web: a\nstatic: penstock.yaml", "2: `static`: there is no folder penstock.yaml"),
        ("web: a\nhealth: healthz", "2: `health.path` must be a path such as /healthz"),
        ("web: a\nhealth: http://b/", "2: `health.path` must be a path such as /healthz"),
        ("web: a\nhealth: //b/c", "2: `health.path` must be a path such as /healthz"),
        ("web: a\nhealth: /a b", "2: `health.path` must be a path such as /healthz"),
        ('web: a\nhealth: "/a\\r\\nHost: b"', "2: `health.path` must be a path such as /healthz"),
        ("web: a\nhealth: /ä", "2: `health.path` must be a path such as /healthz"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, yaml: str, told: str) -> None:
    assert refusal(write(tmp_path, yaml=yaml)).startswith(f"penstock.yaml:{told}")


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("web: [a\n", "2: is not valid YAML: expected ',' or ']'"),
        ("web: a\n\tb: c", "2: is not valid YAML: found character '\\t'"),
        ("- a", "1: must have keys and values"),
        ("a", "1: must have keys and values"),
        ("web: a\n---\nweb: b", "2: only one document is read"),
        ("web: &a b\ntest: *a", "1: anchors and aliases"),
        ("web: *a", "1: anchors and aliases"),
        ("&a web: b", "1: anchors and aliases"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "1: anchors and aliases"),
        ("web: !!python/object/apply:os.system [id]", "1: tags (!) are not used here"),
        ("!a {b: c}", "1: tags (!) are not used here"),
        ("? [a]\n: b", "1: a key must be a plain word"),
        ("a: " + "[" * 50, "1: is nested deeper than 8 levels"),
        ('web: "\\ud800"', "1: holds half a character"),
        ("web: a\nb: \x01", " is not valid YAML: it holds characters that YAML does not allow"),
        ('web: "\\UFFFFFFFF"', " is not valid YAML: it holds characters that YAML does not allow"),
        ("%YAML 9.0\n---\nweb: a", "1: is not valid YAML"),
    ],
)
def test_yaml_that_is_more_or_less_than_data_is_refused(tmp_path: Path, yaml: str, told: str) -> None:
    assert refusal(write(tmp_path, yaml=yaml.encode())).startswith(f"penstock.yaml:{told}")


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    told = refusal(write(tmp_path, yaml="web: a\nwebb: b\nhealth: {within: x}\ntest: []\n"))
    assert [line.split(" ")[0] for line in told.splitlines()] == [f"penstock.yaml:{n}:" for n in (2, 3, 4)]


def test_a_file_that_is_not_text_is_refused_with_its_line(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, yaml=b"web: a\ntest: \xff")) == "penstock.yaml:2: is not UTF-8 text"


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, yaml="#" * (256 * 1024 + 1))) == "penstock.yaml: is larger than 256 KiB"
    (tmp_path / "penstock.yaml").unlink()
    assert refusal(write(tmp_path, procfile="#" * (256 * 1024 + 1))) == "Procfile: is larger than 256 KiB"


def test_a_file_of_another_name_is_not_silently_ignored(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, yml="web: a")) == "penstock.yml: rename it to penstock.yaml"


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "nowhere", "."])
def test_a_configuration_that_is_no_file_of_the_tree_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").write_text("web: a")
    (tree := tmp_path / "tree").mkdir()
    (tree / "penstock.yaml").symlink_to(target)
    assert refusal(tree) == "penstock.yaml: must be a plain file of the repository"


def test_a_static_folder_that_leads_out_of_the_tree_is_refused(tmp_path: Path) -> None:
    (tree := tmp_path / "tree").mkdir()
    (tree / "public").symlink_to("..")
    assert refusal(write(tree, yaml="static: public")) == (
        "penstock.yaml:1: `static`: public leads out of the repository"
    )


def test_a_procfile_is_enough(tmp_path: Path) -> None:
    procfile = "\ufeff# processes\r\n\r\nweb: python -m shop: 1\r\nworker:work\n"
    assert load(write(tmp_path, procfile=procfile)).processes == {
        "web": "python -m shop: 1",
        "worker": "work",
    }


@pytest.mark.parametrize(
    ("procfile", "told"),
    [
        ("web: a\nworker", "2: must read `name: command`"),
        ("web: a\nweb: b", "2: process `web` is given twice"),
        ("# a\nweb:", "2: `processes.web` must not be empty"),
        ("Web: a", "1: `processes.Web` is no name for a process"),
        (": a", "1: `processes.` is no name for a process"),
        ("web: a\0", "1: `processes.web` must not hold a NUL"),
    ],
)
def test_a_procfile_that_cannot_be_is_refused_with_its_line(tmp_path: Path, procfile: str, told: str) -> None:
    assert refusal(write(tmp_path, procfile=procfile)).startswith(f"Procfile:{told}")


def test_a_procfile_completes_a_file_that_names_no_process(tmp_path: Path) -> None:
    config = load(write(tmp_path, yaml="test: make test", procfile="web: serve"))
    assert (config.test, config.processes) == ("make test", {"web": "serve"})


def test_processes_of_the_file_win_over_a_procfile(tmp_path: Path) -> None:
    assert load(write(tmp_path, yaml="web: mine", procfile="web: yours\nx: y")).processes == {"web": "mine"}


@pytest.mark.parametrize("yaml", [None, "", "# nothing\n", "---\n", "test: make test\n", "processes: {}\n"])
@pytest.mark.parametrize(
    ("page", "folder"), [("public/index.html", "public"), ("index.html", "."), (None, None)]
)
def test_where_nothing_is_said_a_front_page_is_served(
    tmp_path: Path, yaml: str | None, page: str | None, folder: str | None
) -> None:
    if yaml is not None:
        write(tmp_path, yaml=yaml)
    if page is None:
        assert "there is nothing to serve" in (told := refusal(tmp_path))
        assert told.splitlines()[1:] == ["web: python -m shop", "static: public"]
        return
    (tmp_path / page).parent.mkdir(exist_ok=True)
    (tmp_path / page).write_text("hello")
    assert load(tmp_path).static == Static(dir=folder or "")


def test_an_app_with_processes_serves_no_folder_it_did_not_name(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello")
    assert load(write(tmp_path, yaml="web: a")).static is None


@given(st.text(alphabet="ab:-[]{}&*!#|>'\"%@?,~\\ \n\tU0", max_size=40))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidConfig):
        document = Document(text, file="penstock.yaml")
        assert all((key,) in document.lines for key in document.values)
