"""Bad commits, made by hand, because no git would make them: none is laid out, and each is told in words."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from plugins.attacked import SIZE_LIMIT, Attacked, Entry, Object, blob, tree
from plugins.penstock import static
from plugins.senders import SENDERS, push

GITHUB = SENDERS[0]
FILE = blob(b"touch canary\n")
UNSAFE = "the commit cannot be laid out safely"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b".git", UNSAFE),
        (b".GIT", UNSAFE),
        (b".git ", UNSAFE),
        (b"git~1", UNSAFE),
        (b".g\xe2\x80\x8cit", UNSAFE),
        (b"..", UNSAFE),
        (b".", UNSAFE),
        (b"../canary", UNSAFE),
        (b"/etc/canary", UNSAFE),
        (b"x" * 300, "a name too long for this system"),
        (b"x" * 100_000, "a name too long for this system"),
        (b"two\nlines", "a URL cannot carry its name"),
        (b"\x1b[31mred", "a URL cannot carry its name"),
        (b"no\xffUTF-8", "a URL cannot carry its name"),
        (b"a\\..\\canary", "a URL cannot carry its name"),
        (b"index.html", "twice"),
    ],
    ids=lambda one: ascii(one[:20]) if isinstance(one, bytes) else "",
)
def test_a_file_named(attacked: Attacked, name: bytes, told: str) -> None:
    pushed = attacked.push_tree(("100644", name, FILE))
    assert pushed.code == 1
    assert told in pushed.said


@pytest.mark.parametrize("mode", ["0", "777", "060000", "170000", "9"])
def test_a_file_whose_mode_is(attacked: Attacked, mode: str) -> None:
    pushed = attacked.push_tree((mode, b"odd", FILE))
    assert pushed.code == 1
    assert "entry mode" in pushed.said or "malformed mode" in pushed.said


@pytest.mark.parametrize(
    "target",
    [
        b"/etc/passwd",
        b"../../../penstock.db",
        b"odd",
        b"odd/../..",
        b"public/../../x",
        b"",
        b"a\0b",
        b"x" * 5_000,
    ],
    ids=lambda target: ascii(target[:24]),
)
def test_a_link_to(attacked: Attacked, target: bytes) -> None:
    pushed = attacked.push_tree(("120000", b"odd", blob(target)))
    assert pushed.code == 1
    assert "the link odd leads" in pushed.said


def test_links_that_lead_out_together(attacked: Attacked) -> None:
    inner = tree(("120000", b"up", blob(b"../..")))
    sly = ("120000", b"sly", blob(b"inner/up/.."))
    pushed = attacked.push_tree(("40000", b"inner", inner), sly, also=(blob(b"../.."),))
    assert pushed.code == 1
    assert "leads out of the repository" in pushed.said


def test_a_static_folder_that_is_a_link_out(attacked: Attacked) -> None:
    files: list[Entry] = [("100644", b"penstock.yaml", blob(b"static: public\n"))]
    pushed = attacked.push_tree(*files, ("120000", b"public", blob(b"/etc")))
    assert pushed.code == 1
    assert "the link public leads out of the repository" in pushed.said


@pytest.mark.parametrize("leaf", ["a file", "a folder"])
def test_trees_that_hold_each_other_ten_times_over_nine_times(attacked: Attacked, leaf: str) -> None:
    """A bomb of a few hundred bytes: laid out, it would be a billion files."""
    bottom = ("100644", blob(b"")) if leaf == "a file" else ("40000", tree())
    objects, (mode, last) = [bottom[1]], bottom
    for _ in range(9):
        last, mode = tree(*((mode, b"%d" % number, last) for number in range(10))), "40000"
        objects.append(last)
    pushed = attacked.push_tree(("40000", b"bomb", last), also=tuple(objects))
    assert pushed.code == 1
    assert "the commit holds more than 250,000 files and folders" in pushed.said


def test_a_file_that_grows_when_it_is_unpacked(attacked: Attacked) -> None:
    pushed = attacked.push_tree(("100644", b"zeros", blob(bytes(SIZE_LIMIT + 1))))
    assert pushed.code == 1
    assert "the commit's files have more than 20,000,000 bytes together" in pushed.said


def test_folders_in_folders_in_folders(attacked: Attacked) -> None:
    objects = [tree(("100644", b"end", FILE))]
    for _ in range(150):
        objects.append(tree(("40000", b"down", objects[-1])))
    pushed = attacked.push_tree(("40000", b"down", objects[-1]), also=(FILE, *objects))
    assert pushed.code == 1
    assert "nests folders more than 100 deep" in pushed.said


def test_a_folder_that_is_a_file(attacked: Attacked) -> None:
    pushed = attacked.push_tree(("40000", b"odd", FILE))
    assert pushed.code == 1
    assert "not a tree" in pushed.said


def test_a_tag_in_the_place_of_a_commit(attacked: Attacked) -> None:
    pushed = attacked.push_pack(FILE, tree(("100644", b"index.html", FILE)))
    assert pushed.code == 1
    assert "is not a commit" in pushed.said


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({".gitattributes": "* filter=evil ident export-subst text eol=crlf"}, id="attributes"),
        pytest.param(
            {".gitmodules": '[submodule "x"]\npath = x\nurl = ext::touch canary\n'}, id="submodules"
        ),
        pytest.param({".gitconfig": "[core]\nfsmonitor = touch canary\n"}, id="configuration"),
    ],
)
def test_what_git_would_heed_in_a_working_copy_is_a_file_like_any(
    attacked: Attacked, files: dict[str, str]
) -> None:
    """It goes no further: the page of the red test beside it shows that nothing else was looked at."""
    held = {name: text.replace("canary", str(attacked.canary)) for name, text in files.items()}
    pushed = attacked.push_files({**held, "penstock.yaml": "test: exit 3\nstatic: .\n"})
    assert pushed.code == 1
    assert "`exit 3` ended with exit code 3" in pushed.said


@pytest.mark.parametrize("setting", ["core.fsmonitor", "core.sshCommand", "core.alternateRefsCommand"])
def test_a_registered_repository_that_brings_commands_along(attacked: Attacked, setting: str) -> None:
    commit = attacked.upstream.commit(static(setting, test="exit 3"))
    attacked.upstream.git("config", setting, f"touch {attacked.canary}")
    body = push(GITHUB, after=commit)
    head = [f"{name}: {value}" for name, value in GITHUB.headers(body, setting).items()]
    run = attacked.ask("POST /hooks/github/hooked", *head, body=body).json()["run"]
    attacked.upstream.git("config", "--unset", setting)
    assert "exit code 3" in attacked.penstock.finished(run)["run"]["error"]


def test_submodules_are_left_out_whatever_their_address(attacked: Attacked) -> None:
    modules = f'[submodule "x"]\npath = x\nurl = ext::touch% {attacked.canary}\n'
    config = ("100644", b"penstock.yaml", blob(b"test: exit 3\n"))
    gone = ("160000", b"x", Object("commit", b""))
    pushed = attacked.push_tree(("100644", b".gitmodules", blob(modules.encode())), config, gone)
    assert "submodules are left out: x" in pushed.said


# -- what escaped code, or an operator's template, could put into a repository of Penstock's own

HOOKS = (
    *("pre-receive", "update", "proc-receive", "post-receive", "post-update", "reference-transaction"),
    *("post-checkout", "post-index-change", "pre-auto-gc", "push-to-checkout", "fsmonitor-watchman"),
)


def plant_hooks(attacked: Attacked, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    planted = [folder / name for name in HOOKS]
    for hook in planted:
        hook.write_text(f"#!/bin/sh\ntouch {attacked.canary}\n")
        hook.chmod(0o755)
    return planted


@contextmanager
def configured(repository: Path, setting: str, value: str) -> Iterator[None]:
    """The setting is the last one of the repository's own: what stood there before counts no more."""
    config = repository / "config"
    before = config.read_bytes()
    subprocess.run(["git", "config", "--file", str(config), "--add", setting, value], check=True)
    try:
        yield
    finally:
        config.write_bytes(before)


