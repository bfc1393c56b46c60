"""Small images for pods, made of Debian's packages without a daemon and kept in the cache.

An image here is a stack of layers, each a tar file that is made once for what decides it. Debian's packages
stay what they were at the first run; removing the cache folder has them fetched anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugins.kubernetes_cache import forgotten, kept
from plugins.kubernetes_programs import Missing

REPOSITORY = Path(__file__).parents[2]
CONSTRAINTS = REPOSITORY / "constraints.txt"
DEBIAN = "bookworm"
PYTHON = "3.11"
"""What that Debian has."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MACHINE = platform.machine()
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SITE = "app"
"""The folder of an image that holds what pip installed."""

WITHIN = 600.0

_SLIM = """
rm -rf "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/locale "$1"/var/cache/* "$1"/var/lib/apt
set -e
mkdir -p "$1"/sbin "$1"/run "$1"/home/app
echo 'root:x:0:0::/:/bin/sh' > "$1"/etc/passwd
echo 'app:x:1000:1000::/home/app:/bin/sh' >> "$1"/etc/passwd
chroot "$1" /bin/busybox --install -s
"""
"""A shell and the usual tools from busybox. Not its look-ups of names: those crash in a static program."""

_MARIADB_DATA = """
set -e
cat > "$1"/first.sql <<'END'
CREATE DATABASE shop;
FLUSH PRIVILEGES;
CREATE USER app@'%' IDENTIFIED BY 'penstock';
GRANT ALL ON shop.* TO app@'%';
END
chroot "$1" mariadb-install-db --no-defaults --datadir=/var/lib/prepared --user=root --force --skip-test-db \\
  --skip-name-resolve --auth-root-authentication-method=normal --innodb-log-file-size=4M \\
  --extra-file=/first.sql
"""

_MARIADB_START = """
[ -e /var/lib/mysql/ibdata1 ] || cp -a /var/lib/prepared/. /var/lib/mysql
exec mariadbd --no-defaults --user=root --datadir=/var/lib/mysql --pid-file=/run/mariadb.pid \\
  --socket=/run/mariadb.sock --bind-address=0.0.0.0 --skip-name-resolve --innodb-flush-method=nosync \\
  --innodb-buffer-pool-size=16M --innodb-log-file-size=4M --key-buffer-size=1M --performance-schema=OFF "$@"
"""
"""The data is a volume's, so that it outlives the container; `$@` are a test's own options."""


@dataclass(frozen=True)
class Image:
    """What a pod names, and the archive that brings it to a node."""

    name: str
    archive: Path


def pause() -> Image:
    """What holds a pod's namespaces: it sleeps, and leaves no zombies where a pod shares its processes."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise Missing("busybox is needed: apt-get install busybox-static")
    sleep = "trap '' CHLD; exec /busybox sleep 2147483647"
    layer = kept("layer-busybox.tar", lambda file: _pack(file, Path(busybox), "busybox"))
    return _image("pause", [layer], ["/busybox", "sh", "-c", sleep])


def python() -> Image:
    """Debian's Python with its whole standard library, a shell, and a user `app`."""
    return _image("python", [_python_layer()], ["python3"])


