"""Tests that run under pytest, and tests that a library imports no more than it declares."""

load("@pypi//:requirements.bzl", "requirement")
load("@rules_python//python:defs.bzl", "py_test")

_PROGRAMS = {
    "pytest_main.py": """\
import os
import sys

import pytest

# A process that multiprocessing spawns imports this file again.
if __name__ == "__main__":
    args = ["-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir=."]
    for variable, option in {
        "TEST_TMPDIR": "--basetemp={}/pytest",
        "XML_OUTPUT_FILE": "--junitxml={}",
        "TESTBRIDGE_TEST_ONLY": "-k={}",  # bazel test --test_filter
    }.items():
        if variable in os.environ:
            args.append(option.format(os.environ[variable]))
    sys.exit(pytest.main(args + sys.argv[1:]))
""",
    "import_main.py": """\
import importlib
import pathlib
import sys

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    print("import", path)
    importlib.import_module(".".join(path.with_suffix("").parts))
""",
}

def _program_impl(ctx):
    ctx.actions.write(ctx.outputs.out, ctx.attr.content)

_program = rule(
    implementation = _program_impl,
    attrs = {
        "content": attr.string(),
        "out": attr.output(),
    },
)

def programs():
    """The mains of the tests below; called once, by //tools."""
    for out, content in _PROGRAMS.items():
        _program(
            name = out[:-len(".py")],
            out = out,
            content = content,
            visibility = ["//visibility:public"],
        )

def pytest_test(name, src, deps = [], args = [], **kwargs):
    """Runs one test file; pytest's own options are args, or --test_arg on the command line."""
    main = "//tools:pytest_main.py"
    py_test(
        name = name,
        srcs = [main, src],
        args = ["$(rootpath %s)" % src] + args,
        main = main,
        deps = deps + [requirement("pytest")],
        **kwargs
    )

def imports_test(name, library, **kwargs):
    """Imports each module of a library's folder with only its declared dependencies in reach."""
    main = "//tools:import_main.py"
    py_test(
        name = name,
        srcs = [main],
        args = [Label(library).package],
        main = main,
        deps = [library],
        **kwargs
    )