def all_of_git(attacked: Attacked, about: str) -> None:
    """A push whose tests are red, of a commit that is new, a branch beside, a fetch, and a webhook's run."""
    pushed = attacked.push_files({"penstock.yaml": "test: exit 3\nstatic: .\n", "about": about})
    assert pushed.code == 1
    assert "`exit 3` ended with exit code 3" in pushed.said
    attacked.repository.git("push", "penstock", "main:refs/heads/beside")
    attacked.repository.git("push", "penstock", ":refs/heads/beside")
    attacked.repository.git("fetch", "penstock", "main")
    clone = attacked.penstock.folder / f"clone-{about}"
    attacked.repository.git("clone", "--quiet", attacked.remote, str(clone))
    commit = attacked.upstream.commit(static(about, test="exit 3"))
    body = push(GITHUB, after=commit)
    head = [f"{name}: {value}" for name, value in GITHUB.headers(body, about).items()]
    run = attacked.ask("POST /hooks/github/hooked", *head, body=body).json()["run"]
    assert "exit code 3" in attacked.penstock.finished(run)["run"]["error"]


def test_hooks_that_were_put_into_its_own_repositories_are_never_run(attacked: Attacked) -> None:
    planted = [hook for path in attacked.own for hook in plant_hooks(attacked, path / "hooks")]
    try:
        all_of_git(attacked, "hooks")
    finally:
        for hook in planted:
            hook.unlink()