def penstock(extra: str) -> Image:
    """Our wheel as it would be published, with one of its extras, on top of Python; begins as it."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = _wheel(Path(folder))
        needs = _told(extra, *_requirements(wheel), CONSTRAINTS.read_text())
        below = kept(f"layer-needs-{extra}-{needs}.tar", lambda file: _dependencies(file, wheel, extra))
        ours = hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]
        above = kept(f"layer-wheel-{ours}.tar", lambda file: _pip(file, "--no-deps", str(wheel)))
    for changing in ("image-penstock-*", "layer-penstock-*"):
        forgotten(changing)
    layers = [_python_layer(), below, above]
    begins = ["python3", "-m", f"penstock_{extra}"]
    return _image(f"penstock-{extra}", layers, begins, PYTHONPATH=f"/{SITE}", PYTHONUNBUFFERED="1")


def mariadb() -> Image:
    """A MariaDB with the database `shop`, which `app` may do everything with (see `kubernetes_mariadb`)."""
    packages = "mariadb-server-core,mariadb-client-core,busybox-static"
    return _image(
        "mariadb", [_debian("mariadb", packages, _SLIM, _MARIADB_DATA)], ["sh", "-euc", _MARIADB_START, "sh"]
    )


def _python_layer() -> Path:
    return _debian("python", "python3-minimal,libpython3-stdlib,ca-certificates,busybox-static", _SLIM)


def _debian(title: str, packages: str, *scripts: str) -> Path:
    """A layer of packages and what they depend on, unpacked; `scripts` finish it, with its root as `$1`."""

    def make(file: Path) -> None:
        hooks = ['--setup-hook=mkdir "$1"/proc "$1"/sys', *(f"--extract-hook={script}" for script in scripts)]
        _run("mmdebstrap", "--variant=extract", f"--include={packages}", *hooks, DEBIAN, str(file))

    return kept(f"layer-{title}-{_told(packages, *scripts)}.tar", make)


def _wheel(into: Path) -> Path:
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into), cwd=REPOSITORY)
    (wheel,) = into.glob("*.whl")
    return wheel


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as files:
        (metadata,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        lines = files.read(metadata).decode().splitlines()
    return [line for line in lines if line.startswith("Requires-Dist:")]


def _dependencies(file: Path, wheel: Path, extra: str) -> None:
    """What a role needs beside our wheel: changes seldom, so it is a layer of its own."""
    _pip(file, f"--constraint={CONSTRAINTS}", f"{wheel}[{extra}]", without="penstock*")


def _pip(file: Path, *what: str, without: str = "nothing") -> None:
    """A layer of what pip installs for the image's Python, whichever Python runs here."""
    platforms = [f"--platform=manylinux{tag}_{MACHINE}" for tag in ("_2_28", "_2_17", "2014")]
    target = ["--only-binary=:all:", f"--python-version={PYTHON}", *platforms]
    with tempfile.TemporaryDirectory() as folder:
        quiet = ("--quiet", "--disable-pip-version-check", "--no-compile")
        _run(sys.executable, "-m", "pip", "install", *quiet, f"--target={folder}", *target, *what)
        for ours in Path(folder).glob(without):
            shutil.rmtree(ours)
        _pack(file, Path(folder), SITE)


def _pack(file: Path, what: Path, name: str) -> None:
    """A layer that has a file or a folder at a path, for whichever user the container runs as."""
    with tarfile.open(file, "w") as archive:
        archive.add(what, name, filter=_readable)


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """By all: pip is given a folder that is its maker's alone."""
    entry.mode |= 0o555 if entry.isdir() else 0o444
    return entry


def _image(title: str, layers: list[Path], entrypoint: list[str], **environment: str) -> Image:
    """The image of these layers, from the lowest; its name changes with whatever is in it."""
    digests = [_digest(layer) for layer in layers]
    config = {
        "architecture": ARCHITECTURES[MACHINE],
        "os": "linux",
        "config": {
            "Entrypoint": entrypoint,
            "Env": [f"{name}={value}" for name, value in {"PATH": PATH, **environment}.items()],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
    }
    tag = _told(json.dumps(config))
    name = f"penstock.test/{title}:{tag}"
    inside = dict(zip((f"{digest}.tar" for digest in digests), layers, strict=True))
    archive = kept(f"image-{title}-{tag}.tar", lambda file: _save(file, name, config, inside))
    return Image(name, archive)


def _save(file: Path, name: str, config: dict[str, Any], layers: dict[str, Path]) -> None:
    """Writes an image as `docker save` does."""
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": list(layers)}]
    with tarfile.open(file, "w") as archive:
        for inside, text in (("manifest.json", manifest), ("config.json", config)):
            content = json.dumps(text).encode()
            entry = tarfile.TarInfo(inside)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for inside, layer in layers.items():
            archive.add(layer, inside)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _told(*decides: str) -> str:
    return hashlib.sha256("\0".join(decides).encode()).hexdigest()[:12]


def _run(*command: str, cwd: Path | None = None) -> None:
    if not shutil.which(command[0]):
        raise Missing(f"{command[0]} is needed: apt-get install {command[0]}")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=WITHIN)
    assert done.returncode == 0, f"{' '.join(command)}:\n{(done.stderr or done.stdout)[-4000:]}"
