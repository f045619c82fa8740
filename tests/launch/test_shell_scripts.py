"""Every shell script passes shellcheck, and what also runs on macOS keeps to what is there."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.index import ROOT
from tests.launch.manifests import SCRIPT, TOOLS
from tests.limits import LIMIT_S

NEWER = {
    r"\b(mapfile|readarray|coproc)\b": "bash 4.0",
    r"\b(declare|local|typeset)\s+-\w*A": "associative arrays: bash 4.0",
    r"\b(declare|local|typeset)\s+-\w*n": "references: bash 4.3",
    r"\$\{\w+(\[[^]]*\])?(,|\^)": "${name,,} and ${name^^}: bash 4.0",
    r"\$\{\w+(\[[^]]*\])?@\w\}": "${name@Q}: bash 4.4",
    r"\[-\d+\]": "an array's end by a negative index: bash 4.3",
    r"&>>|\|&": "bash 4.0",
    r";;?&": "bash 4.0",
    r"\bwait\s+-n": "bash 4.3",
    r"\[\[\s+(!\s+)?-v\b": "bash 4.2",
    r"%\(\S*\)T": "printf's time: bash 4.2",
    r"\$(BASHPID|EPOCH\w+|SRANDOM)": "bash 4.0 and newer",
    r"\bshopt\s+-s\s+(globstar|lastpipe|inherit_errexit)": "bash 4.0 and newer",
    r'(?<![+\w])"\$\{\w+\[@\]\}"': "an array that may be empty, under set -u: bash 4.4",
}
"""what bash 3.2, macOS's, does not know, with what knows it"""
GNU = {
    r"\breadlink\s+-f|\brealpath\b": "readlink -f, realpath",
    r"\bsed\s+(-\w+\s+)*(-\w*[ir]|--in-place)": "sed -i, -r",
    r"\bgrep\s+-\w*P": "grep -P",
    r"\bdate\s+(-d|--)": "date -d",
    r"\bxargs\s+(-r|--)": "xargs -r",
    r"\b(timeout|tac|setsid|setpriv|flock|nproc|numfmt|md5sum|sha256sum)\s": "programs of Linux",
    r"\bsort\s+-\w*V": "sort -V",
    r"\bcp\s+(-\w*[at]|--)": "cp -a, -t",
    r"\bmktemp\s+(-\w*[pt]\b|--)": "mktemp -p, -t",
    r"\bstat\s+-c|\bbase64\s+-w|\bhead\s+-n\s+-|\bfind\s.*-printf": "GNU's own flags",
}
"""what macOS's programs do not know"""


def scripts() -> Iterator[Path]:
    """Every bash script of the checkout."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if (not f.startswith(".") or f == ".ci") and not f.startswith("bazel-")]
        for path in (Path(folder, name) for name in files):
            if path.suffix in ("", ".sh") and path.read_bytes()[:64].startswith(b"#!/usr/bin/env bash"):
                yield path


def code(text: str) -> str:
    """A script's text without its comments."""
    return re.sub(r"(?m)(^|\s)#.*$", "", text)


def beyond(text: str, table: dict[str, str]) -> list[str]:
    """What of the table a script uses."""
    return [f"{found.group()}: {said}" for pattern, said in table.items() for found in re.finditer(pattern, code(text))]


def test_shellcheck_has_nothing_to_say() -> None:
    found = sorted(scripts())
    names = {str(path.relative_to(ROOT)) for path in found}
    assert {"run", "setup.sh", "launch/local.sh", "launch/kubernetes.sh"} <= names
    ended = subprocess.run(
        [TOOLS / "shellcheck", "--severity=style", *found], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert (ended.returncode, ended.stdout) == (0, "")


def test_shellcheck_finds_what_is_wrong(tmp_path: Path) -> None:
    script = tmp_path / "a.sh"
    script.write_text("#!/usr/bin/env bash\nrm $1\n")
    assert subprocess.run([TOOLS / "shellcheck", script], capture_output=True, timeout=LIMIT_S).returncode == 1


def test_kubernetes_sh_keeps_to_what_macos_has() -> None:
    text = SCRIPT.read_text()
    assert beyond(text, NEWER) == []
    assert beyond(text, GNU) == []


@pytest.mark.parametrize(
    "line",
    [
        "mapfile -t a <b",
        "declare -A a",
        "local -n a=b",
        "echo ${a,,}",
        "echo ${a^}",
        "echo ${a[-1]}",
        "a &>>b",
        "a |& b",
        "wait -n",
        "[[ -v a ]]",
        "printf '%(%s)T'",
        'for x in "${a[@]}"; do :; done',
        "readlink -f a",
        "sed -i s/a/b/ c",
        "sed -E -i s/a/b/ c",
        "grep -oP a b",
        "date -d now",
        "timeout 5 a",
        "cp -a b c",
        "mktemp -p b",
    ],
)
def test_what_macos_lacks_is_found(line: str) -> None:
    assert beyond(line, NEWER | GNU)


@pytest.mark.parametrize(
    "line", ['echo ${1+"$@"}', 'echo ${a[@]+"${a[@]}"}', "# mapfile", 'cp -R a "$b"', "sed -n 1p a", "a 2>&1 | b"]
)
def test_what_macos_has_is_not(line: str) -> None:
    assert beyond(line, NEWER | GNU) == []