@pytest.mark.parametrize(
    "setting",
    [
        "core.hooksPath",
        "uploadpack.packObjectsHook",
        "core.fsmonitor",
        "core.alternateRefsCommand",
        "core.sshCommand",
        "core.pager",
        "gpg.program",
    ],
)
def test_a_command_that_was_put_into_the_settings_of_its_own_repositories(
    attacked: Attacked, setting: str, tmp_path: Path
) -> None:
    planted = plant_hooks(attacked, tmp_path / "planted")
    value = str(tmp_path / "planted" if setting == "core.hooksPath" else planted[0])
    shop, hooked = attacked.own
    with configured(shop, setting, value), configured(hooked, setting, value):
        all_of_git(attacked, setting.replace(".", "-").lower())


# -- names


def test_a_file_whose_name_is_the_way_up_percent_encoded(attacked: Attacked) -> None:
    """It is a name like any other, served under what stands for it and nothing else."""
    penstock = attacked.penstock
    repository = penstock.add("percent")
    files = {**static("percent"), "public/%2e%2e": "literally\n", "public/%2e%2e%2fup": "flat\n"}
    repository.commit(files)
    pushed = repository.push()
    assert pushed.code == 0, pushed.said
    urls = penstock.urls("percent")
    for url in (urls["app"], *urls["edges"]):
        assert penstock.ask(f"{url}%252e%252e").body == b"literally\n"
        assert penstock.ask(f"{url}%252e%252e%252fup").body == b"flat\n"
        for up in ("%2e%2e", "%2e%2e/percent/current", "%2e%2e%2fshop", ".."):
            assert penstock.ask(f"{url}{up}").status in (400, 404), up


@pytest.mark.parametrize(
    "branch", ["$(touch${IFS}CANARY)", "`touch${IFS}CANARY`", "a;touch${IFS}CANARY", "$(id)"]
)
def test_a_branch_whose_name_is_a_command(attacked: Attacked, branch: str) -> None:
    ref = f"refs/heads/{branch.replace('CANARY', str(attacked.canary).lstrip('/'))}"
    pushed = attacked.repository.push("penstock", f"main:{ref}")
    assert pushed.code == 0, pushed.said
    assert "only main goes live" in pushed.said
    assert attacked.repository.push("penstock", f":{ref}").code == 0
